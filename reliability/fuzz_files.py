"""Fuzzed files of rows: JSON in all layouts, tables, compressed files, Parquet, Arrow, folders."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lit_rlhf.data import rows
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.file_report import lines
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.formats import FORMATS, detect_format
from lit_rlhf.data.records import Record
from reliability.fuzz_layouts import Layout, json_layouts, says, table_layouts, unpacked
from reliability.fuzz_oracles import check_record
from reliability.fuzz_plain import demand
from reliability.fuzz_seeds import PAIRS, README, ROWS

Run = Callable[[bytes], None]

_PLAIN = {"jsonl": PAIRS, **{name: [row for row in rows if detect_format(row) == name] for name, rows in ROWS.items()}}
_LINES = [b"".join(json.dumps(row).encode() + b"\n" for row in rows) for rows in _PLAIN.values()]


def _check_file(path: Path, content: bytes, layouts: Callable[[], list[Layout]]) -> None:
    """Read preference pairs from a file; wrong are a row that no plain parser finds there, and one that is lost."""
    path.write_bytes(content)
    skip = content.count(b"a") % 2 == 1
    source = PairFiles(str(path), on_bad_row="skip" if skip else "stop")
    records = list(source.records())
    (report,) = source.reports.values()
    for record in records:
        demand(detect_format(record.row) in (None, report.format), "a row of another format", record.row)
        check_record(report.format, record.row, record)
    demand(skip or source.bad_rows == 0, "a bad row was skipped", content)
    demand((report.rows, report.bad) == (len(records), source.bad_rows), "a wrong count", report)
    demand({*report.used, *report.left_aside} == {name for record in records for name in record.row}, "unnamed", report)
    "\n".join([json.dumps(report.asdict()), *lines([report])]).encode("utf-8", "backslashreplace")
    tried = layouts()
    fitting = any(_fits(layout, records, source.bad_rows, f"{path}:") for layout in tried)
    demand(fitting, "other rows than are written, or fewer", [record.row for record in records], tried)


def _fits(layout: Layout, records: list[Record], bad: int, where: str) -> bool:
    """Whether records are rows of a layout, and none of its rows is lost."""
    pairs = [(record.row, layout.get(record.location.removeprefix(where))) for record in records]
    return len(records) + bad >= len(layout) and all(_alike(found, written) for found, written in pairs)


def _alike(found: dict[str, Any], written: Any) -> bool:
    if not isinstance(written, dict) or list(found) != list(written):
        return False
    if repr(found) == repr(written):
        return True
    return all(isinstance(cell, str) and says(cell, found[name]) for name, cell in written.items())


def in_lines(folder: Path) -> Run:
    """JSON in a file that is called JSON Lines."""
    return lambda data: _check_file(folder / "a.jsonl", data, lambda: json_layouts(data))


def in_json(folder: Path) -> Run:
    """JSON in a file that is called JSON."""
    return lambda data: _check_file(folder / "a.json", data, lambda: json_layouts(data))


def in_a_table(folder: Path) -> Run:
    """A table, or JSON in a file that is called one."""
    return lambda data: _check_file(folder / "a.csv", data, lambda: [*table_layouts(data), *json_layouts(data)])


def packed(folder: Path) -> Run:
    """A compressed file, whatever its name says."""

    def layouts(data: bytes) -> list[Layout]:
        content, name = unpacked(data)
        tables = table_layouts(content) if name.lower().endswith(".csv") else []
        return [*tables, *(table_layouts(content, "\t") if name else []), *json_layouts(content)]

    return lambda data: _check_file(folder / "a.jsonl.gz", data, lambda: layouts(data))


def in_parquet(folder: Path) -> Run:
    """Wrong is a row that pyarrow alone does not find in the file."""

    def expected(path: Path) -> list[Any]:
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read().to_pylist()

    return lambda data: _check_columns(folder / "a.parquet", data, expected)


def in_arrow(folder: Path) -> Run:
    """Wrong is a row that pyarrow alone does not find in the file."""

    def expected(path: Path) -> list[Any]:
        content = path.read_bytes()
        opened = pyarrow.ipc.open_file if content.startswith(b"ARROW1") else pyarrow.ipc.open_stream
        table = opened(pyarrow.BufferReader(content)).read_all()
        table.validate(full=True)
        return table.to_pylist()

    return lambda data: _check_columns(folder / "a.arrow", data, expected)


def _check_columns(path: Path, data: bytes, expected: Callable[[Path], list[Any]]) -> None:
    path.unlink(missing_ok=True)  # not cut while an earlier input is still mapped into memory
    path.write_bytes(data)
    found = [row for _, row in rows.read_rows(str(path))]
    demand(repr(found) == repr(expected(path)), "other rows", found)
    for row in found:
        for format in ("explicit", "hh"):
            try:
                record = FORMATS[format](row)
            except DataError:
                continue
            check_record(format, row, record)


def in_a_folder(folder: Path) -> Run:
    """A folder's ``README.md`` that lists its files; wrong is a row twice, or from elsewhere."""
    inside = folder / "set"
    names = ["data/train-0.jsonl", "data/train-1.jsonl", "data/test.jsonl", "more/part.jsonl"]
    for name in [*names, "../outside.jsonl"]:
        path = inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"prompt": f"{name} {number}"}) + "\n" for number in range(2)))

    def run(data: bytes) -> None:
        (inside / "README.md").write_bytes(data[1:])
        config = (":default", ":more", "")[(data or b"\0")[0] % 3]
        found = list(rows.read_rows(f"{inside}{config}", (None, "train", "test")[len(data) % 3]))
        for location, row in found:
            name, line = location.removeprefix(f"{inside}/").rsplit(":", 1)
            demand(name in names and row == {"prompt": f"{name} {int(line) - 1}"}, "a row from elsewhere", location)
        demand(len(dict(found)) == len(found), "a row twice", found)

    return run


# ---------------------------------------------------------------------- seeds


def line_seeds() -> list[bytes]:
    """JSON Lines of every format."""
    return _LINES


def json_seeds() -> list[bytes]:
    """JSON in all other layouts."""
    return [
        *(json.dumps(rows).encode() for rows in _PLAIN.values()),
        "\ufeff".encode() + json.dumps(PAIRS, indent=1).encode(),
        b"\n".join(json.dumps(row, indent=2).encode() for row in PAIRS),
        b" ".join(json.dumps(row).encode() for row in PAIRS) + b"\n",
        *(json.dumps(layout).encode() for layout in _json_layouts()),
    ]


def _json_layouts() -> Iterator[dict[str, Any]]:
    names = list(PAIRS[0])
    yield {"version": "1", "data": PAIRS}
    yield {"data": {"train": PAIRS}}
    yield {name: [row[name] for row in PAIRS] for name in names}
    yield {name: {str(i): row[name] for i, row in enumerate(PAIRS)} for name in names}
    yield {str(i): row for i, row in enumerate(PAIRS)}
    yield {"columns": names, "index": [0, 1, 2, 3], "data": [list(row.values()) for row in PAIRS]}
    schema = {"fields": [{"name": "index"}], "primaryKey": ["index"]}
    yield {"schema": schema, "data": [{"index": i, **row} for i, row in enumerate(PAIRS)]}
    yield {"rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(PAIRS)]}


def table_seeds() -> list[bytes]:
    """Tables of several dialects."""
    compared = [{"prompt": f"q{i}", "response_a": "bad", "response_b": "good", "winner": i} for i in ("a", "B", "tie")]
    scored = [{**row, "score_chosen": 2, "score_rejected": ".5" if row["id"] else ""} for row in PAIRS]
    dialects: list[dict[str, Any]] = [{}, {"delimiter": ";"}, {"lineterminator": "\r"}, {"quoting": csv.QUOTE_ALL}]
    return [
        *(_table(PAIRS, **dialect) for dialect in dialects),
        _table(compared),
        _table(scored, delimiter="\t"),
        "\ufeffsep=|\r\n".encode() + _table(PAIRS, delimiter="|"),
    ]


def _table(content: list[dict[str, Any]], **dialect: Any) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(content[0]), **dialect)
    writer.writeheader()
    writer.writerows(content)
    return out.getvalue().encode()


def packed_seeds() -> list[bytes]:
    """Compressed files of every kind."""
    text, pretty = _LINES[0], json.dumps(PAIRS, indent=1).encode()
    found = [gzip.compress(text, mtime=0) for text in _LINES[:3]] + [bz2.compress(text), lzma.compress(pretty)]
    for codec in ("zstd", "lz4"):
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, codec) as stream:
            stream.write(text)
        found.append(sink.getvalue().to_pybytes())
    for name, content in (("a.jsonl", text), ("a.csv", _table(PAIRS))):
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
        found.append(sink.getvalue())
    return found


def column_seeds(kind: str) -> list[bytes]:
    """Parquet files, or Arrow files in both of their formats."""
    table, sink = pyarrow.Table.from_pylist(PAIRS), pyarrow.BufferOutputStream()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, sink)
        return [sink.getvalue().to_pybytes()]
    found = []
    for new in (pyarrow.ipc.new_file, pyarrow.ipc.new_stream):
        sink = pyarrow.BufferOutputStream()
        with new(sink, table.schema) as writer:
            writer.write_table(table)
        found.append(sink.getvalue().to_pybytes())
    return found


def folder_seeds() -> list[bytes]:
    """Heads of ``README.md``; the first byte chooses the config."""
    return [b"\0" + README, b"\1" + README, b"\2# Pairs\n"]
