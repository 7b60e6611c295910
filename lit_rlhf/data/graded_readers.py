"""Readers of several responses to a prompt: two and a verdict, any number with scores or ranks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lit_rlhf.data import columns
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import (
    Conversation,
    Row,
    describe,
    field,
    listed,
    messages,
    numeric,
    reply,
    require,
    said,
    split_pair,
)
from lit_rlhf.data.messages import spelled_texts
from lit_rlhf.data.prompt_readers import required_prompt
from lit_rlhf.data.readers import only
from lit_rlhf.data.records import Record
from lit_rlhf.data.verdicts import FirstWins, best_of, verdict_of

_SCORES = ("overall_score", *columns.GRADES, "fine-grained_score", "pm_score")
_GRADES = (*_SCORES, *columns.RANKS)


def read_compared(row: Row, first_wins: FirstWins | None = None) -> Record:
    """Two responses, or two conversations, in numbered columns, and which of them is better.

    Args:
        row: The row.
        first_wins: What the verdict says where the first one is better, if that is not plain.
    """
    found = columns.numbered(row)
    if found is None or len(found.columns) != 2:
        raise DataError(f"expected two numbered responses; the row has: {listed(row)}", field("response_a"))
    first, second = found.columns
    row = _with_turns(row, found)
    if any(columns.is_whole(dict.get(row, column)) for column in found.columns):
        both = (messages(said(row[column]), column) for column in found.columns)
        asked, *answers = split_pair(*both, names=(str(first), str(second)))
    else:
        asked = required_prompt(row, transcripts=True)
        answers = [reply(only(row[column]), column, asked) for column in found.columns]
    scores = _numbered_scores(row, found)
    verdict = verdict_of(row, found, answers, scores, first_wins)
    order = (0, 1) if verdict >= 0 else (1, 0)
    record = Record(asked, answers[order[0]], answers[order[1]], tie=verdict == 0)
    if scores is not None:
        record = replace(record, chosen_scores=(scores[order[0]],), rejected_scores=(scores[order[1]],))
    return record if abs(verdict) in (0.0, 0.5) else replace(record, strength=abs(verdict))


def _with_turns(row: Row, found: columns.Numbered) -> Row:
    """A row whose prompt and responses are lists of turns, written as text, under the conversations that they make."""
    name = columns.prompt_column(row)
    asked = None if name is None else spelled_texts(dict.get(row, name))
    answers = [spelled_texts(dict.get(row, column)) for column in found.columns]
    if asked is None or name is None or any(each is None or len(each) != len(asked) for each in answers):
        return row
    row = dict(row) if type(row) is dict else row  # the caller's own stays as it is
    for column, replies in zip(found.columns, answers, strict=True):
        turns = zip(asked, replies or [], strict=True)
        row[column] = [{"role": r, "content": c} for pair in turns for r, c in zip(_ROLES, pair, strict=True)]
    row.get(name)  # it was used
    return row


_ROLES = ("user", "assistant")


def read_graded(row: Row) -> Record:
    """Several responses to a prompt with a score or a rank for each; lists of chosen and rejected ones, too."""
    asked = required_prompt(row, transcripts=True)
    pair = columns.sides(row)
    if pair is not None and any(isinstance(dict.get(row, name), list) for name in pair):
        groups = [[reply(item, name, asked) for item in _listed(row[name])] for name in pair]
        if not all(groups):
            raise DataError("the list of responses is empty", field(str(pair[0] if not groups[0] else pair[1])))
        return _graded(asked, [*groups[0], *groups[1]], [1.0] * len(groups[0]) + [0.0] * len(groups[1]))
    found = columns.numbered(row)
    if found is not None:
        responses = [reply(row[column], column, asked) for column in found.columns]
        grades = _numbered_scores(row, found) or best_of(row, found)
        if grades is None:
            raise DataError(f"nothing grades these responses; the row has: {listed(row)}", field(found.columns[0]))
        return _graded(asked, responses, grades)
    name = columns.response_list(row) or "responses"
    items = require(row, name)
    if not columns.is_response_list(items):
        raise DataError(f"expected a list of responses, found {describe(items)}", field(name))
    responses = [_item_text(item, f"{name}[{i}]", asked) for i, item in enumerate(items)]
    return _graded(asked, responses, _grades(row, name, items))


def read_ranked(row: Row) -> Record:
    """Several responses to a prompt, in the order from best to worst."""
    asked = required_prompt(row, transcripts=True)
    found = columns.numbered(row)
    if found is not None:
        responses = [reply(row[column], column, asked) for column in found.columns]
    else:
        name = columns.response_list(row) or "responses"
        items = require(row, name)
        if not columns.is_response_list(items):
            raise DataError(
                f"expected a list of responses in the order from best to worst, found {describe(items)}", field(name)
            )
        responses = [_item_text(item, f"{name}[{i}]", asked) for i, item in enumerate(items)]
    return _graded(asked, responses, [-float(place) for place in range(len(responses))])


def read_stepwise(row: Row) -> Record:
    """Refuses steps of one answer with a label each: they are no preferences.

    Raises:
        DataError: Always.
    """
    name = columns.response_list(row) or "completions"
    message = "steps of one answer, each with a label (a process reward model's data): these are no preferences"
    raise DataError(message, field(name))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) and not columns.is_message(value[0] if value else None) else [value]


def _item_text(item: Any, name: str, asked: Conversation) -> str:
    if columns.is_answer(item):
        return reply(item, name, asked)
    key = columns.text_key(item) or "text"
    return reply(item.get(key), f"{name}.{key}", asked)


def is_graded_list(row: Row, name: Any) -> bool:
    """Whether the responses of a list come with scores or ranks: in its entries, or in a list beside it."""
    items = row[name]
    inside = any(all(isinstance(item, dict) and item.get(key) is not None for item in items) for key in _GRADES)
    beside = columns.find(row, (*columns.GRADES, *columns.RANKS))
    return inside or (beside is not None and isinstance(row[beside], list)) or _best(row, items) is not None


def _best(row: Row, items: Sequence[Any]) -> int | None:
    """Which response of a list a column names as the best, by its number from 0 or by its text."""
    index = columns.find(row, columns.INDICES)
    number = None if index is None else dict.get(row, index)
    if index is not None and type(number) is int and 0 <= number < len(items):
        row.get(index)  # it was used
        return number
    texts = [item if isinstance(item, str) else None for item in items]
    for verdict in columns.VERDICTS:
        name = columns.find(row, [verdict])
        said = None if name is None else dict.get(row, name)
        if name is not None and isinstance(said, str) and texts.count(said) == 1:
            row.get(name)
            return texts.index(said)
    return None


def _grades(row: Row, name: Any, items: Sequence[Any]) -> list[float | None]:
    """One grade for each response of a list, from its entries or from a list beside it; None for ``N/A`` and such."""
    for keys, sign in ((_SCORES, 1.0), (columns.RANKS, -1.0)):
        inside = next((key for key in keys if all(isinstance(i, dict) and i.get(key) is not None for i in items)), None)
        beside = columns.find(row, keys)
        if inside is not None:
            found = [_grade(item[inside], f"{name}[{i}].{inside}") for i, item in enumerate(items)]
        elif beside is not None:
            found = _parallel(row[beside], str(beside), len(items))
        else:
            continue
        return [None if grade is None else sign * grade for grade in found]
    if (best := _best(row, items)) is not None:
        return [float(place == best) for place in range(len(items))]
    raise DataError(f"nothing grades these responses; the row has: {listed(row)}", field(name))


def _parallel(values: Any, name: str, count: int) -> list[float | None]:
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)} of them" if isinstance(values, list) else describe(values)
        raise DataError(f"expected one number for each of {count} responses, found {found}", field(name))
    return [_grade(value, f"{name}[{i}]") for i, value in enumerate(values)]


def _grade(value: Any, name: str) -> float | None:
    return float(value) if isinstance(value, bool) else numeric(value, name)


def _numbered_scores(row: Row, found: columns.Numbered) -> list[float] | None:
    for kinds, sign in ((("score", "rating", "reward", "grade"), 1.0), (("rank",), -1.0)):
        beside = found.beside(row, kinds)
        if beside is not None:
            grades = [_grade(row[name], str(name)) for name in beside]
            if None in grades:
                raise DataError("is no number", field(str(beside[grades.index(None)])))
            return [sign * grade for grade in grades if grade is not None]
    return None


def _graded(asked: Conversation, responses: Sequence[str], given: Sequence[float | None]) -> Record:
    """A record of the responses that have a grade."""
    both = [(text, grade) for text, grade in zip(responses, given, strict=True) if grade is not None]
    if not both:
        raise DataError("none of the responses has a grade", field("grades"))
    responses, grades = [text for text, _ in both], [grade for _, grade in both]
    if len(responses) < 2:
        return Record(asked, chosen=responses[0], responses=tuple(responses), grades=tuple(grades))
    best = max(range(len(grades)), key=grades.__getitem__)
    worst = min(reversed(range(len(grades))), key=grades.__getitem__)
    even = grades[best] == grades[worst]
    best, worst = (0, 1) if even else (best, worst)
    return Record(asked, responses[best], responses[worst], tie=even, responses=tuple(responses), grades=tuple(grades))
