"""Compressed files and files of other kinds, told by their content."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.opening import Pushback
from lit_rlhf.data.rows import is_hub_id, seekable_kind, source_name
from tests.data.layouts import LAYOUTS, ROWS, outcome, plain, read

LINES = LAYOUTS["lines"](ROWS).encode()
TABLE = b"prompt,score\nWhy?,1\n"


def zipped(content: bytes, *more: str, name: str = "inner.jsonl") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in (*more, name):
            archive.writestr(each, content)
    return out.getvalue()


def arrow(codec: str):
    return lambda content: pyarrow.compress(content, codec, asbytes=True)


PACKED = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": arrow("zstd"),
    "lz4": arrow("lz4"),
    "zip": zipped,
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.zst", "a.bz2", "a", "a.txt", "a.jsonl.XZ", "a.zip"])
@pytest.mark.parametrize("layout", ["lines", "list over lines", "objects over lines", "data"])
@pytest.mark.parametrize("packing", PACKED)
def test_compressed_files_are_read_whatever_their_name(packing, layout, name):
    assert plain(PACKED[packing](LAYOUTS[layout](ROWS).encode()), name) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.bz2"])
@pytest.mark.parametrize("packing", [name for name in PACKED if name != "zip"])
def test_so_are_compressed_tables_that_are_called_tables(packing, name):
    assert read(PACKED[packing](TABLE), name) == [(":2", {"prompt": "Why?", "score": 1})]


def test_the_name_within_a_zip_file_tells_a_table():
    assert plain(zipped(TABLE, name="x/pairs.csv"), "a.zip") == [{"prompt": "Why?", "score": 1}]
    assert plain(zipped(TABLE, "__MACOSX/._pairs.csv", ".DS_Store", "x/", name="pairs.csv"), "a.zip") == [
        {"prompt": "Why?", "score": 1}
    ]


@pytest.mark.parametrize("packing", [name for name in PACKED if name not in ("zip", "lz4")])
def test_files_that_are_compressed_in_several_parts_are_read_to_the_end(packing):
    first, second = (LAYOUTS["lines"](rows).encode() for rows in (ROWS[:1], ROWS[1:]))
    assert plain(PACKED[packing](first) + PACKED[packing](second)) == ROWS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json.xz", "a.csv.bz2", "a.jsonl.zip"])
def test_a_file_that_was_unpacked_but_kept_its_name_is_read(name):
    assert plain(TABLE if "csv" in name else LINES, name) == (
        [{"prompt": "Why?", "score": 1}] if "csv" in name else ROWS
    )


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_what_is_cut_off_is_said_to_be_damaged(packing, part):
    content = PACKED[packing](LINES * 50)
    with pytest.raises(DataError, match=f"a.jsonl: damaged {packing} file: ") as caught:
        read(content[: int(part * len(content))])
    assert "Copy or download it again." in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    st.data(), st.sampled_from(sorted(PACKED)), st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv.xz"])
)
def test_damage_gives_rows_or_a_data_error(data, packing, name):
    content = PACKED[packing](LINES * 3)
    begin, end = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    content = content[:begin] + data.draw(st.binary(max_size=4)) + content[min(end, begin + 9) :]
    assert outcome(content, name)


@pytest.mark.parametrize("packing", PACKED)
def test_an_empty_file_within_is_empty(packing):
    with pytest.raises(DataError, match="empty: it holds no row"):
        read(PACKED[packing](b""))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst", "a.csv.gz"])
def test_an_empty_file_is_empty_or_damaged(name):
    with pytest.raises(DataError, match=r"empty: it holds no row|damaged"):
        read(b"", name)


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("a.jsonl")
        entry.size = len(LINES)
        archive.addfile(entry, io.BytesIO(LINES))
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "says", "todo"),
    [
        ("a.parquet", LFS, "a pointer of Git LFS", "git lfs pull"),
        ("a.jsonl", LFS, "a pointer of Git LFS", "git lfs pull"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>", "a web page", "Download the raw file"),
        ("a.csv", b"<HTML><body>Sign in", "a web page", "Download the raw file"),
        ("a.json", b'<?xml version="1.0"?>', "XML", "to_json("),
        ("a.jsonl", pickle.dumps(ROWS), "a pickle", "to_json("),
        ("a.pkl", pickle.dumps(ROWS, protocol=2), "a pickle", "to_json("),
        ("a.jsonl", b"SQLite format 3\0", "SQLite", "to_json("),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel file", "CSV"),
        ("a.xlsx", zipped(b"", "xl/workbook.xml"), "an Excel workbook", "CSV"),
        ("a.csv", zipped(b"", "xl/workbook.xml"), "an Excel workbook", "CSV"),
        ("a.zip", zipped(LINES, "one.jsonl"), "a zip file with 2 files", "Unpack it"),
        ("a.tar", tarred(), "a tar archive", "Unpack it"),
        ("a.jsonl.tar.gz", gzip.compress(tarred()), "a tar archive", "Unpack it"),
        ("a.tgz", gzip.compress(tarred()), "a tar archive", "Unpack it"),
        ("a.parquet.gz", gzip.compress(b"PAR1"), "a compressed Parquet file", "Unpack it"),
        ("a.txt", b"Which bird cannot fly?\n", "unknown file type '.txt'; readable are .jsonl", "to_json('a.jsonl'"),
        ("a", b"x", "unknown file type ''", "to_json('a.jsonl'"),
        ("a.md", b"# Pairs", "unknown file type '.md'", "to_json('a.jsonl'"),
        ("a.txt.gz", gzip.compress(b"Why?"), "unknown file type '.txt'", "to_json('a.jsonl'"),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else "",
)
def test_other_kinds_are_refused_by_their_name(name, content, says, todo):
    with pytest.raises(DataError) as caught:
        read(content, name)
    message, hint = str(caught.value).split("\n  ")
    assert says in message
    assert todo in hint


def test_a_zip_file_with_a_password_is_refused():
    content = bytearray(zipped(LINES))
    content[6] |= 1  # the flag of an encrypted member, here and in the list of members
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match=r"damaged zip file: .*encrypted"):
        read(bytes(content), "a.zip")


@pytest.mark.parametrize("packing", PACKED)
def test_a_bomb_is_refused_before_it_fills_the_memory(monkeypatch, packing):
    monkeypatch.setattr("lit_rlhf.data.rows._LONGEST_ROW", 2**20)
    content = PACKED[packing](b'{"a": 1}\n' + b"x" * 2**26)
    with pytest.raises(DataError, match=r"a\.jsonl:2: a row of 1 MiB or more"):
        read(content)


@pytest.mark.parametrize("packing", PACKED)
def test_no_compressed_file_is_read_from_the_middle(tmp_path, packing):
    path = tmp_path / "a.jsonl"
    path.write_bytes(PACKED[packing](LINES))
    assert seekable_kind(str(path)) is None


def test_names_of_compressed_files_and_tables_are_no_hub_ids_and_come_without_endings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "pairs.csv",
        "pairs.jsonl.zst",
        "pairs.tsv.gz",
        "pairs.arrow",
        "pairs.zip",
        "pairs.json.bz2",
        "pairs.txt",
    ):
        assert not is_hub_id(f"owner/{name}")
        assert source_name(f"owner/{name}") == "pairs"


@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=12))
def test_what_is_put_back_comes_again(parts, steps):
    """Whatever is read, peeked at and put back: all bytes come once, in order; lines end where they end."""
    content = b"\n".join(parts)
    stream, found, plainly = Pushback(io.BytesIO(content)), b"", io.BytesIO(content)
    for by_line, size in steps:
        data = stream.readline(size) if by_line else stream.read(size)
        assert data == (plainly.readline(size) if by_line else plainly.read(size))
        stream.unread(data)
        assert stream.peek(size + 1)[: len(data)] == data
        assert stream.read(len(data)) == data
        found += data
    assert found + stream.read(len(content)) == content


def test_a_file_of_a_name_that_says_nothing_is_read_by_what_it_holds(tmp_path):
    for name in ("pairs", "pairs.dat", "pairs.txt", "pairs.log"):
        path = Path(tmp_path, name)
        path.write_bytes(b"\xef\xbb\xbf\n" + LINES)
        assert seekable_kind(str(path)) == "JSON"
