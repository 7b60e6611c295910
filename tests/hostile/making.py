"""How malformed input is made: `Bad`, and what writes files, tables, folders and stores that are damaged somewhere."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GOOD: dict[str, Any] = {"prompt": "q", "chosen": "a", "rejected": "b"}
MEND = "on_bad_row skip"
AGAIN = "Copy or download it again."
ROWS_WANTED = "Name a file with rows."
FIRST = "It is the first row"


@dataclass(frozen=True)
class Bad:
    """One malformed file or folder.

    Attributes:
        name: Of the file; what stands before a blank only tells two cases apart.
        content: Its bytes, or a function that writes it.
        where: What the message has behind the path.
        what: What was wrong.
        todo: What to do about it.
        reader: ``pairs``, ``texts``, ``labelled``, ``store``, ``strength``, ``tokenizer`` or ``template``.
        options: Of the reader.
    """

    name: str
    content: bytes | Callable[[Path], None]
    where: str
    what: str
    todo: str
    reader: str = "pairs"
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write it into a folder; returns its path."""
        path = folder / self.name.rsplit(" ", 1)[-1]
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        return path


def lines(*rows: Any) -> bytes:
    """JSON Lines; bytes stand as they are."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def row(name: str, bad: Any, what: str, **options: Any) -> Bad:
    """A bad row behind a good one."""
    content = lines(options.pop("good", GOOD), bad)
    return Bad(f"{name} a.jsonl", content, ":2: ", what, options.pop("todo", MEND), options=options)


def first(name: str, bad: Any, what: str, todo: str = FIRST, **options: Any) -> Bad:
    """A bad first row."""
    return Bad(f"{name} a.jsonl", lines(bad), ":1: ", what, todo, options=options)


def parquet(*rows: dict[str, Any], change: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    """A Parquet file, whose bytes may be changed."""

    def write(path: Path) -> None:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        path.write_bytes(change(path.read_bytes()))

    return write


def zipped(*names: str, content: bytes) -> bytes:
    """A zip file of files that are all alike."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return held.getvalue()


def by_arrow(codec: str, content: bytes) -> bytes:
    """Bytes compressed by zstd or lz4."""
    held = pa.BufferOutputStream()
    with pa.CompressedOutputStream(held, codec) as stream:
        stream.write(content)
    return held.getvalue().to_pybytes()


def folder(**files: str) -> Callable[[Path], None]:
    """A folder of files; ``__`` in a name stands for a dot."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, text in files.items():
            (path / name.replace("__", ".")).write_text(text, "utf-8")

    return write


def store(change: Callable[[Path], Any], *rows: dict[str, Any]) -> Callable[[Path], None]:
    """A finished store, whose folder may be changed."""

    def write(path: Path) -> None:
        from lit_rlhf.data.store import Store

        whole = Store(path)
        whole.begin({"policy": "p"})
        whole.write_part(0, list(rows) or [{"pair_hash": "x", "differences": [1.0]}])
        whole.finish(1)
        change(path)

    return write


def tokenizer(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """The folder of a tokenizer, which may be changed."""

    def write(path: Path) -> None:
        from lit_rlhf.world import tokenizer as world

        world().save_pretrained(path)
        change(path)

    return write


def saved(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A folder that `save_to_disk` wrote, which may be changed."""

    def write(path: Path) -> None:
        import datasets

        datasets.Dataset.from_list([GOOD]).save_to_disk(path)
        change(path)

    return write


def replace(name: str, old: str, new: str) -> Callable[[Path], Any]:
    """Replace a text in a file of a folder."""
    return lambda path: (path / name).write_text((path / name).read_text("utf-8").replace(old, new), "utf-8")


def put(name: str, text: str) -> Callable[[Path], Any]:
    """Put a text in the place of a file of a folder."""
    return lambda path: (path / name).write_text(text, "utf-8")


def cut(name: str) -> Callable[[Path], Any]:
    """Keep half of a file of a folder."""
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[: (path / name).stat().st_size // 2])
