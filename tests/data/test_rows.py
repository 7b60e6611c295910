import gzip
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import find_files, is_hub_id, read_rows, source_name

ROWS = [{"prompt": "één\u2028two", "n": 1, "turns": [{"role": "user", "content": "x\n\ny"}]}, {"prompt": "b", "n": 2}]


def lines(rows: list) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def written(folder: Path, name: str, rows: list) -> str:
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return str(path)
    text = json.dumps(rows, indent=1).encode() if ".json" in path.suffixes else lines(rows)
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.JSONL.gz", "a.json", "a.json.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows_in_order(tmp_path, name):
    rows = [{"prompt": f"p{i}", "n": i, "turns": [{"role": "user", "content": "é\n"}]} for i in range(2500)]
    path = written(tmp_path, name, rows)
    found = list(read_rows(path))
    assert [row for _, row in found] == rows
    # The place counts from one, within this file.
    assert [int(location.removeprefix(path).lstrip(":itemrow ")) for location, _ in found] == list(range(1, 2501))


def test_json_lines_may_have_a_mark_blank_lines_and_foreign_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    first, second = lines(ROWS[:1]), lines(ROWS[1:])
    path.write_bytes(b"\xef\xbb\xbf" + first.replace(b"\n", b"\r\n") + b"\r\n   \n" + second.rstrip(b"\n"))
    assert list(read_rows(str(path))) == [(f"{path}:1", ROWS[0]), (f"{path}:4", ROWS[1])]


def test_a_json_file_may_hold_lines_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(lines(ROWS))
    assert [row for _, row in read_rows(str(path))] == ROWS


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"a": 1', "broken JSON at character 8"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at position 8"),
        (b"{'a': 1}", "JSON has double quotes"),
        (b'{"a": None}', "JSON says null"),
        (b'{"a": 1},', "no comma behind them"),
        (b'{"a": 1,}', "broken JSON"),
        (b'["a"]', "expected one JSON object per row, found a list"),
        (b"3", "found a number"),
        (b"null", "found null"),
        (b'{"a": 1} {"a": 2}', "broken JSON at character 10"),
        (b'{"a": 1, "b": 2, "a": 3}', "field 'a' is given more than once"),
        (b'{"m": [{"role": 1, "role": 2}]}', "field 'role' is given more than once"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "unreadable JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "unreadable JSON"),
        (b"\x00", "broken JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_line_comes_as_its_error_and_the_next_line_is_read(tmp_path, line, says):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(ROWS[:1]) + line + b"\n" + lines(ROWS[1:]))
    (_, before), (location, error), (_, after) = read_rows(str(path))
    assert [before, after] == ROWS
    assert location == f"{path}:2"
    assert isinstance(error, DataError)
    assert says in str(error)
    assert "cut off" not in str(error)


def test_a_truncated_last_line_is_called_so(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(ROWS)[:-5])
    (_, first), (location, error) = read_rows(str(path))
    assert first == ROWS[0]
    assert location == f"{path}:2"
    assert "cut off" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "empty: it holds no row"),
        ("a.jsonl", b"\n \n", "empty: it holds no row"),
        ("a.json", b"[]", "empty: it holds no row"),
        ("a.json", b'[{"a": 1},', "broken JSON"),
        ("a.csv", b"prompt,chosen\n", "empty: it holds no row"),
        ("a.txt", b"Which bird cannot fly?\n", "unknown file type '.txt'"),
        ("a", b"", "unknown file type ''"),
        ("a.jsonl.gz", gzip.compress(os.urandom(5000))[:-200], "damaged gzip"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:20] + b"garbage", "damaged gzip"),
        ("a.jsonl.gz", b"\0\x01\x02", "damaged gzip"),
        ("a.jsonl", b"PAR1....", "not a readable Parquet file"),
        ("a.parquet", b'{"a": 1}\n', "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "not a readable Parquet file"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_raised(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(str(path)))
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_parquet_file_cut_in_the_middle_is_an_error(tmp_path):
    path = Path(written(tmp_path, "a.parquet", [{"text": f"row {i}"} for i in range(5000)]))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_rows(str(path)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_row_that_would_fill_the_memory_is_refused_before_it_does(tmp_path, monkeypatch, name):
    monkeypatch.setattr("lit_rlhf.data.rows._LONGEST_ROW", 2**20)
    path = tmp_path / name
    content = b'{"a": 1}\n' + b" " * 2**21
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=f"{name}:2: a row of 1 MiB or more"):
        list(read_rows(str(path)))
    path = tmp_path / "array.json"
    path.write_text(json.dumps([{"a": "x" * 2**21}]))  # all of a list may be one line
    assert len(list(read_rows(str(path)))) == 1


def test_a_file_has_no_splits(tmp_path):
    path = written(tmp_path, "a.jsonl", ROWS)
    with pytest.raises(DataError, match="no splits, but split 'train'"):
        list(read_rows(path, split="train"))


def test_an_unreadable_file_is_an_error(tmp_path, monkeypatch):
    path = written(tmp_path, "a.jsonl", ROWS)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        list(read_rows(path))


def test_patterns_come_sorted_and_lists_keep_their_order(tmp_path):
    names = [written(tmp_path, name, ROWS) for name in ("c.jsonl", "a.jsonl", "b.jsonl")]
    assert find_files(str(tmp_path / "*.jsonl")) == sorted(names)
    assert find_files([names[0], str(tmp_path / "[ab].jsonl")]) == [names[0], *sorted(names[1:])]
    bracketed = written(tmp_path, "x[1].jsonl", ROWS)
    assert find_files(bracketed) == [bracketed]


def test_a_missing_file_names_its_neighbours(tmp_path):
    written(tmp_path, "helpful.train.jsonl", ROWS)
    with pytest.raises(DataError) as caught:
        find_files(str(tmp_path / "helpfull.train.jsonl"))
    assert f"Did you mean {tmp_path / 'helpful.train.jsonl'}?" in str(caught.value)
    with pytest.raises(DataError, match="no file matches this pattern"):
        find_files(str(tmp_path / "*.parquet"))
    with pytest.raises(DataError, match="no readable folder"):
        find_files(str(tmp_path / "nowhere" / "a.jsonl"))


@pytest.mark.parametrize("path", [[], [""], "a\0b.jsonl", "a\0b/c.jsonl", "x" * 5000, "~nobody-here/a.jsonl"])
def test_paths_that_cannot_be_are_errors(path):
    with pytest.raises(DataError):
        find_files(path)


def test_hub_ids_are_told_from_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("data")
    assert is_hub_id("Anthropic/hh-rlhf")
    assert is_hub_id("openai/summarize_from_feedback:comparisons")
    assert not is_hub_id("data/missing")
    assert not is_hub_id("owner/pairs.jsonl")
    assert not is_hub_id("/abs/path")
    assert not is_hub_id("a/b/c")
    os.makedirs("owner/name")
    assert not is_hub_id("owner/name")


def test_names_leave_out_folders_and_endings():
    assert source_name("x/y/hh.train.jsonl.gz") == "hh.train"
    assert source_name(["a/b.parquet", "Anthropic/hh-rlhf"]) == "b+hh-rlhf"
