"""Where the rows of a file are, told by plain parsers of whole files."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import pyarrow

Layout = dict[str, Any]
"""Rows by what a location has behind the path: ``3``, ``3:17`` for the second object of a line, ``item 2``."""


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """A JSON object, or None for one that gives a field twice: no reader may accept it."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


_JSON = json.JSONDecoder(object_pairs_hook=distinct)


def json_layouts(content: bytes) -> list[Layout]:
    """All ways to find rows in JSON: one a line, one behind the other, as a list, within an object."""
    found = [_lines(content)]
    try:
        text = content.decode("utf-8-sig")
        values = _values(text)
    except (ValueError, RecursionError):
        return found
    found.append(values)
    if len(values) == 1:
        (value,) = values.values()
        lists = [value] if isinstance(value, list) else list(_lists_within(value, 3))
        found += [_items(rows) for rows in lists]
    return found


def row_of(value: Any) -> Any:
    """A row without what the Hub's viewer puts around it."""
    inner = value.get("row") if isinstance(value, dict) and "row_idx" in value else None
    return inner if isinstance(inner, dict) and value.keys() <= {"row_idx", "row", "truncated_cells"} else value


def _lines(content: bytes) -> Layout:
    """The lines that can be read."""
    rows = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            rows[str(number)] = row_of(_JSON.decode(line.rstrip(b"\r").decode()))
        except (ValueError, RecursionError):
            continue
    return rows


def _values(text: str) -> Layout:
    """Values one behind the other, whatever lines they are on."""
    rows: Layout = {}
    place, ended = 0, 0  # the line on which the former one ended
    while place < len(text):
        if text[place] in " \t\r\n":
            place += 1
            continue
        line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
        value, place = _JSON.raw_decode(text, place)
        rows[f"{line}:{column}" if line == ended else str(line)] = row_of(value)
        ended = text.count("\n", 0, place) + 1
    return rows


def _items(rows: list[Any]) -> Layout:
    return {f"item {number}": row_of(row) for number, row in enumerate(rows, 1)}


def _lists_within(value: Any, depth: int) -> Iterator[list[Any]]:
    """Every list of rows that an object may hold: under some key, or as the tables that pandas writes."""
    if not isinstance(value, dict) or not value or not depth:
        return
    names, cells = list(value), list(value.values())
    for each in cells:
        if isinstance(each, list):
            yield each
            yield [{k: v for k, v in row.items() if k != "index"} if isinstance(row, dict) else row for row in each]
        yield from _lists_within(each, depth - 1)
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        yield [dict(zip(map(str, value["columns"]), row, strict=False)) if isinstance(row, list) else row
               for row in value["data"]]  # fmt: skip
    if all(isinstance(each, list) for each in cells):
        yield [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=False)]
    if all(isinstance(each, dict) for each in cells):
        yield cells
        yield [{name: column.get(label) for name, column in value.items()} for label in cells[0]]


# ---------------------------------------------------------------------- tables


def table_layouts(content: bytes, delimiters: str = ",;\t|") -> list[Layout]:
    """All ways to find rows in a table, whose delimiter is not told; cells are texts."""
    try:
        text = content.decode("utf-8-sig")
    except ValueError:
        return []
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", text)
    begin = next((place for place, line in enumerate(lines) if line.strip()), 0)
    if lines and (declared := re.fullmatch(r"sep=(.)", lines[begin].strip())):
        begin, delimiters = begin + 1, declared[1]
    found = [_table(lines, begin, delimiter, blanks) for delimiter in delimiters for blanks in (False, True)]
    return [layout for layout in found if layout]


def _table(lines: list[str], begin: int, delimiter: str, blanks: bool) -> Layout:
    reader = csv.reader(iter(lines[begin:]), delimiter=delimiter, strict=True, skipinitialspace=blanks)
    names: list[str] = []
    rows: Layout = {}
    while True:
        number = begin + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return rows
        except csv.Error:
            continue
        if cells and not names:
            names = [cell.strip() or f"Unnamed: {place}" for place, cell in enumerate(cells)]
        elif cells:
            rows[str(number)] = dict(zip(names, cells, strict=True)) if len(cells) == len(names) else None


def says(cell: str, value: Any) -> bool:
    """Whether a cell of a table says a value: a text, a number, true or false, or nothing."""
    if value is None or isinstance(value, str):
        return cell == (value or "")
    if isinstance(value, bool):
        return cell.strip().lower() == str(value).lower()
    return float(cell) == value


# ---------------------------------------------------------------------- compressed files


def unpacked(data: bytes) -> tuple[bytes, str]:
    """The bytes of a compressed file, and its name within, if it has one; plain ones come as they are."""
    readers = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\0": lzma.decompress}
    readers |= {b"\x28\xb5\x2f\xfd": lambda data: _by_arrow(data, "zstd")}
    readers |= {b"\x04\x22\x4d\x18": lambda data: _by_arrow(data, "lz4")}
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not re.search(r"(^|/)(__MACOSX/|\.)|/$", name)]
            return archive.read(names[0]), names[0]
    return next((read for magic, read in readers.items() if data.startswith(magic)), bytes)(data), ""


def _by_arrow(data: bytes, codec: str) -> bytes:
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), codec) as stream:
        return stream.read()
