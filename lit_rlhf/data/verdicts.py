"""Which of two responses is better, from the many ways in which data sets say it."""

import math
import re
from collections.abc import Sequence
from typing import Any

from lit_rlhf.data.columns import SIGNED_VERDICTS, VERDICTS, Numbered, find, names
from lit_rlhf.data.errors import DataError, UnsettledError, excerpt
from lit_rlhf.data.fields import Row, describe, field, listed, numeric

_TIES = (
    *("tie", "equal", "same", "both", "neither", "draw", "none", "no preference", "no_preference", "tie (bothbad)"),
    *("both bad", "both good", "both_bad", "both_good"),
)
_ORDERED = {"first": 0, "left": 0, "second": 1, "right": 1}
_NOUNS = {
    "answer", "assistant", "candidate", "choice", "completion", "conversation", "human", "is", "model", "option",
    "output", "ref", "reply", "response", "summary", "system", "text", "the", "winner",
}  # fmt: skip
_DENIES = {"not", "no", "non", "never", "worse", "worst", "loser", "against"}
_SENTENCE = re.compile(
    r"(?:the )?(?:[a-z]+[ _\-]+|[a-z]+(?=\d))?(?P<tag>[0-9a-h]|first|second|left|right)(?: [a-z]+)? (?:is|was) "
    r"(?:(?:slightly|much|clearly|significantly|a bit|a little|somewhat|far) )?(?P<says>better|worse|preferred)"
    r"(?: than [\w ]+)?\.?"
)
_COMPARED = re.compile(r"(\w)\s*(>+|<+|=+)\s*(\w)")


def verdict_column(row: Row, found: Numbered) -> Any | None:
    """The column that says which of two numbered responses is better, if there is one."""
    return find(row, [name for name in VERDICTS if names(row).get(name) not in found.columns])


def one_hot(row: Row, found: Numbered) -> tuple[Any, ...] | None:
    """Columns such as ``winner_model_a`` and ``winner_model_b``, of which one is 1."""
    known = names(row)
    for form in ("winner_model_{}", "winner_{}", "wins_{}", "is_better_{}", f"winner_{found.stem}_{{}}"):
        wanted = [form.format(tag) for tag in found.tags]
        if all(name in known and dict.get(row, known[name]) is not None for name in wanted):
            return tuple(known[name] for name in wanted)
    return None


def best_of(row: Row, found: Numbered) -> list[float] | None:
    """1 for the one of several numbered responses that a column names as the best, and 0 for the others."""
    column = verdict_column(row, found)
    if column is None:
        return None
    said = _plain(dict.get(row, column)).strip("[]() ")
    *before, word = re.split(r"[\s_\-]+", said.removesuffix(".0"))
    word = re.sub(r"^[a-z]+(?=[0-9]$)", "", word)
    if word not in found.tags or not _NOUNS.issuperset(before):
        return None
    row.get(column)  # it was used
    return [float(tag == word) for tag in found.tags]


def verdict_of(
    row: Row,
    found: Numbered,
    responses: Sequence[str],
    scores: Sequence[float] | None,
    first_wins: "FirstWins | None" = None,
) -> float:
    """Above 0 where the first of two responses is better, below 0 where the second is, 0 for a tie.

    Args:
        row: The row.
        found: The columns of the responses.
        responses: Their texts.
        scores: Their scores, which decide where there is no verdict.
        first_wins: What the verdict says where the first one is better.

    Returns:
        The number of steps by which it is better, where the data says so, and otherwise ± 0.5.

    Raises:
        DataError: If nothing says which is better, or it cannot be told what a verdict means.
    """
    hot = one_hot(row, found)
    if hot is not None:
        first, second = (_flag(row[column], column) for column in hot)
        return _half(first - second)
    column = verdict_column(row, found)
    if column is None and scores is not None:
        return _half(scores[0] - scores[1])
    if column is None:
        raise DataError(f"nothing says which response is better; the row has: {listed(row)}", field(found.columns[0]))
    value = row[column]
    if first_wins is not None:
        return _told_by_option(value, column, found, first_wins)
    if isinstance(value, str):
        named, told = _told_by_name(row, value, found, responses), _told_by_words(value, found)
        if value.strip().lower() in (*found.tags, *_ORDERED, *_TIES) and named not in (None, told):
            raise _unclear(value.strip(), column, found)
        if (told := told if named is None else named) is not None:
            return told
    return _told_by_number(value, column, found)


def _told_by_option(value: Any, column: Any, found: Numbered, first_wins: "FirstWins") -> float:
    """Which one is better where an option says what the verdict is if the first one is."""
    said = _plain(value)
    if (isinstance(value, str) and value.strip().lower() in _TIES) or said == first_wins.tie:
        return 0.0
    if said == _plain(first_wins.value):
        return 0.5
    others = first_wins.others
    others.setdefault(said)
    if len(others) > 1:
        shown = " and ".join(map(repr, others))
        message = f"{shown} stand beside {first_wins.value!r}, which of them means '{found.columns[1]}'?"
        hint = f"Write 'tie' where neither response is better, and leave out rows of other kinds ('{column}')."
        raise DataError(message, field(column), hint)
    return -0.5


class FirstWins:
    """What a verdict says where the first response is better; one other value means the second one.

    Args:
        value: It, as text.

    Attributes:
        others: Other values that were met, in order; two are one too many.
    """

    def __init__(self, value: str) -> None:
        self.value = value
        self.others: dict[str, None] = {}
        number = _plain(value)
        self.tie = "0.0" if number not in ("0.0", "-0.0", "1.0") and _is_number(number) else None


def _is_number(said: str) -> bool:
    try:
        float(said)
    except ValueError:
        return False
    return True


def _flag(value: Any, name: str) -> float:
    said = str(value).strip().lower()
    return float(said == "true") if said in ("true", "false") else numeric(value, name) or 0.0


def _plain(value: Any) -> str:
    """A verdict as it is compared: 1, 1.0 and "1" are one."""
    said = str(value).strip().lower()
    try:
        return repr(float(said))
    except ValueError:
        return said


def _told_by_name(row: Row, value: str, found: Numbered, responses: Sequence[str]) -> float | None:
    """Which one is better where a verdict is its text, or the name of the model that wrote it."""
    columns = (find(row, [f"model_{tag}", f"model{tag}", f"{found.stem}_{tag}_model"]) for tag in found.tags)
    models = [None if column is None else row[column] for column in columns]
    for known in ([text.strip() for text in responses], models):
        if known.count(value.strip()) == 1:
            return _half(1.0 - 2.0 * known.index(value.strip()))
    return None


def _told_by_words(value: str, found: Numbered) -> float | None:
    said = value.strip().lower().strip("[]() ")
    if said in _TIES or re.match(r"tied?\b", said):
        return 0.0
    compared = _COMPARED.fullmatch(said)
    if compared and {compared[1], compared[3]} == set(found.tags):
        sign = {">": 1.0, "<": -1.0, "=": 0.0}[compared[2][0]] * (1 if compared[1] == found.tags[0] else -1)
        return sign * (len(compared[2]) if len(compared[2]) > 1 else 0.5)
    if sentence := _SENTENCE.fullmatch(said):
        tag, ordered = sentence["tag"], _ORDERED.get(sentence["tag"])
        if tag in found.tags or ordered is not None:
            first = ordered == 0 if ordered is not None else tag == found.tags[0]
            return 0.5 if first == (sentence["says"] != "worse") else -0.5
    *before, word = re.split(r"[\s_\-]+", said)
    if (len(before) > 1 and not _NOUNS.issuperset(before)) or _DENIES.intersection(before):
        return None  # a sentence, which may say that the other one is better
    digit = re.sub(r"^[a-z]+(?=[0-9]$)", "", word)
    for tag in (said, word, digit):
        if tag in found.tags:
            return _half(1.0 if tag == found.tags[0] else -1.0)
        if tag in _ORDERED:
            return _half(1.0 - 2.0 * _ORDERED[tag])
    return None


def _told_by_number(value: Any, column: Any, found: Numbered) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _unclear(str(value) if isinstance(value, bool) else describe(value), column, found)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _unclear(excerpt(str(value)).strip(), column, found) from None
    if not math.isfinite(number):
        raise _unclear(f"{number:g}", column, found)
    if str(column).strip().lower() in SIGNED_VERDICTS:
        return -number  # HelpSteer counts below zero for the first
    if found.stem == "human_ref" and number in (0.0, 1.0):
        return _half(number - 0.5)  # Stanford Human Preferences: 1 for A
    if found.tags[0].isdigit():
        if number in (float(found.tags[0]), float(found.tags[1])):
            return _half(1.0 if number == float(found.tags[0]) else -1.0)
        if number == 0:
            return 0.0
    raise _unclear(f"{number:g}", column, found)


def _unclear(shown: str, column: Any, found: Numbered) -> DataError:
    first, second = found.columns
    message = f"{shown} does not tell whether '{first}' or '{second}' is better"
    return UnsettledError(message, field(column), f"If it means '{first}'", "first_wins", shown)


def _half(difference: float) -> float:
    return 0.5 * ((difference > 0) - (difference < 0))
