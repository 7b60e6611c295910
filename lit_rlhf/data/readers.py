"""The readers of the public formats: one small function each, from a row to a `Record`.

Every reader raises `DataError` for a row that is not of its format; the error names the field.
`lit_rlhf.data.formats` knows which reader fits which row.
"""

import re
from dataclasses import replace
from itertools import takewhile
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import (
    Row,
    describe,
    field,
    filled,
    has,
    messages,
    number,
    prompt,
    reply,
    require,
    split_pair,
    split_reply,
    text,
)
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.transcripts import parse_prompt, parse_reply, parse_transcript


def read_prompt(row: Row) -> Record:
    """``prompt`` alone, as text or messages."""
    return Record(prompt(require(row, "prompt")))


def read_demonstration(row: Row) -> Record:
    """``prompt`` with ``response`` or ``completion``; or ``messages`` that end with the assistant's turn."""
    name = _first(row, "response", "completion", "messages", "conversations") or "response"
    if name in ("messages", "conversations"):
        asked, answer = split_reply(messages(row[name], name), name)
    else:
        asked = prompt(require(row, "prompt"))
        answer = reply(require(row, name), name, asked)
    return Record(asked, chosen=answer)


def read_explicit(row: Row) -> Record:
    """``prompt``, ``chosen`` and ``rejected``, each as text or messages; ``tie`` may say that neither is better."""
    asked = prompt(require(row, "prompt"))
    chosen, rejected = (reply(require(row, name), name, asked) for name in ("chosen", "rejected"))
    return Record(asked, chosen, rejected, tie=_is_tie(row))


def read_conversational(row: Row) -> Record:
    """``prompt``, ``chosen`` and ``rejected``, all as messages."""
    for name in ("prompt", "chosen", "rejected"):
        messages(require(row, name), name)
    return read_explicit(row)


def read_implicit(row: Row) -> Record:
    """``chosen`` and ``rejected`` that both begin with the prompt, as messages or as text.

    Text is parted at the last blank before the two begin to differ, so that no word is torn.
    """
    chosen, rejected = require(row, "chosen"), require(row, "rejected")
    if isinstance(chosen, list):
        asked, better, worse = split_pair(messages(chosen, "chosen"), messages(rejected, "rejected"))
        return Record(asked, better, worse, tie=_is_tie(row))
    if text(chosen, "chosen") == text(rejected, "rejected"):
        message = "the same as 'chosen', so nothing shows where the prompt ends; give a field 'prompt'"
        raise DataError(message, field("rejected"), _prompt_elsewhere(row))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(f"{chosen} ", f"{rejected} ", strict=False))
    shared = re.match(r"(.*\S)\s", "".join(letter for letter, _ in same), re.DOTALL)
    if shared is None:
        message = "does not begin with the same words as 'chosen'; give a field 'prompt'"
        raise DataError(message, field("rejected"), _prompt_elsewhere(row))
    better = filled(chosen[shared.end(1) :], "chosen").strip()
    worse = filled(rejected[shared.end(1) :], "rejected").strip()
    return Record((Message("user", shared[1]),), better, worse, tie=_is_tie(row))


def _prompt_elsewhere(row: Row) -> str:
    """How to name the field that the prompt stands in, if there is one that it may stand in."""
    others = [name for name, value in row.items() if name not in ("chosen", "rejected") and isinstance(value, str)]
    if not others:
        return ""
    named = f"--data.sources PairFiles --data.sources.path FILE --data.sources.fields.prompt {others[0]}"
    return f"Is {others[0]!r} the prompt? Then say so: {named}"


def read_ultrafeedback(row: Row) -> Record:
    """UltraFeedback, binarised: message lists with ``score_chosen`` and ``score_rejected``; equal scores are a tie."""
    record = read_explicit(row) if has(row, "prompt") else read_implicit(row)
    better, worse = (number(require(row, name), name) for name in ("score_chosen", "score_rejected"))
    return replace(record, chosen_scores=(better,), rejected_scores=(worse,), tie=better == worse)


def read_hh(row: Row) -> Record:
    r"""HH-RLHF: whole transcripts in ``chosen`` and ``rejected``; or one in ``prompt``, with plain replies or none.

    Turns begin with ``Human:`` or ``Assistant:`` after a blank line (Bai et al. 2022, arXiv:2204.05862).
    Blanks around a turn are not part of it.
    """
    if not has(row, "prompt"):
        whole = (parse_transcript(text(require(row, name), name), name) for name in ("chosen", "rejected"))
        asked, chosen, rejected = split_pair(*whole)
        return Record(asked, chosen, rejected, tie=_is_tie(row))
    asked = parse_prompt(text(row["prompt"], "prompt"), "prompt")
    if has(row, "chosen") or has(row, "rejected"):
        chosen, rejected = (parse_reply(text(require(row, name), name), name) for name in ("chosen", "rejected"))
        return Record(asked, chosen, rejected, tie=_is_tie(row))
    name = _first(row, "response", "completion")
    return Record(asked, chosen=parse_reply(text(row[name], name), name) if name else None)


def read_hh_strength(row: Row) -> Record:
    """HH-RLHF with the scores of ten reward models (Wang et al. 2024, arXiv:2401.06080).

    ``chosen`` and ``rejected`` are lists of plain turns that alternate from the user on and end with the
    response. ``mean preference difference`` becomes the strength (the mean score difference where it is absent),
    and a judge's verdict in ``GPT4 label`` (1: chosen, 0: rejected) goes into ``meta['gpt4_label']``.
    """
    row = {name.replace("_", " "): value for name, value in row.items()}
    asked, chosen, rejected = split_pair(_turns(row, "chosen"), _turns(row, "rejected"))
    better, worse = _scores(row, "chosen score list"), _scores(row, "rejected score list")
    if len(better) != len(worse):
        message = f"{len(worse)} scores against {len(better)} of the chosen response"
        raise DataError(message, field("rejected score list"))
    given = row.get("mean preference difference")
    mean = (sum(better) - sum(worse)) / len(better)
    strength = number(mean if given is None else given, "mean preference difference")
    verdict = row.get("GPT4 label")
    meta = {"gpt4_label": int(verdict)} if isinstance(verdict, int | float) and verdict in (0, 1) else {}
    return Record(asked, chosen, rejected, chosen_scores=better, rejected_scores=worse, strength=strength, meta=meta)


def read_safe_rlhf(row: Row, label: str = "better_response_id") -> Record:
    """PKU-SafeRLHF: ``response_0`` and ``response_1``, of which ``label`` names the preferred one.

    Args:
        row: The row.
        label: The field with the number of the preferred response: ``better_response_id`` for helpfulness,
            ``safer_response_id`` for harmlessness (Dai et al. 2023, arXiv:2310.12773).
    """
    asked = prompt(require(row, "prompt"))
    responses = [reply(require(row, name), name, asked) for name in ("response_0", "response_1")]
    best = _index(row, label)
    return Record(asked, responses[best], responses[1 - best])


def read_tldr(row: Row) -> Record:
    """TL;DR comparisons (Stiennon et al. 2020, arXiv:2009.01325): ``info``, two ``summaries`` and the ``choice``.

    The prompt is the post under the headings of the paper's appendix, then ``TL;DR:``; a news article, which
    some of the comparisons are about, takes the place of the post.
    """
    info, summaries = require(row, "info"), require(row, "summaries")
    if not isinstance(info, dict):
        raise DataError(f"expected an object, found {describe(info)}", field("info"))
    if not isinstance(summaries, list) or len(summaries) != 2:
        found = f"{len(summaries)} of them" if isinstance(summaries, list) else describe(summaries)
        raise DataError(f"expected a list of two summaries, found {found}", field("summaries"))
    texts = [_summary(item, f"summaries[{index}]") for index, item in enumerate(summaries)]
    best = _index(row, "choice")
    return Record((Message("user", _post(info)),), texts[best], texts[1 - best])


def _post(info: Row) -> str:
    body = _first(info, "post", "article")
    if body is None:
        raise DataError("missing, and so is 'info.article'", field("info.post"))
    headings = {"SUBREDDIT": "subreddit", "TITLE": "title", body.upper(): body}
    given = [(heading, text(info[name], f"info.{name}")) for heading, name in headings.items() if has(info, name)]
    lines = [f"{heading}: {'r/' if heading == 'SUBREDDIT' else ''}{content.strip()}" for heading, content in given]
    return "\n\n".join([*lines, "TL;DR:"])


def _summary(item: Any, name: str) -> str:
    if not isinstance(item, dict):
        raise DataError(f"expected an object with 'text', found {describe(item)}", field(name))
    return filled(item.get("text"), f"{name}.text").strip()


def _turns(row: Row, name: str) -> tuple[Message, ...]:
    turns = require(row, name)
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        found = f"{len(turns)} of them" if isinstance(turns, list) else describe(turns)
        raise DataError(f"expected an even number of turns, user and assistant in turn, found {found}", field(name))
    roles = ("user", "assistant")
    return tuple(Message(roles[i % 2], text(turn, f"{name}[{i}]").strip()) for i, turn in enumerate(turns))


def _scores(row: Row, name: str) -> tuple[float, ...]:
    scores = require(row, name)
    if not isinstance(scores, list) or not scores:
        raise DataError(f"expected a list of scores, found {describe(scores)}", field(name))
    return tuple(number(score, f"{name}[{index}]") for index, score in enumerate(scores))


def _index(row: Row, name: str) -> int:
    found = require(row, name)
    if isinstance(found, bool) or found not in (0, 1):
        shown = found if isinstance(found, int | float) else describe(found)
        raise DataError(f"expected 0 or 1, found {shown}", field(name))
    return int(found)


def _first(row: Row, *names: str) -> str | None:
    return next((name for name in names if has(row, name)), None)


def _is_tie(row: Row) -> bool:
    return row.get("tie") is True
