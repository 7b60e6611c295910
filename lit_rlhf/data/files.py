"""Preference data from files: `PairFiles`, and `RowSource`, which all sources made of rows have in common."""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, combinations, islice
from typing import Any, Literal, TypeVar

from lit_rlhf.data.errors import DataError, UnsettledError
from lit_rlhf.data.fields import Row, field
from lit_rlhf.data.file_report import FileReport, WatchedRow
from lit_rlhf.data.formats import FORMATS, Reader, common_format, detect_format, get_reader, with_options
from lit_rlhf.data.records import Record, Source
from lit_rlhf.data.rows import RawRow, find_files, read_rows, source_name
from lit_rlhf.data.unknown_rows import unknown_row

T = TypeVar("T")

_AHEAD = 1000  # rows that are looked at to tell whether only some are bad
_HEAD = 50  # rows that are looked at to tell the format: enough to outvote a few bad ones
_LONGEST_ID = 200
_LONGEST_NAME = 40  # of a field whose name may be misspelt; comparing longer ones takes long
_STANDARD = ("prompt", "chosen", "rejected", "response", "completion", "messages", "conversations", "system")


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
        good, last, rows = 0, None, iter(rows)
        for location, row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                result = convert(row)
            except DataError as error:
                last = DataError(str(error), location)
                if self.on_bad_row == "stop":
                    unlike_others = good > 0 or not whole or _any_good(rows, convert)
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
        return self._options(**{name: value})

    def _options(self, **options: str) -> str:
        """The command-line words that read this source with further options, those already given among them."""
        path = str(self.path) if isinstance(self.path, str | os.PathLike) else f"[{', '.join(map(str, self.path))}]"
        words = [f"--data.sources.{name} {quoted(value)}" for name, value in (self._given() | options).items()]
        kind = type(self)
        name = kind.__name__ if kind.__module__.startswith("lit_rlhf.") else f"{kind.__module__}.{kind.__name__}"
        return " ".join([f"--data.sources {name} --data.sources.path {quoted(path)}", *words])

    def _given(self) -> dict[str, str]:
        """The options that were given and that a command line would repeat."""
        given = {"split": self.split, "on_bad_row": None if self.on_bad_row == "stop" else self.on_bad_row}
        return {name: value for name, value in given.items() if value is not None}


class PairFiles(RowSource):
    """Preference pairs, demonstrations or prompts from files, in any of the shapes that such data comes in.

    Args:
        path: A file, a glob pattern, a folder, a Hub id (``owner/name`` or ``owner/name:config``), or a list of these.
        format: A name in `lit_rlhf.data.formats.FORMATS`; by default the first rows of each file tell.
        name: For reports; by default the file's name without its ending.
        weight: Share of the records that is used; see `Source`.
        on_bad_row: ``stop`` raises for a row that cannot be read, ``skip`` counts it in ``bad_rows``.
        split: The split of a folder or Hub data set that has several.
        limit: Read no more than this many records.
        label: Which of the two labels of PKU-SafeRLHF says what is preferred.
        fields: The file's names for the format's fields, e.g. ``{prompt: question, chosen: good_answer}``.
        first_wins: What the column of verdicts says where the first of two responses is better, if that is not plain.
        pairs: Which pairs are made of more than two graded responses: the best with the worst (``extremes``), or
            every two whose grades differ (``all``).

    Attributes:
        reports: What each file was read as, as far as it has been read.

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
        first_wins: str | int | None = None,
        pairs: Literal["extremes", "all"] = "extremes",
    ) -> None:
        super().__init__(path, name, weight, on_bad_row, split)
        if format is not None:
            get_reader(format)
        if limit is not None and limit < 1:
            raise DataError(f"expected a positive number, found {limit}", "limit")
        for option, value, known in (("label", label, ("better", "safer")), ("pairs", pairs, ("extremes", "all"))):
            if value not in known:
                raise DataError(f"expected '{known[0]}' or '{known[1]}', found {value!r}", option)
        self.format = format
        self.limit = limit
        self.label = label
        self.fields = fields or {}
        self.first_wins = None if first_wins is None else str(first_wins)
        self.pairs = pairs
        self.reports: dict[str, FileReport] = {}
        self._readers: dict[str, Callable[[Row], Record]] = {}  # of files that are read in parts

    def records(self) -> Iterator[Record]:
        """Yield the records in the order of the files; ``bad_rows`` and ``reports`` begin anew.

        Raises:
            DataError: For bad input: which file and line, which field, what was found and what was expected.
        """
        self.bad_rows, self.reports = 0, {}
        files = chain.from_iterable(map(self._file_records, find_files(self.path)))
        located = (replace(record, source=self.name, location=location) for location, record in files)
        yield from islice(chain.from_iterable(map(self._pairs, located)), self.limit)

    def part_records(self, file: str, rows: Iterable[RawRow]) -> Iterator[Record]:
        """Yield the records of some rows of a file, in its format; ``bad_rows`` counts on.

        Raises:
            DataError: As `records` does.
        """
        if self.pairs == "all":
            hint = "Leave it out, or hold the rows: no data.streaming."
            raise DataError("'all' makes more rows of some than of others, which a stream cannot", "pairs", hint)
        if file not in self._readers:
            readable = _peek(read_rows(file, self.split))[1] if self.format is None else {}
            self._readers[file] = self._row_reader(file, readable)
        for location, record in self._convert(file, rows, self._readers[file], whole=False):
            yield replace(record, source=self.name, location=location)

    def _file_records(self, file: str) -> Iterator[tuple[str, Record]]:
        rows = read_rows(file, self.split)
        head, readable = _peek(rows) if self.format is None else ([], {})
        before = self.bad_rows
        for located in self._convert(file, chain(head, rows), self._row_reader(file, readable)):
            self.reports[file].bad = self.bad_rows - before
            yield located
        self.reports[file].bad = self.bad_rows - before  # those behind the last good one, too

    def _pairs(self, record: Record) -> Iterable[Record]:
        """The pairs that a record's graded responses make, if all are wanted."""
        if self.pairs == "extremes" or len(record.responses) < 3 or record.tie:
            return [record]
        graded = sorted(zip(record.grades, record.responses, strict=True), key=lambda each: -each[0])
        differing = ((good, bad) for good, bad in combinations(graded, 2) if good[0] > bad[0])
        return [
            replace(record, chosen=good[1], rejected=bad[1], chosen_scores=(good[0],), rejected_scores=(bad[0],))
            for good, bad in differing
        ]

    def _row_reader(self, file: str, readable: dict[str, Row]) -> Callable[[Row], Record]:
        """What turns a file's rows into records, given its first readable ones by location."""
        format = self.format or common_format(map(self._renamed, readable.values()))
        if format is None and readable:
            location, row = next(iter(readable.items()))
            wrong = self._absent_field(row)
            message, hint = unknown_row(
                list(map(self._renamed, readable.values())), lambda options: self._options(**options)
            )
            raise DataError(message, location, wrong or hint)
        # Without a readable row the reader is never called.
        report = self.reports[file] = FileReport(file, format or next(iter(FORMATS)))
        reader = with_options(report.format, self.label, self.first_wins)
        return partial(self._read, reader, report, self.format is None)

    def _read(self, reader: Reader, report: FileReport, detected: bool, row: Row) -> Record:
        named = self._renamed(row)
        watched = WatchedRow(named)
        try:
            record = reader(watched)
        except UnsettledError as error:
            hint = f"{error.case}: {self._option(error.option, error.value)}"
            raise DataError(error.message, error.location, hint) from None
        except DataError as error:
            other = detect_format(named) if detected else None
            if other in (None, report.format):
                raise DataError(
                    str(error), hint="" if "\n" in str(error) else self._fields_hint(row, str(error))
                ) from None
            raise self._other_format(report.format, str(other)) from None
        if detected and (other := detect_format(named)) not in (None, report.format):
            raise self._other_format(report.format, str(other))
        identity = _small_id(row)
        watched.used |= identity.keys()
        record = replace(record, meta=identity | record.meta, row=row)
        report.add(watched, record, self.fields)
        return record

    def _other_format(self, format: str, other: str) -> DataError:
        message = f"this row looks like format '{other}', but most of the first ones like '{format}'"
        return DataError(message, hint="Name the `format` to have all rows read alike.")

    def _absent_field(self, row: Row) -> str:
        """What to say of an option ``fields`` that names what a row does not have; empty if there is none."""
        for standard, name in self.fields.items():
            if name not in row:
                near = difflib.get_close_matches(name, _short_names(row), n=1)
                meant = f"; did you mean {near[0]!r}?" if near else "."
                return f"The option fields.{standard} names {name!r}, which this row does not have{meant}"
        for standard in self.fields:
            near = difflib.get_close_matches(standard, _STANDARD, n=1)
            if near and standard not in _STANDARD:
                return f"The option fields.{standard} fills no field of a format; did you mean fields.{near[0]}?"
        return ""

    def _fields_hint(self, row: Row, error: str) -> str:
        """What to do if fields of a row that cannot be read bear unexpected names; ``error`` names the fields."""
        if wrong := self._absent_field(row):
            return wrong
        others = [name for name in _short_names(row) if name not in (*_STANDARD, *self.fields)]
        for standard in _STANDARD:
            near = difflib.get_close_matches(standard, others, n=1)
            if field(standard) in error and near and standard not in row:
                return f"If {near[0]!r} is the {standard}: {self._option(f'fields.{standard}', near[0])}"
        return ""

    def _given(self) -> dict[str, str]:
        limit = None if self.limit is None else str(self.limit)
        given = {"format": self.format, "limit": limit, "first_wins": self.first_wins}
        given |= {f"fields.{standard}": name for standard, name in self.fields.items()}
        given |= {"label": self.label if self.label != "better" else None}
        given |= {"pairs": self.pairs if self.pairs != "extremes" else None}
        return super()._given() | {name: value for name, value in given.items() if value is not None}

    def _renamed(self, row: Row) -> Row:
        """A row under the format's names; a column that was given another name has that alone."""
        given = {name: standard for standard, name in self.fields.items() if name in row}
        if not given:
            return row
        kept = {name: value for name, value in row.items() if name not in given and name not in self.fields}
        return kept | {standard: row[name] for standard, name in self.fields.items() if name in row}


def quoted(value: str) -> str:
    """A value as a word of the command line."""
    return value if re.fullmatch(r"[\w./:@%+,-]+", value) else "'" + value.replace("'", "'\\''") + "'"


def _any_good(rows: Iterator[RawRow], convert: Callable[[Row], object]) -> bool:
    """Whether one of the next rows can be read, so that leaving out bad ones leaves something."""
    for _, row in islice(rows, _AHEAD):
        if not isinstance(row, DataError):
            with suppress(DataError):
                convert(row)
                return True
    return False


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
