"""The readers of rows in general: prompts, demonstrations, pairs.

They find columns by their names (`lit_rlhf.data.columns`); a row's values may be texts, messages or lists of messages.
Every reader raises `DataError` for a row that is not of its format; the error names the field.
`lit_rlhf.data.formats` knows which reader fits which row.
"""

import re
from dataclasses import replace
from itertools import takewhile
from typing import Any

from lit_rlhf.data import columns
from lit_rlhf.data.errors import DataError, UnsettledError
from lit_rlhf.data.fields import (
    Row,
    describe,
    ends_with_user,
    field,
    filled,
    has,
    messages,
    numeric,
    reply,
    require,
    said,
    split_pair,
    split_reply,
    text,
)
from lit_rlhf.data.prompt_readers import (
    conversation_column,
    is_whole,
    plain_turns,
    required_prompt,
    system_turn,
    tools_turn,
    turns_of,
)
from lit_rlhf.data.records import Message, Record

MARK_NUMBERS = {"0": False, "0.0": False, "-1": False, "-1.0": False, "1": True, "1.0": True}
"""Numbers by which a response may be marked; tables hold them as texts."""
MARK_WORDS = {
    **dict.fromkeys(("true", "good", "desirable", "chosen", "accepted", "positive", "thumbs_up", "yes", "safe"), True),
    **dict.fromkeys(("false", "bad", "undesirable", "rejected", "negative", "thumbs_down", "no", "unsafe"), False),
}


def read_prompt(row: Row) -> Record:
    """A prompt alone, as text or messages."""
    return Record(required_prompt(row))


def read_demonstration(row: Row) -> Record:
    """A prompt with a response; or messages that end with the assistant's turn."""
    whole = conversation_column(row)
    alone = columns.find(row, columns.ANSWERS) is None and not has(row, "prompt")
    if whole is not None and (alone or is_whole(row, whole)):
        turns = turns_of(row[whole], whole)
        if turns[-1].role == "user" and columns.find(row, columns.ANSWERS) is None:
            message = "the last turn is the user's, not the assistant's"
            raise UnsettledError(
                message, field(whole), "If it is a prompt that waits for an answer", "format", "prompt"
            )
        if turns[-1].role == "assistant" or columns.find(row, columns.ANSWERS) is None:
            return Record(*split_reply(turns, whole))
    name = columns.find(row, columns.ANSWERS) or "response"
    require(row, name)
    asked = required_prompt(row, transcripts=True)
    return Record(asked, chosen=reply(row[name], name, asked))


def read_marked(row: Row) -> Record:
    """A prompt with one response that somebody marked as good or as bad, as for KTO (Ethayarajh et al. 2024).

    A response that is marked as bad is no demonstration: it becomes the rejected one, and nothing is chosen.
    """
    record = read_demonstration(row)
    name = mark_column(row) or columns.find(row, (*columns.MARKS, *columns.BAD_MARKS, *columns.LABELS)) or "label"
    mark = _truth(require(row, name), name) != (name == columns.find(row, columns.BAD_MARKS))
    return record if mark else replace(record, chosen=None, rejected=record.chosen)


def mark_column(row: Row) -> Any | None:
    """The column that says of a row's one response whether it is good, or bad; None where none plainly does."""
    marks = (*columns.MARKS, *columns.BAD_MARKS)
    for name in (*marks, *columns.LABELS):
        column = columns.find(row, [name])
        value = None if column is None else dict.get(row, column)
        word = str(value).strip().lower()
        if isinstance(value, bool) or word in MARK_WORDS or (name in marks and word in MARK_NUMBERS):
            return column
    return None


def read_explicit(row: Row) -> Record:
    """A prompt with a better and a worse response, each as text or messages.

    Where the responses hold the whole conversation, that is the prompt: a column ``prompt`` beside them often repeats
    its first or its last turn.
    """
    if (lone := lone_rejected(row)) is not None:
        asked, chosen = split_reply(turns_of(row[lone[0]], lone[0]), lone[0])
        return Record(asked, chosen, reply(only(row[lone[1]]), lone[1], asked))
    better, worse = _sides(row)
    if any(columns.is_whole(row[name]) for name in (better, worse)):
        return _with_listed_prompt(row, _from_conversations(row, better, worse))
    asked = required_prompt(row)
    chosen, rejected = (reply(only(row[name]), name, asked) for name in (better, worse))
    return Record(asked, chosen, rejected)


def read_conversational(row: Row) -> Record:
    """``prompt``, ``chosen`` and ``rejected``, all as messages."""
    for name in ("prompt", "chosen", "rejected"):
        messages(said(require(row, name)), name)
    return read_explicit(row)


def read_implicit(row: Row) -> Record:
    """``chosen`` and ``rejected`` that both begin with the prompt, as messages or as text.

    Text is parted at the last blank before the two begin to differ, so that no word is torn. As that may be anywhere
    in a prompt or in an answer, it has to be asked for by name.
    """
    better, worse = _sides(row)
    if any(columns.is_whole(row[name]) for name in (better, worse)):
        return _from_conversations(row, better, worse)
    if all(columns.is_plain_turns(row[name]) for name in (better, worse)):
        turns = [plain_turns(row[name], str(name)) for name in (better, worse)]
        return Record(*split_pair(turns[0], turns[1], (str(better), str(worse))))
    chosen, rejected = text(row[better], better), text(row[worse], worse)
    if chosen == rejected:
        message = f"the same as '{better}', so nothing shows where the prompt ends; give a field 'prompt'"
        raise DataError(message, field(worse))
    shared = shared_words(chosen, rejected)
    if shared is None:
        raise DataError(f"does not begin with the same words as '{better}'; give a field 'prompt'", field(worse))
    answers = [filled(value[len(shared) :], name).strip() for value, name in ((chosen, better), (rejected, worse))]
    return Record((Message("user", shared.strip()),), answers[0], answers[1])


def shared_words(first: str, second: str) -> str | None:
    """The words that two texts begin with alike, with the blanks around them; None if there are none."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(f"{first} ", f"{second} ", strict=False))
    shared = re.match(r"(.*\S)\s", "".join(letter for letter, _ in same), re.DOTALL)
    return shared[1] if shared else None


def read_unprompted(row: Row) -> Record:
    """A better and a worse text that answer nothing: the prompt is empty."""
    better, worse = _sides(row)
    chosen, rejected = (filled(only(row[name]), name) for name in (better, worse))
    return Record((Message("user", ""),), chosen, rejected)


def read_ultrafeedback(row: Row) -> Record:
    """UltraFeedback, binarised: message lists with ``score_chosen`` and ``score_rejected``."""
    for name in ("score_chosen", "score_rejected"):
        if numeric(require(row, name), name) is None:
            raise DataError("is no number", field(name))
    return read_explicit(row)


def completed(record: Record, row: Row) -> Record:
    """A record with what any row may bring beside prompt and responses: system turn, tools, scores, margin, tie."""
    _check_pictures(row, record)
    head = [*tools_turn(row), *system_turn(row, record.prompt)]
    if head:
        listed_tools = [turn for turn in head if turn.role == "tools"]
        record = replace(record, prompt=(*listed_tools, *(t for t in head if t.role == "system"), *record.prompt))
    if record.chosen is None or record.rejected is None:
        return record
    pair = columns.sides(row)
    if pair is not None and record.chosen_scores is None and not record.grades:
        record = _with_scores(record, row, pair)
    margin = columns.margin_column(row)
    if record.strength is None and margin is not None and not _is_worded(dict.get(row, margin)):
        record = replace(record, strength=numeric(row[margin], margin))
    equal = record.chosen_scores is not None and record.chosen_scores == record.rejected_scores
    return replace(record, tie=record.tie or _is_tie(row) or (equal and pair is not None))


def _check_pictures(row: Row, record: Record) -> None:
    """Refuse a prompt with a place for a picture, a sound or a film that stands in another column."""
    for kind in ("image", "audio", "video"):
        name = columns.find(row, (kind, f"{kind}s"))
        if name is not None and dict.get(row, name) and any(f"<{kind}>" in turn.content for turn in record.prompt):
            raise DataError("pictures, sounds and films are not read, and the prompt shows one", field(name))


_MARGIN_WORD = re.compile(
    r"(negligibl[ey]|slight(ly)?|small|weak(ly)?|moderate(ly)?|medium|large|strong(ly)?|much|significant(ly)?|"
    r"clear(ly)?|big|unsure)( better)?"
)


def _is_worded(value: Any) -> bool:
    """Whether a margin is told in words, such as ``large`` or ``slightly better``: no number, and no mistake either."""
    return isinstance(value, str) and _MARGIN_WORD.fullmatch(value.strip().lower()) is not None


def _is_tie(row: Row) -> bool:
    name = columns.find(row, ("tie", "is_tie", "tied"))
    return name is not None and (row[name] is True or str(row[name]).strip().lower() in ("1", "true"))


def _with_scores(record: Record, row: Row, pair: tuple[Any, Any]) -> Record:
    found = columns.side_scores(row, *pair)
    grades = columns.find(row, columns.GRADES)
    if found is not None:
        scores = [_numbers(row[name], name) for name in found]
    elif grades is not None and isinstance(dict.get(row, grades), dict) and all(side in row[grades] for side in pair):
        scores = [_numbers(row[grades][side], f"{grades}.{side}") for side in pair]
    else:
        return record
    if None in scores:
        return record
    return replace(record, chosen_scores=scores[0], rejected_scores=scores[1])


def _numbers(value: Any, name: str) -> tuple[float, ...] | None:
    listed_values = value if isinstance(value, list) else [value]
    found = [numeric(each, name) for each in listed_values]
    return tuple(each for each in found if each is not None) if found and None not in found else None


def _sides(row: Row) -> tuple[Any, Any]:
    """The columns of the better and the worse response.

    Raises:
        DataError: If the row has no such pair.
    """
    pair = columns.sides(row)
    if pair is None:
        for name in ("chosen", "rejected"):
            require(row, name)
    assert pair is not None
    return pair


def lone_rejected(row: Row) -> tuple[Any, Any] | None:
    """Messages that end with the better response, and the column of the worse one, where there is no other pair."""
    whole = conversation_column(row)
    worse = columns.find(row, columns.REJECTED)
    if whole is None or worse is None or columns.sides(row) is not None or not is_whole(row, whole):
        return None
    return whole, worse


def _with_listed_prompt(row: Row, record: Record) -> Record:
    """A record under the prompt of a column of messages, where that says more than the responses' conversations."""
    if not has(row, "prompt") or not isinstance(said(dict.get(row, "prompt")), list):
        return record
    given = ends_with_user(messages(said(row["prompt"]), "prompt"), "prompt")
    longer, shorter = sorted((given, record.prompt), key=len, reverse=True)
    if longer[len(longer) - len(shorter) :] != shorter:
        raise DataError("is another conversation than the responses begin with", field("prompt"))
    return replace(record, prompt=longer)


def only(value: Any) -> Any:
    """The text in a list of one, or in an object that is no message; any other value as it is."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    if isinstance(value, dict) and not columns.is_message(value) and (key := columns.text_key(value)) is not None:
        return value[key]
    return value


def _from_conversations(row: Row, better: Any, worse: Any) -> Record:
    """A pair of which one response or both come with the whole conversation."""
    values = [said(row[name]) for name in (better, worse)]
    whole = [columns.is_whole(value) for value in values]
    if all(whole):
        turns = [messages(value, name) for value, name in zip(values, (better, worse), strict=True)]
        return Record(*split_pair(*turns, names=(str(better), str(worse))))
    place = whole.index(True)
    asked, answer = split_reply(messages(values[place], (better, worse)[place]), (better, worse)[place])
    other = reply(only(values[1 - place]), (better, worse)[1 - place], asked)
    return Record(asked, *((answer, other) if place == 0 else (other, answer)))


def _truth(value: Any, name: str) -> bool:
    if isinstance(value, str) and value.strip().lower() in MARK_WORDS:
        return MARK_WORDS[value.strip().lower()]
    if isinstance(value, bool):
        return value
    if str(value).strip() in MARK_NUMBERS:
        return MARK_NUMBERS[str(value).strip()]
    raise DataError(f"expected true or false, found {describe(value)}", field(name))
