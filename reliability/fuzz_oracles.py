"""What a right record is, told without the code under test: plain second readers of every format."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from lit_rlhf.data.records import Record
from reliability.fuzz_numbers import check_numbers, graded_list
from reliability.fuzz_plain import (
    Columns,
    Turn,
    answer,
    asked,
    columns,
    demand,
    first,
    head,
    in_turn,
    is_dialogue,
    is_whole,
    only,
    prompt,
    response,
    sides,
    talk,
    talk_column,
    transcript,
    turns,
)
from reliability.fuzz_verdicts import numbered, steps, with_turns
from reliability.fuzz_words import ANSWERS, BAD_WORDS, GOOD_WORDS, LABELS, MARKS, MARKS_OF_BAD, REJECTED

Found = tuple[list[Turn], Any, Any]
"""Prompt, chosen and rejected response."""


def check_record(name: str, row: dict[str, Any], record: Record) -> None:
    """Compare a record with what a plain second reader finds in the row.

    Wrong is: another prompt, chosen or rejected text (for transcripts: other words or other speakers), chosen and
    rejected exchanged, scores, grades or a strength that are not the row's, a blank response, or a prompt that neither
    the user nor a tool ends.
    """
    demand(name != "stepwise", "steps are no preferences", row)
    demand(record.prompt[-1].role in ("user", "tool"), "the prompt is not the user's", record)
    for text in (record.chosen, record.rejected):
        demand(text is None or bool(text.strip()), "a blank response", record)
    given = with_turns(columns(row)) if name == "compared" else columns(row)
    before, chosen, rejected = _PLAIN[name](row, given)
    found = (conversation(record), record.chosen, record.rejected)
    expected = ([*head(given, before), *before], chosen, rejected)
    demand(_same(found, expected, name), f"{name}: not what is written", found, expected)
    check_numbers(name, row, given, record)


def conversation(record: Record) -> list[Turn]:
    """The prompt as (role, text, what else)."""
    return [
        (turn.role, json.loads(turn.content) if turn.role == "tools" else turn.content, json.loads(turn.extra or "{}"))
        for turn in record.prompt
    ]


def _same(found: Any, expected: Any, name: str) -> bool:
    if name in ("implicit", "tldr"):  # blanks where prompt and response are parted, and headings, are the reader's
        return [_words(part) for part in found] == [_words(part) for part in expected]
    return repr(found) == repr(expected)  # a NaN among a tool's arguments is the same one


def _words(part: Any) -> Any:
    if isinstance(part, list):
        return [(role, text.split() if role != "tools" else text, extra) for role, text, extra in part]
    return part and part.split()


# ---------------------------------------------------------------------- one plain reader per format


def _explicit(row: dict[str, Any], given: Columns) -> Found:
    pair, whole, worse = sides(given), talk_column(given), first(given, REJECTED)
    if pair is None and whole is not None and worse is not None and is_dialogue(given[whole]):
        *before, last = turns(given[whole])
        return before, answer(last), response(only(given[worse]), before)
    assert pair is not None
    values = [given[name] for name in pair]
    if not any(map(is_whole, values)):
        before = asked(given)
        return before, *(response(only(value), before) for value in values)
    before, *answers = _of_conversations(values)
    shown = turns(row["prompt"]) if row.get("prompt") is not None and isinstance(talk(row["prompt"]), list) else before
    shorter, longer = sorted((shown, before), key=len)
    demand(longer[len(longer) - len(shorter) :] == shorter, "another prompt", row)
    return longer, answers[0], answers[1]


def _of_conversations(values: list[Any]) -> list[Any]:
    """The prompt and two responses, of which one or both stand behind the prompt."""
    *before, _ = turns(next(value for value in values if is_whole(value)))
    for value in values:
        demand(not is_whole(value) or turns(value)[:-1] == before, "two prompts", values)
    return [before, *(answer(turns(v)[-1]) if is_whole(v) else response(only(v), before) for v in values)]


def _implicit(row: dict[str, Any], given: Columns) -> Found:
    pair = sides(given)
    assert pair is not None
    chosen, rejected = (given[name] for name in pair)
    if is_whole(chosen) or is_whole(rejected):
        before, *answers = _of_conversations([chosen, rejected])
        return before, answers[0], answers[1]
    if isinstance(chosen, list):
        demand(chosen[:-1] == rejected[:-1], "two prompts", row)
        return in_turn(chosen[:-1]), chosen[-1], rejected[-1]
    shared = f"{chosen} "
    while shared and not (f"{rejected} ".startswith(shared) and shared[-1:].isspace()):
        shared = shared[:-1]  # back to the last blank that both have
    shared = shared.rstrip()
    return [("user", shared, {})], chosen[len(shared) :], rejected[len(shared) :]


def _unprompted(row: dict[str, Any], given: Columns) -> Found:
    pair = sides(given)
    assert pair is not None
    return [("user", "", {})], only(given[pair[0]]), only(given[pair[1]])


def _hh(row: dict[str, Any], given: Columns) -> Found:
    if row.get("prompt") is None:
        chosen, rejected = transcript(row["chosen"]), transcript(row["rejected"])
        demand(chosen[:-1] == rejected[:-1], "two prompts", row)
        return chosen[:-1], chosen[-1][1], rejected[-1][1]
    before = transcript(row["prompt"])
    before = before[:-1] if before[-1][:2] == ("assistant", "") else before
    pair = [row.get(name) for name in ("chosen", "rejected")]
    answers = [row[name] for name in ("response", "completion") if row.get(name) is not None]
    found = pair if any(each is not None for each in pair) else [*answers[:1], None, None][:2]
    return before, *(None if each is None else transcript(f"Assistant: {each}")[0][1] for each in found)


def _hh_strength(row: dict[str, Any], given: Columns) -> Found:
    said = [("user" if i % 2 == 0 else "assistant", text.strip(), {}) for i, text in enumerate(row["chosen"])]
    return said[:-1], said[-1][1], row["rejected"][-1].strip()


def _safe(row: dict[str, Any], given: Columns) -> Found:
    best, before = int(row["better_response_id"]), prompt(row["prompt"])
    return before, *(response(row[f"response_{place}"], before) for place in (best, 1 - best))


def _tldr(row: dict[str, Any], given: Columns) -> Found:
    info, best = row["info"], int(row["choice"])
    parts = [f"SUBREDDIT: r/{info['subreddit'].strip()}"] if info.get("subreddit") is not None else []
    parts += [f"TITLE: {info['title']}"] if info.get("title") is not None else []
    body = "post" if info.get("post") is not None else "article"
    parts += [f"{body.upper()}: {info[body]}", "TL;DR:"]
    return [("user", " ".join(parts), {})], row["summaries"][best]["text"], row["summaries"][1 - best]["text"]


def _demonstration(row: dict[str, Any], given: Columns) -> Found:
    whole, name = talk_column(given), first(given, ANSWERS)
    if whole is not None and ((name is None and row.get("prompt") is None) or is_dialogue(given[whole])):
        found = turns(given[whole])
        if found[-1][0] == "assistant" or name is None:
            return found[:-1], answer(found[-1]), None
    before = asked(given, transcripts=True)
    return before, response(given[name or "response"], before), None


def _marked(row: dict[str, Any], given: Columns) -> Found:
    before, text, _ = _demonstration(row, given)
    able = [name for name in (*MARKS, *MARKS_OF_BAD, *LABELS) if name in given]
    plain = [name for name in able if _mark(given[name], name not in LABELS) is not None]
    name = [*plain, *able][0]
    good = _mark(given[name])
    demand(good is not None, "a mark that means nothing", given[name])
    return (before, text, None) if good != (name == first(given, MARKS_OF_BAD)) else (before, None, text)


def _mark(value: Any, numbers: bool = True) -> bool | None:
    """What a mark says; None for what says nothing."""
    said = str(value).strip().lower()
    good = said in GOOD_WORDS or (numbers and said in ("1", "1.0"))
    bad = said in BAD_WORDS or (numbers and said in ("0", "0.0", "-1", "-1.0"))
    return good if good or bad else None


def _compared(row: dict[str, Any], given: Columns) -> Found:
    names = numbered(given)
    demand(len(names) == 2, "not two of them", row)
    values = [given[name] for name in names]
    if any(map(is_whole, values)):
        before, *answers = _of_conversations(values)
    else:
        before = asked(given, transcripts=True)
        answers = [response(only(value), before) for value in values]
    return (before, *answers) if steps(given) >= 0 else (before, *answers[::-1])  # type: ignore[return-value]


def _graded(name: str, row: dict[str, Any], given: Columns) -> Found:
    texts, grades = graded_list(name, given)
    before = asked(given, transcripts=True)
    if len(texts) < 2:
        return before, texts[0], None
    if len(set(grades)) == 1:
        return before, texts[0], texts[1]
    worst = len(grades) - 1 - grades[::-1].index(min(grades))
    return before, texts[grades.index(max(grades))], texts[worst]


_Plain = Callable[[dict[str, Any], Columns], Found]
_PLAIN: dict[str, _Plain] = {
    "prompt": lambda row, given: (asked(given), None, None),
    "demonstration": _demonstration,
    "marked": _marked,
    "explicit": _explicit,
    "conversational": _explicit,
    "implicit": _implicit,
    "unprompted": _unprompted,
    "compared": _compared,
    "graded": partial(_graded, "graded"),
    "ranked": partial(_graded, "ranked"),
    "hh": _hh,
    "hh-strength": _hh_strength,
    "ultrafeedback-binarized": _explicit,
    "safe-rlhf": _safe,
    "tldr": _tldr,
}
