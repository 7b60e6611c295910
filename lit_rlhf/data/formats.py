"""The known formats of preference data by name, what tells them apart, and how to add your own.

A format is a reader (row to `Record`) and a detector (does this row look like it?). Adding one takes a function
and a line::

    from lit_rlhf.data import fields
    from lit_rlhf.data.formats import register_format

    def read_mine(row):
        good, bad = (fields.filled(fields.require(row, name), name) for name in ("good", "bad"))
        return Record(fields.prompt(fields.require(row, "question"), "question"), good, bad)

    register_format("mine", read_mine, detect=lambda row: "good" in row and "bad" in row)

after which ``PairFiles("mine.jsonl")`` recognises it and ``format: mine`` names it. The accessors in
`lit_rlhf.data.fields` raise errors that name the field; the file and the line are added for you.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable

from lit_rlhf.data import readers
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import Row, has
from lit_rlhf.data.records import Record
from lit_rlhf.data.transcripts import is_open_transcript, is_transcript

Reader = Callable[[Row], Record]
Detector = Callable[[Row], bool]

FORMATS: dict[str, Reader] = {}
"""Readers by name. Add to it through `register_format`."""

_DETECTORS: dict[str, Detector] = {}


def register_format(name: str, reader: Reader, detect: Detector | None = None) -> None:
    """Add a format, or replace the one of the same name.

    Args:
        name: What ``format:`` calls it.
        reader: Turns a row into a `Record` and raises `DataError` for a row that it cannot read. The record's
            source, location and id are filled in by the caller.
        detect: Whether a row, with whatever fields and values, looks like this format. The format that was
            registered last is asked first. Without a detector the format has to be named.
    """
    FORMATS.pop(name, None)
    _DETECTORS.pop(name, None)
    FORMATS[name] = reader
    if detect is not None:
        _DETECTORS[name] = detect


def get_reader(name: str) -> Reader:
    """The reader of a format.

    Raises:
        DataError: If no format has this name; the message lists those that are known.
    """
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else ""
        raise DataError(f"unknown format '{name}'; known are {', '.join(FORMATS)}", "format", hint)
    return FORMATS[name]


def detect_format(row: Row) -> str | None:
    """The name of the format that a row looks like, or None."""
    return next((name for name, detect in reversed(_DETECTORS.items()) if detect(row)), None)


def common_format(rows: Iterable[Row]) -> str | None:
    """The format that most of the rows look like (among equals, the one seen first), or None."""
    votes = Counter(name for row in rows if (name := detect_format(row)) is not None)
    return max(votes, key=votes.__getitem__, default=None)


def _has_lists(row: Row, *names: str) -> bool:
    return all(isinstance(row.get(name), list) for name in names)


def _is_bare_prompt(row: Row) -> bool:
    answers = ("chosen", "rejected", "response", "completion", "messages", "conversations")
    return has(row, "prompt") and not any(name.startswith(answers) for name in row)


def _is_demonstration(row: Row) -> bool:
    if has(row, "chosen") or has(row, "rejected"):
        return False
    whole = has(row, "messages") or has(row, "conversations")
    return whole or (has(row, "prompt") and (has(row, "response") or has(row, "completion")))


def _is_hh(row: Row) -> bool:
    if has(row, "prompt"):
        return is_open_transcript(row["prompt"])
    return is_transcript(row.get("chosen")) and is_transcript(row.get("rejected"))


def _is_strength(row: Row) -> bool:
    return {"chosen score list", "rejected score list"} <= {name.replace("_", " ") for name in row}


def _is_ultrafeedback(row: Row) -> bool:
    return _has_lists(row, "chosen", "rejected") and {"score_chosen", "score_rejected"} <= row.keys()


def _is_safe_rlhf(row: Row) -> bool:
    labels = {"better_response_id", "safer_response_id"}
    return {"response_0", "response_1"} <= row.keys() and not labels.isdisjoint(row)


# From the general to the special, because the last is asked first.
register_format("prompt", readers.read_prompt, _is_bare_prompt)
register_format("demonstration", readers.read_demonstration, _is_demonstration)
register_format(
    "implicit", readers.read_implicit, lambda row: has(row, "chosen", "rejected") and not has(row, "prompt")
)
register_format("explicit", readers.read_explicit, lambda row: has(row, "prompt", "chosen", "rejected"))
register_format(
    "conversational", readers.read_conversational, lambda row: _has_lists(row, "prompt", "chosen", "rejected")
)
register_format("hh", readers.read_hh, _is_hh)
register_format("hh-strength", readers.read_hh_strength, _is_strength)
register_format("ultrafeedback-binarized", readers.read_ultrafeedback, _is_ultrafeedback)
register_format("safe-rlhf", readers.read_safe_rlhf, _is_safe_rlhf)
register_format("tldr", readers.read_tldr, lambda row: has(row, "info", "summaries"))
