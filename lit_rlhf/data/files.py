"""Preference data from files: `PairFiles`, and `RowSource`, which all sources made of rows have in common."""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, TypeVar

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.fields import Row, field, listed
from lit_rlhf.data.formats import FORMATS, Reader, common_format, detect_format, get_reader
from lit_rlhf.data.readers import read_safe_rlhf
from lit_rlhf.data.records import Record, Source
from lit_rlhf.data.rows import RawRow, find_files, read_rows, source_name

T = TypeVar("T")

_HEAD = 50  # rows that are looked at to tell the format: enough to outvote a few bad ones
_LONGEST_ID = 200
_LONGEST_NAME = 40  # of a field whose name may be misspelt; comparing longer ones takes long
_STANDARD = ("prompt", "chosen", "rejected", "response", "completion", "messages", "conversations")


class RowSource(Source):
    """What every `Source` made of rows shares: where they are, and what happens to a bad one.

    Args:
        path: A file, a glob pattern, a folder written by ``save_to_disk``, a Hub id, or a list of these.
        name: For reports; by default the file's name without its ending.
        weight: Share of the records that is used; see `Source`.
        on_bad_row: ``stop`` raises for a row that cannot be read, ``skip`` counts it in ``bad_rows``.
        split: The split of a `datasets` folder or Hub data set that has several.

    Raises:
        DataError: If an argument is out of its range. Files are looked at only when they are read.
    """

    def __init__(
        self,
        path: str | list[str],
        name: str | None = None,
        weight: float = 1.0,
        on_bad_row: Literal["stop", "skip"] = "stop",
        split: str | None = None,
    ) -> None:
        if not path:
            raise DataError("no file is named", "path")
        if on_bad_row not in ("stop", "skip"):
            raise DataError(f"expected 'stop' or 'skip', found {on_bad_row!r}", "on_bad_row")
        if not (weight > 0 and math.isfinite(weight)):
            raise DataError(f"expected a positive number, found {weight}", "weight")
        self.path = path
        self.name = source_name(path) if name is None else name
        self.weight = weight
        self.bad_rows = 0
        self.on_bad_row = on_bad_row
        self.split = split

    def _convert(
        self, file: str, rows: Iterable[RawRow], convert: Callable[[Row], T], whole: bool = True
    ) -> Iterator[tuple[str, T]]:
        """Yield (location, converted row) of one file; bad rows are counted, or raised with their location.

        If all are bad, that is an error where the rows are the ``whole`` file.
        """
        good, last = 0, None
        for location, row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                result = convert(row)
            except DataError as error:
                last = DataError(str(error), location)
                if self.on_bad_row == "stop":
                    unlike_others = good > 0 or not whole or isinstance(row, DataError)
                    hint = f"Mend it, or leave such rows out: {self._option('on_bad_row', 'skip')}"
                    if not unlike_others:
                        hint = "" if "\n" in str(error) else "It is the first row: is the format another one?"
                    raise DataError(str(error), location, hint) from None
                self.bad_rows += 1
            else:
                good += 1
                yield location, result
        if whole and not good and last is not None:
            raise DataError(f"not one row can be read; the last one: {last}", file, "Is the format another one?")

    def _option(self, name: str, value: str) -> str:
        """How the command line gives an option of this source."""
        path = self.path if isinstance(self.path, str) else "PATH"
        return f"--data.sources {type(self).__name__} --data.sources.path {path} --data.sources.{name} {value}"


class PairFiles(RowSource):
    """Preference pairs, demonstrations or prompts from files of a public format.

    Args:
        path: A file (.jsonl, .ndjson, .json, each also gzipped; .parquet), a glob pattern, a folder written by
            ``save_to_disk``, a Hub id (``owner/name`` or ``owner/name:config``), or a list of these.
        format: A name in `lit_rlhf.data.formats.FORMATS`; by default the first rows of each file tell.
        name: For reports; by default the file's name without its ending.
        weight: Share of the records that is used; see `Source`.
        on_bad_row: ``stop`` raises for a row that cannot be read, ``skip`` counts it in ``bad_rows``.
        split: The split of a `datasets` folder or Hub data set that has several.
        limit: Read no more than this many records.
        label: Which of the two labels of PKU-SafeRLHF says what is preferred.
        fields: The file's names for the format's fields, e.g. ``{prompt: question, chosen: good_answer}``.

    Raises:
        DataError: If an argument is out of its range.
    """

    def __init__(
        self,
        path: str | list[str],
        format: str | None = None,
        name: str | None = None,
        weight: float = 1.0,
        on_bad_row: Literal["stop", "skip"] = "stop",
        split: str | None = None,
        limit: int | None = None,
        label: Literal["better", "safer"] = "better",
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(path, name, weight, on_bad_row, split)
        if format is not None:
            get_reader(format)
        if limit is not None and limit < 1:
            raise DataError(f"expected a positive number, found {limit}", "limit")
        if label not in ("better", "safer"):
            raise DataError(f"expected 'better' or 'safer', found {label!r}", "label")
        self.format = format
        self.limit = limit
        self.label = label
        self.fields = fields or {}
        self._readers: dict[str, Callable[[Row], Record]] = {}  # of files that are read in parts

    def records(self) -> Iterator[Record]:
        """Yield the records in the order of the files; ``bad_rows`` counts anew.

        Raises:
            DataError: For bad input: which file and line, which field, what was found and what was expected.
        """
        self.bad_rows = 0
        files = chain.from_iterable(map(self._file_records, find_files(self.path)))
        for location, record in islice(files, self.limit):
            yield replace(record, source=self.name, location=location)

    def part_records(self, file: str, rows: Iterable[RawRow]) -> Iterator[Record]:
        """Yield the records of some rows of a file, in its format; ``bad_rows`` counts on.

        Raises:
            DataError: As `records` does.
        """
        if file not in self._readers:
            readable = _peek(read_rows(file, self.split))[1] if self.format is None else {}
            self._readers[file] = self._row_reader(readable)
        for location, record in self._convert(file, rows, self._readers[file], whole=False):
            yield replace(record, source=self.name, location=location)

    def _file_records(self, file: str) -> Iterator[tuple[str, Record]]:
        rows = read_rows(file, self.split)
        head, readable = _peek(rows) if self.format is None else ([], {})
        return self._convert(file, chain(head, rows), self._row_reader(readable))

    def _row_reader(self, readable: dict[str, Row]) -> Callable[[Row], Record]:
        """What turns a file's rows into records, given its first readable ones by location."""
        if self.format is not None:
            return partial(self._read, self._reader(self.format), None)
        detected = common_format(map(self._renamed, readable.values()))
        if detected is None and readable:
            location, row = next(iter(readable.items()))
            known = ", ".join(FORMATS)
            message = f"no known format has the fields of this row: {listed(row)}"
            hint = f"Name its fields: {self._option('fields.prompt', excerpt(next(iter(row), 'NAME')))} ..."
            hint = self._fields_hint(row) or f"{hint}\n  or the format, --data.sources.format: {known}."
            raise DataError(message, location, hint)
        # Without a readable row the reader is never called.
        reader = self._reader(detected or next(iter(FORMATS)))
        return partial(self._read, reader, detected)

    def _reader(self, format: str) -> Reader:
        if self.label == "better":
            return get_reader(format)
        if format != "safe-rlhf":
            raise DataError(f"'{self.label}' has a meaning for format 'safe-rlhf' only, not for '{format}'", "label")
        return partial(read_safe_rlhf, label="safer_response_id")

    def _read(self, reader: Reader, detected: str | None, row: Row) -> Record:
        row = self._renamed(row)
        try:
            record = reader(row)
        except DataError as error:
            raise DataError(str(error), hint=self._fields_hint(row, str(error))) from None
        if detected is not None and (other := detect_format(row)) not in (None, detected):
            message = f"this row looks like format '{other}', but most of the first ones like '{detected}'"
            raise DataError(message, hint="Name the `format` to have all rows read alike.")
        return replace(record, meta=_small_id(row) | record.meta)

    def _fields_hint(self, row: Row, error: str = "") -> str:
        """What to do if fields of a row that cannot be read bear unexpected names; ``error`` names the fields."""
        absent = {standard: name for standard, name in self.fields.items() if name not in row}
        for standard, name in absent.items():
            near = difflib.get_close_matches(name, _short_names(row), n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            return f"The option fields.{standard} names {name!r}, which this row does not have{meant}"
        others = [name for name in _short_names(row) if name not in (*_STANDARD, *self.fields)]
        for standard in _STANDARD:
            if error and field(standard) not in error:
                continue
            near = difflib.get_close_matches(standard, self.fields, n=1)
            if near and near[0] not in _STANDARD:
                return f"The option fields.{near[0]} fills no field of a format; did you mean fields.{standard}?"
            near = difflib.get_close_matches(standard, others, n=1)
            if near and standard not in row:
                return f"If {near[0]!r} is the {standard}: {self._option(f'fields.{standard}', near[0])}"
        return ""

    def _renamed(self, row: Row) -> Row:
        return row | {standard: row[name] for standard, name in self.fields.items() if name in row}


def _peek(rows: Iterator[RawRow]) -> tuple[list[RawRow], dict[str, Row]]:
    """Take rows until `_HEAD` readable ones are among them; give all of them, and the readable by location."""
    head: list[RawRow] = []
    readable: dict[str, Row] = {}
    for location, row in rows:
        head.append((location, row))
        if not isinstance(row, DataError):
            readable[location] = row
        if len(readable) == _HEAD:
            break
    return head, readable


def _short_names(row: Row) -> list[str]:
    """The first names of a row's fields that are worth comparing."""
    return list(islice((name for name in map(str, row) if len(name) <= _LONGEST_NAME), _HEAD))


def _small_id(row: Row) -> dict[str, Any]:
    found = row.get("id")
    small = isinstance(found, int) or (isinstance(found, str) and len(found) <= _LONGEST_ID)
    return {"id": found} if small else {}
