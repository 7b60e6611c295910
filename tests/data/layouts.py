"""Rows written in every layout of JSON, and read back."""

import gzip
import json
import tempfile
from pathlib import Path

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import read_rows

ROWS = [
    {"prompt": "Which bird cannot fly?", "chosen": "A penguin: it swims.", "rejected": "[{"},
    {"prompt": 'é\u2028"\\ \U0001f427 {', "chosen": [{"role": "assistant", "content": "}\n]"}], "rejected": None},
    {"prompt": "", "n": -1.5e3, "deep": {"a": [[], {}, [1, {"b": "x"}]]}},
]


def read(content: bytes | str, name: str = "a.jsonl", **options) -> list:
    """The rows of a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [(location.removeprefix(str(path)), row) for location, row in read_rows(str(path), **options)]


def plain(content: bytes | str, name: str = "a.jsonl", **options) -> list:
    return [row for _, row in read(content, name, **options)]


def pretty(rows: list, between: str = "\n", indent: int | str = 2) -> str:
    return between.join(json.dumps(row, indent=indent, ensure_ascii=False) for row in rows)


LAYOUTS = {
    "lines": lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    "lines with foreign ends": lambda rows: "\r\n".join(map(json.dumps, rows)),
    "blank lines": lambda rows: "\n\n \t\n" + "\n \n\n".join(map(json.dumps, rows)) + "\n\n",
    "list": json.dumps,
    "list, a row per line": lambda rows: "[" + ",\n".join(map(json.dumps, rows)) + "]\n",
    "list, commas in front": lambda rows: "[\n" + "\n, ".join(map(json.dumps, rows)) + "\n]\n\n",
    "list over lines": lambda rows: json.dumps(rows, indent=4),
    "list over lines with tabs": lambda rows: "\n\n" + json.dumps(rows, indent="\t", ensure_ascii=False) + "\n",
    "objects over lines": pretty,
    "objects over lines, with blank ones": lambda rows: "\n" + pretty(rows, "\n\n\n") + "\n\n",
    "objects over lines, end to end": lambda rows: pretty(rows, "", indent=1),
    "objects over lines, foreign ends": lambda rows: pretty(rows).replace("\n", "\r\n"),
    "objects end to end": lambda rows: "".join(map(json.dumps, rows)),
    "objects with blanks between": lambda rows: " ".join(map(json.dumps, rows)) + "\n",
    "first over lines, then one each": lambda rows: pretty(rows[:1]) + "\n" + "\n".join(map(json.dumps, rows[1:])),
    "data": lambda rows: json.dumps({"version": "2", "data": rows}),
    "examples over lines": lambda rows: json.dumps({"examples": rows, "count": len(rows)}, indent=2),
}


def outcome(content: bytes, name: str) -> list:
    """The rows and errors in their place, or the error that ends it all."""
    try:
        return plain(content, name)
    except DataError as error:
        return [error]


def bomb(content: str, name: str) -> bytes:
    return gzip.compress(content.encode()) if name.endswith(".gz") else content.encode()
