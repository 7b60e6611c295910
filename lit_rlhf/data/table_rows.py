"""Rows of text tables, CSV and TSV: a header, then a row per record, in which a quoted cell may hold line breaks.

Cells are text and stay text, so that the answer "42" is no number; an empty one is None. Only in columns whose name
says that they hold scores, labels, ranks and the like, numbers, true and false are read as such. In columns of several
responses, or of their scores, lists that a cell spells out are read as lists.
"""

import ast
import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from lit_rlhf.data.columns import GRADES, LISTS, RANKS, written
from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.json_rows import RawRow
from lit_rlhf.data.opening import Opened

_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t|"  # the first of those that find equally many columns
_OF_NUMBERS = {
    "choice", "coherence", "complexity", "correctness", "difference", "grade", "grades", "helpfulness", "index",
    "label", "labels", "margin", "preference", "rank", "ranking", "ranks", "rating", "ratings", "reward", "rewards",
    "score", "scores", "strength", "tie", "verbosity", "winner",
    "accepted", "bad", "correct", "desirable", "disliked", "good", "harmful", "helpful", "liked", "preferred", "safe",
    "tag", "thumbs", "toxic", "unsafe", "upvotes", "votes",
}  # fmt: skip
_OF_TEXT = {"answer", "completion", "content", "message", "name", "output", "prompt", "response", "text"}
_LONGEST_LIST = 2**20  # characters
_WITHOUT_COMMAS = re.compile(r"""['"]\s+['"]""")  # as numpy prints lists: Python would join such texts
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,99})(\.\d+)?([eE][+-]?\d+)?")


def table_rows(file: Opened) -> Iterator[RawRow]:
    """Yield the rows of a table; one with more or fewer cells than the header comes as its error.

    Raises:
        DataError: If the header gives a name twice, a quote is never closed, or a row is too long.
    """
    lines = _Lines(file)
    header = next((line for line in lines if line.strip()), None)
    if header is None:
        return
    if declared := re.fullmatch(r"sep=(.)", header.strip("\r\n ")):  # what Excel puts in front
        header = next(lines, "")
    delimiter = declared[1] if declared else _delimiter(file.name, header)
    lines.unread(header)
    csv.field_size_limit(max(file.longest, csv.field_size_limit()))  # for the process: there is no other one
    blanks = len(re.findall(rf"{re.escape(delimiter)} ", header)) == header.count(delimiter) > 0
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=blanks)
    names, read = [], []
    for location, cells in _records(reader, lines, file.path):
        if isinstance(cells, DataError):
            yield location, cells
        elif not names:
            names = _names(cells, location)
            read = [_reader(name) for name in names]
        elif len(cells) != len(names):
            hint = "A cell with a delimiter or a line break in it needs quotes around it."
            span = lines.span()
            yield location, DataError(f"{len(cells)} cells{span}, but the header has {len(names)}", hint=hint)
        else:
            yield location, {name: each(cell) for name, each, cell in zip(names, read, cells, strict=True)}


class _Lines(Iterator[str]):
    """The lines of a file as text, with the number of the last one; they may end as on old Macs, too."""

    def __init__(self, file: Opened) -> None:
        self._file = file
        self._raw = iter(partial(file.stream.readline, file.longest), b"")
        self._next: list[str] = []  # the last one comes first
        self._held = 0  # bytes of the present record
        self._first = 1  # line of the present record
        self.number = 0

    def __next__(self) -> str:
        if not self._next:
            self._next = re.split(r"(?<=\r)(?=[^\n])", self._decoded(next(self._raw)))[::-1]
        self.number += 1
        return self._next.pop()

    def _decoded(self, line: bytes) -> str:
        where = f"{self._file.path}:{self.number + 1}"
        self._held += len(line)
        if self._held >= self._file.longest:
            hint = "Is there a quote that is never closed?"
            raise DataError(f"a row of {self._file.longest >> 20} MiB or more", where, hint)
        try:
            return (line.removeprefix(_BOM) if self.number == 0 else line).decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
            raise DataError(message, where, "Save the file as UTF-8.") from error

    def unread(self, line: str) -> None:
        """Give a line again."""
        self._next.append(line)
        self.number -= 1

    def begin(self) -> None:
        """A record begins with the next line."""
        self._held = 0
        self._first = self.number + 1

    def span(self) -> str:
        """How an error says that a record takes up several lines, which a stray quote makes of many rows."""
        return f" in lines {self._first} to {self.number}" if self.number > self._first else ""


def _records(reader: Any, lines: _Lines, path: str) -> Iterator[tuple[str, list[str] | DataError]]:
    """The records that are not blank, each with where it begins."""
    while True:
        lines.begin()
        location = f"{path}:{lines.number + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                hint = "Close it. A quote within a quoted cell is written twice."
                raise DataError("a quote opens here that is never closed", location, hint) from error
            hint = "A quote within a quoted cell is written twice; a cell that begins with one needs quotes around it."
            yield location, DataError(f"broken table{lines.span()}: {error}", hint=hint)
            continue
        if cells:
            yield location, cells


def _delimiter(name: str, header: str) -> str:
    if not name.lower().endswith(".csv"):
        return "\t"
    try:
        return max(_DELIMITERS, key=lambda each: len(next(csv.reader([header], delimiter=each), [])))
    except csv.Error:
        return ","


def _names(cells: list[str], location: str) -> list[str]:
    """The names of the columns; a nameless one, such as the index that pandas writes, is called as pandas calls it."""
    names = [cell.strip() or f"Unnamed: {number}" for number, cell in enumerate(cells)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"field '{excerpt(name)}' is given more than once", location, "Rename one of the columns.")
    return names


def _holds_numbers(name: str) -> bool:
    words = re.findall(r"[A-Z]*[a-z]+|[A-Z]+", name)
    known = [word.lower() for word in words]
    return bool(known) and known[-1] not in _OF_TEXT and (known[-1] == "id" != known[0] or bool(_OF_NUMBERS & {*known}))


def _reader(name: str) -> Callable[[str], Any]:
    """How the cells of a column are read."""
    plain = _number_or_text if _holds_numbers(name) else _text
    return partial(_list_or, plain) if written(name) in (*LISTS, *GRADES, *RANKS) else plain


def _list_or(plain: Callable[[str], Any], cell: str) -> Any:
    """A list that a cell spells out, as JSON or as Python prints it; of another cell what it says."""
    if cell.strip().startswith("[") and len(cell) < _LONGEST_LIST and not _WITHOUT_COMMAS.search(cell):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                if isinstance(found := read(cell.strip()), list):
                    return found
    return plain(cell)


def _text(cell: str) -> Any:
    return cell or None


def _number_or_text(cell: str) -> Any:
    """A number, true or false where the cell says so, or what it says."""
    short = cell.strip()
    if short.lower() in ("true", "false"):
        return short.lower() == "true"
    if not (found := _NUMBER.fullmatch(short)):
        return cell or None
    if found[2] or found[3]:
        number = float(short)
        return number if math.isfinite(number) else cell
    return int(short)
