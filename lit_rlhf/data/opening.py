"""Files as streams of plain bytes: compression is told from the content, and so is what the bytes are."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from lit_rlhf.data.errors import DataError, excerpt

Kind = Literal["JSON", "table", "Parquet", "Arrow"]

AGAIN = "Copy or download it again."
READABLE = ".jsonl, .ndjson, .json, .csv, .tsv (each also compressed: .gz, .bz2, .xz, .zst, .zip), .parquet and .arrow"
JSON_NAME = re.compile(r"\.(jsonl|ndjson|jsonlines|json)$", re.IGNORECASE)
TABLE_NAME = re.compile(r"\.(csv|tsv|tab)$", re.IGNORECASE)
PACKED_NAME = re.compile(r"\.(gz|gzip|bz2|xz|lzma|zst|zstd|lz4|zip)$", re.IGNORECASE)

_HEAD = 512
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_PACKED_BY_NAME = {
    **{"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "xz": "xz", "lzma": "xz"},
    **{"zst": "zstd", "zstd": "zstd", "lz4": "lz4", "zip": "zip"},
}
_AS_TABLE = "Save it as CSV, or with pandas: to_json('FILE.jsonl', orient='records', lines=True)."
_FOREIGN = {
    b"version https://git-lfs": ("a pointer of Git LFS, not the data", "Run `git lfs pull` where it was cloned."),
    b"<!doctype": ("a web page, not the data", "Download the raw file: on the Hub, 'resolve' in place of 'blob'."),
    b"<html": ("a web page, not the data", "Download the raw file: on the Hub, 'resolve' in place of 'blob'."),
    b"<?xml": ("XML", _AS_TABLE),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", _AS_TABLE),
    b"SQLite format 3": ("an SQLite database", _AS_TABLE),
    b"\x89HDF": ("an HDF5 file", _AS_TABLE),
    b"ORC": ("an ORC file", _AS_TABLE),
    b"Obj\x01": ("an Avro file", _AS_TABLE),
    b"\x93NUMPY": ("a NumPy file", _AS_TABLE),
    b"FEA1": ("a Feather file of version 1", _AS_TABLE),
    b"Rar!": ("a RAR archive", "Unpack it."),
    b"7z\xbc\xaf": ("a 7z archive", "Unpack it."),
    **{bytes([0x80, version]): ("a pickle, which might run code", _AS_TABLE) for version in range(2, 6)},
}


class Pushback:
    """A stream of bytes into which what was read can be put back."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._held = io.BytesIO()

    def read(self, size: int) -> bytes:
        """The next bytes; fewer than ``size`` only at the end."""
        data = self._held.read(size)
        return data + self._stream.read(size - len(data)) if len(data) < size else data

    def readline(self, size: int) -> bytes:
        """The next line with its end; ``size`` bytes of a longer one."""
        line = self._held.readline(size)
        if len(line) == size or line.endswith(b"\n"):
            return line
        return line + self._stream.readline(size - len(line))

    def unread(self, data: bytes) -> None:
        """Put bytes in front of what comes next."""
        self._held = io.BytesIO(data + self._held.read())

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay the next ones."""
        data = self.read(size)
        self.unread(data)
        return data

    def seek(self, place: int) -> None:
        """Go on from a byte of the file."""
        self._held = io.BytesIO()
        self._stream.seek(place)


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is being read.

    Attributes:
        path: As it was given.
        name: What its plain bytes would be called: without the ending of a compression.
        stream: Its plain bytes.
        packing: How they were compressed; empty for a plain file.
        longest: Bytes that a row must stay below; a bomb in a compressed file is refused before it fills the memory.
    """

    path: str
    name: str
    stream: Pushback
    packing: str
    longest: int


@contextmanager
def opened(path: str, longest: int) -> Generator[Opened]:
    """Open a file for as long as its rows are read, unpacked if it is compressed.

    Raises:
        DataError: If it cannot be read, or turns out to be damaged while it is.
    """
    packing = ""
    try:
        with open(path, "rb") as raw:
            packing = _packing(raw, path)
            name, stream = _unpacked(raw, packing, path)
            with stream:
                yield Opened(path, name, Pushback(stream), packing, longest)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        if isinstance(error, RuntimeError) and packing != "zip":  # there it is a password, or an unknown compression
            raise
        system = isinstance(error, OSError) and error.errno is not None
        if system or not packing:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DataError(f"cannot be read: {reason}", path, "May you read it?") from error
        raise DataError(f"damaged {packing} file: {error}", path, AGAIN) from error


def kind(file: Opened) -> Kind:
    """What a file holds, by its first bytes; where these leave it open, by its name.

    Raises:
        DataError: If it is of a kind that is not read; the message says which and what to do.
    """
    head = file.stream.peek(_HEAD)
    for magic, (what, hint) in _FOREIGN.items():
        if head.startswith(magic) or head[:20].lower().startswith(magic):
            raise DataError(f"this is {what}", file.path, hint)
    if head[257:262] == b"ustar":
        raise DataError("this is a tar archive", file.path, "Unpack it, and name the files in it.")
    for found, magics, ending in (
        ("Parquet", (b"PAR1",), ".parquet"),
        ("Arrow", (b"ARROW1", b"\xff\xff\xff\xff"), (".arrow", ".feather")),
    ):
        if head.startswith(magics) or file.name.lower().endswith(ending):
            if file.packing:
                raise DataError(f"this is a compressed {found} file", file.path, "Unpack it.")
            return cast(Kind, found)
    like_json = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    if TABLE_NAME.search(file.name) and not like_json:
        return "table"
    if JSON_NAME.search(file.name) or like_json:
        return "JSON"
    suffix = Path(file.name).suffix or Path(file.path).suffix
    hint = f"Write it anew: pandas.read_…(…).to_json('{Path(file.name).stem}.jsonl', orient='records', lines=True)."
    raise DataError(f"unknown file type '{excerpt(suffix)}'; readable are {READABLE}", file.path, hint)


def _packing(raw: Any, path: str) -> str:
    """How a file is compressed; a name alone tells that only of what is not plain text."""
    head = raw.peek(_HEAD)[:_HEAD]
    for magic, packing in _PACKED.items():
        if head.startswith(magic):
            return packing
    named = PACKED_NAME.search(path)
    return _PACKED_BY_NAME[named[1].lower()] if named and not (head and _is_text(head)) else ""


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(char >= " " or char in "\t\r\n" for char in text)


def _unpacked(raw: IO[bytes], packing: str, path: str) -> tuple[str, IO[bytes]]:
    """The name of the plain bytes, and the bytes."""
    name = PACKED_NAME.sub("", path) if packing or PACKED_NAME.search(path) else path
    if packing == "zip":
        return _only_member(raw, path)
    if packing == "gzip":
        return name, cast(IO[bytes], gzip.open(raw))
    if packing == "bzip2":
        return name, bz2.open(raw)
    if packing == "xz":
        return name, lzma.open(raw)
    if packing:
        import pyarrow

        return name, io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), packing))
    return name, raw


def _only_member(raw: IO[bytes], path: str) -> tuple[str, IO[bytes]]:
    """The one file in a zip file; what macOS adds to it is none."""
    archive = zipfile.ZipFile(raw)
    names = [each.filename for each in archive.infolist() if not each.is_dir()]
    if "xl/workbook.xml" in names:
        raise DataError("this is an Excel workbook", path, _AS_TABLE)
    names = [name for name in names if not re.search(r"(^|/)(__MACOSX/|\.)", name)]
    if len(names) != 1:
        raise DataError(f"a zip file with {len(names)} files in it, not one", path, "Unpack it, and name its files.")
    return names[0], archive.open(names[0])
