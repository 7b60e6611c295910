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
from functools import partial

from lit_rlhf.data import columns, graded_readers, prompt_readers, public_readers, readers
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import Row, has, said
from lit_rlhf.data.records import Record
from lit_rlhf.data.transcripts import is_open_transcript, is_transcript
from lit_rlhf.data.verdicts import FirstWins, best_of, one_hot, verdict_column

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


# ---------------------------------------------------------------------- what tells the formats apart


def _has_lists(row: Row, *names: str) -> bool:
    return all(isinstance(said(dict.get(row, name)), list) for name in names)


def _is_bare_prompt(row: Row) -> bool:
    return prompt_readers.prompt_of(row) is not None and not has_responses(row)


def has_responses(row: Row) -> bool:
    """Whether the row has a column that goes by the name of a response, or of several."""
    stems = (
        *("chosen", "rejected", "response", "completion", "candidate", "generation", "output", "good", "bad"),
        *("answers", "best_", "correct_", "incorrect_", "ideal", "flawed", "winner", "loser"),
    )
    known = columns.names(row)
    named = any(name.startswith(stems) or name in columns.ANSWERS for name in known if columns.find(row, [name]))
    whole = prompt_readers.conversation_column(row)
    ended = whole is not None and prompt_readers.is_whole(row, whole) and prompt_readers.is_answered(row, whole)
    return named or ended or columns.sides(row) is not None or columns.numbered(row) is not None


def _is_demonstration(row: Row) -> bool:
    return answers_once(row) and not is_labelled(row)


def answers_once(row: Row) -> bool:
    """Whether the row has one response, in a column of its own or at the end of its messages."""
    if any(name.startswith(("chosen", "rejected")) and columns.find(row, [name]) for name in columns.names(row)):
        return False
    whole = prompt_readers.conversation_column(row)
    if whole is not None and not has(row, "prompt") and columns.find(row, columns.ANSWERS) is None:
        return prompt_readers.is_whole(row, whole)
    answer = columns.find(row, columns.ANSWERS)
    single = answer is not None and columns.is_answer(row[answer])
    answered = whole is not None and prompt_readers.is_whole(row, whole)
    return answered or (single and prompt_readers.prompt_of(row) not in (None, answer))


def _is_marked(row: Row) -> bool:
    return answers_once(row) and readers.mark_column(row) is not None


def is_labelled(row: Row) -> bool:
    """Whether a number stands beside one response that may mark it as good or bad, or mean anything else."""
    label = columns.find(row, columns.LABELS)
    if label is None or readers.mark_column(row) is not None or not answers_once(row):
        return False
    return str(row[label]).strip() in readers.MARK_NUMBERS


def _is_explicit(row: Row) -> bool:
    if readers.lone_rejected(row) is not None:
        return True
    pair = columns.sides(row)
    if pair is None or not all(columns.is_answer(readers.only(row[name])) for name in pair):
        return False
    return prompt_readers.prompt_of(row) not in (None, *pair)


def _is_implicit(row: Row) -> bool:
    """Conversations that begin alike; of mere texts, nobody knows where the prompt ends."""
    pair = columns.sides(row)
    if pair is None or prompt_readers.prompt_of(row) is not None:
        return False
    plain = all(columns.is_plain_turns(row[name]) for name in pair) and row[pair[0]][:-1] == row[pair[1]][:-1]
    return plain or any(columns.is_whole(row[name]) for name in pair)


def _is_compared(row: Row) -> bool:
    found = columns.numbered(row)
    if found is None or len(found.columns) != 2 or not _can_be_asked(row, found.columns):
        return False
    scored = found.beside(row, ("score", "rating", "reward", "grade", "rank")) is not None
    return scored or verdict_column(row, found) is not None or one_hot(row, found) is not None


def _can_be_asked(row: Row, responses: Iterable[object]) -> bool:
    """Whether a prompt stands beside the responses, or within them."""
    return prompt_readers.prompt_of(row) is not None or all(columns.is_whole(dict.get(row, each)) for each in responses)


def _is_graded(row: Row) -> bool:
    if prompt_readers.prompt_of(row) is None:
        return False
    pair = columns.sides(row)
    if pair is not None:
        return any(columns.is_response_list(readers.only(row[name])) for name in pair)
    found = columns.numbered(row)
    if found is not None:
        graded = found.beside(row, ("score", "rating", "reward", "grade", "rank")) is not None
        return len(found.columns) > 2 and (graded or best_of(row, found) is not None)
    name = columns.response_list(row)
    return name is not None and graded_readers.is_graded_list(row, name)


def _is_stepwise(row: Row) -> bool:
    name, label = columns.response_list(row), columns.find(row, ("labels", "step_labels", "ratings_per_step"))
    marks = row[label] if label is not None else None
    return (
        name is not None
        and isinstance(marks, list)
        and len(marks) == len(row[name])
        and all(isinstance(mark, bool) for mark in marks)
    )


def _is_two_outputs(row: Row) -> bool:
    """Alpaca's older form of pairs: an ``output`` that is a list of the better and the worse one."""
    output = dict.get(row, "output")
    return (
        isinstance(output, list)
        and len(output) == 2
        and has(row, "instruction")
        and all(isinstance(each, str) for each in output)
    )


def _is_hh(row: Row) -> bool:
    if has(row, "prompt"):
        several = columns.response_list(row) is not None or columns.numbered(row) is not None
        plain = columns.find(row, columns.ANSWERS) in (None, "response", "completion")
        marked = readers.mark_column(row) is not None or is_labelled(row)
        return is_open_transcript(row["prompt"]) and plain and not several and not marked
    return is_transcript(row.get("chosen")) and is_transcript(row.get("rejected"))


def _is_strength(row: Row) -> bool:
    named = {str(name).replace("_", " ") for name in row}
    return {"chosen score list", "rejected score list"} <= named and isinstance(row.get("chosen"), list)


def _is_ultrafeedback(row: Row) -> bool:
    return _has_lists(row, "chosen", "rejected") and has(row, "score_chosen", "score_rejected")


def _is_safe_rlhf(row: Row) -> bool:
    labels = {"better_response_id", "safer_response_id"}
    return {"response_0", "response_1"} <= row.keys() and not labels.isdisjoint(row)


def with_options(name: str, label: str = "better", first_wins: str | None = None) -> Reader:
    """The reader of a format, told what its labels mean.

    Args:
        name: The format.
        label: Which of the labels of PKU-SafeRLHF counts, ``better`` or ``safer``.
        first_wins: What a verdict says where the first of two responses is better.

    Raises:
        DataError: If the format has no such labels.
    """
    reader: Reader = get_reader(name)
    if label != "better":
        if name != "safe-rlhf":
            raise DataError(f"'{label}' has a meaning for format 'safe-rlhf' only, not for '{name}'", "label")
        reader = _completed(partial(public_readers.read_safe_rlhf, label="safer_response_id"))
    if first_wins is not None:
        if name != "compared":
            raise DataError(f"has a meaning for format 'compared' only, not for '{name}'", "first_wins")
        reader = _completed(partial(graded_readers.read_compared, first_wins=FirstWins(first_wins)))
    return reader


def _completed(reader: Reader) -> Reader:
    return lambda row: readers.completed(reader(row), row)


def _register(name: str, reader: Reader, detect: Detector | None = None) -> None:
    """Register a reader of the project's own: each also reads the columns that any format may have."""
    register_format(name, _completed(reader), detect)


# From the general to the special, because the last is asked first.
_register("unprompted", readers.read_unprompted)
_register("ranked", graded_readers.read_ranked, _is_two_outputs)
_register("prompt", readers.read_prompt, _is_bare_prompt)
_register("demonstration", readers.read_demonstration, _is_demonstration)
_register("marked", readers.read_marked, _is_marked)
_register("implicit", readers.read_implicit, _is_implicit)
_register("explicit", readers.read_explicit, _is_explicit)
_register("graded", graded_readers.read_graded, _is_graded)
_register("stepwise", graded_readers.read_stepwise, _is_stepwise)
_register("compared", graded_readers.read_compared, _is_compared)
_register("conversational", readers.read_conversational, lambda row: _has_lists(row, "prompt", "chosen", "rejected"))
_register("hh", public_readers.read_hh, _is_hh)
_register("hh-strength", public_readers.read_hh_strength, _is_strength)
_register("ultrafeedback-binarized", readers.read_ultrafeedback, _is_ultrafeedback)
_register("safe-rlhf", public_readers.read_safe_rlhf, _is_safe_rlhf)
_register("tldr", public_readers.read_tldr, lambda row: has(row, "info", "summaries"))
