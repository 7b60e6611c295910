"""Readers of single public data sets whose rows are unlike all others: HH-RLHF, its strengths, PKU-SafeRLHF, TL;DR.

Every reader raises `DataError` for a row that is not of its format; the error names the field.
"""

from typing import Any

from lit_rlhf.data.errors import DataError, UnsettledError
from lit_rlhf.data.fields import (
    Row,
    describe,
    field,
    filled,
    has,
    number,
    prompt,
    reply,
    require,
    split_pair,
    text,
)
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.transcripts import parse_prompt, parse_reply, parse_transcript


def read_hh(row: Row) -> Record:
    r"""HH-RLHF: whole transcripts in ``chosen`` and ``rejected``; or one in ``prompt``, with plain replies or none.

    Turns begin with ``Human:`` or ``Assistant:`` after a blank line (Bai et al. 2022, arXiv:2204.05862).
    Blanks around a turn are not part of it.
    """
    if not has(row, "prompt"):
        chosen, rejected = (parse_transcript(text(require(row, name), name), name) for name in ("chosen", "rejected"))
        return Record(*split_pair(chosen, rejected))
    asked = parse_prompt(text(row["prompt"], "prompt"), "prompt")
    if has(row, "chosen") or has(row, "rejected"):
        chosen, rejected = (parse_reply(text(require(row, name), name), name) for name in ("chosen", "rejected"))
        return Record(asked, chosen, rejected)
    name = next((name for name in ("response", "completion") if has(row, name)), None)
    return Record(asked, chosen=parse_reply(text(row[name], name), name) if name else None)


def read_hh_strength(row: Row) -> Record:
    """HH-RLHF with the scores of ten reward models (Wang et al. 2024, arXiv:2401.06080).

    ``chosen`` and ``rejected`` are lists of plain turns that alternate from the user on and end with the
    response. ``mean preference difference`` becomes the strength (the mean score difference where it is absent),
    and a judge's verdict in ``GPT4 label`` (1: chosen, 0: rejected) goes into ``meta['gpt4_label']``.
    """
    spaced = {name.replace("_", " "): name for name in row}

    def named(name: str) -> str:
        return spaced.get(name, name)

    asked, chosen, rejected = split_pair(_turns(row, "chosen"), _turns(row, "rejected"))
    better, worse = _scores(row, named("chosen score list")), _scores(row, named("rejected score list"))
    if len(better) != len(worse):
        message = f"{len(worse)} scores against {len(better)} of the chosen response"
        raise DataError(message, field(named("rejected score list")))
    given = row.get(named("mean preference difference"))
    mean = (sum(better) - sum(worse)) / len(better)
    strength = number(mean if given is None else given, named("mean preference difference"))
    verdict = row.get(named("GPT4 label"))
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
    if label == "better_response_id" and not has(row, label) and has(row, "safer_response_id"):
        meaning = "If the safer response is the better one"
        raise UnsettledError(
            "missing; the row only says which response is safer", field(label), meaning, "label", "safer"
        )
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
    body = next((name for name in ("post", "article") if has(info, name)), None)
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
    return tuple(
        Message("assistant" if i % 2 else "user", text(turn, f"{name}[{i}]").strip()) for i, turn in enumerate(turns)
    )


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
