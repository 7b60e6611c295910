"""Checked access to single values of a row: text, numbers, whether they are there. Errors name the field."""

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

from lit_rlhf.data.errors import DataError, excerpt

Row = dict[str, Any]

_LISTED = 20


def describe(value: Any) -> str:
    """Name the kind of a JSON value in plain words, for error messages."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def has(row: Row, *names: str) -> bool:
    """Whether the row has all these fields, and none of them is null."""
    return all(dict.get(row, name) is not None for name in names)  # looking does not count as using it


def require(row: Row, name: str) -> Any:
    """The value of a field that has to be there.

    Raises:
        DataError: If the field is missing or null.
    """
    value = row.get(name)
    if value is None:
        raise DataError("is null" if name in row else f"missing; the row has: {listed(row)}", field(name))
    return value


def listed(names: Iterable[str]) -> str:
    """How errors list the names of a row's fields; of very many, the first."""
    shown = [excerpt(str(name)) for name in islice(names, _LISTED + 1)]
    return ", ".join([*shown[:_LISTED], *["…"] * (len(shown) > _LISTED)]) or "(none)"


def field(name: str) -> str:
    """How errors name a field."""
    return f"field '{name}'"


def text(value: Any, name: str) -> str:
    """Check that a value is text that can be written as UTF-8. It may be empty.

    Raises:
        DataError: If it is no text, or holds half of a surrogate pair, which no tokenizer takes.
    """
    if not isinstance(value, str):
        raise DataError(f"expected text, found {describe(value)}", field(name))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"half a surrogate pair at character {error.start + 1}: no valid text", field(name)) from None
    return value


def filled(value: Any, name: str) -> str:
    """Check that a value is text with more than blanks in it: what a response has to be.

    Raises:
        DataError: If it is no text, or blank.
    """
    if not text(value, name).strip():
        raise DataError("empty response", field(name))
    return value


def number(value: Any, name: str) -> float:
    """Check that a value is a finite number.

    Raises:
        DataError: If it is none, or infinite, or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"expected a number, found {describe(value)}", field(name))
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise DataError(f"expected a finite number, found {result}", field(name))
    return result


def numeric(value: Any, name: str) -> float | None:
    """A number that may be written as text, as tables and judges write theirs; None where there is none.

    Raises:
        DataError: If it is anything else, or not finite.
    """
    if isinstance(value, str):
        if value.strip().lower() in ("", "n/a", "na", "none", "null", "nan"):
            return None
        try:
            value = float(value)
        except ValueError:
            raise DataError(f"expected a number, found the text {excerpt(value)!r}", field(name)) from None
    return None if value is None or value != value else number(value, name)
