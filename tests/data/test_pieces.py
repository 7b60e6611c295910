"""Files that can be read in pieces, and those whose rows could not be found from the middle."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.pieces import Pool
from tests.data.layouts import LAYOUTS

ROWS = [{"prompt": f"Give {n} tips", "chosen": "Rest well.", "rejected": "No."} for n in range(20)]
BY_LINES = ("lines", "lines with foreign ends", "blank lines")


def prompts(pool: Pool) -> list[str]:
    return [record.prompt[0].content for piece in pool.pieces for record in pool.records(piece)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"], ids=["", "mark", "mark alone"])
@pytest.mark.parametrize("layout", BY_LINES)
def test_lines_are_read_in_pieces_whatever_the_name(tmp_path, layout, mark, name):
    path = tmp_path / name
    path.write_bytes(mark + LAYOUTS[layout](ROWS).encode())
    pool = Pool([PairFiles(str(path))], 3)
    assert prompts(pool) == [row["prompt"] for row in ROWS]
    assert pool.rows == len(ROWS)
    locations = [record.location for piece in pool.pieces for record in pool.records(piece)]
    assert locations == [record.location for record in PairFiles(str(path)).records()]


def test_parquet_is_read_in_pieces_whatever_the_name(tmp_path):
    path = tmp_path / "a.jsonl"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=7)
    assert prompts(Pool([PairFiles(str(path))], 3)) == [row["prompt"] for row in ROWS]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in BY_LINES])
def test_no_other_layout_is_misread(tmp_path, layout):
    path = tmp_path / "a.jsonl"
    path.write_text(LAYOUTS[layout](ROWS))
    with pytest.raises(DataError) as caught:
        Pool([PairFiles(str(path))], 3)
    assert str(caught.value).startswith(
        f"{path}: cannot be read from the middle\n  Stream JSON files with a row per line"
    )


def test_nor_a_table_a_compressed_file_or_a_folder(tmp_path):
    content = LAYOUTS["lines"](ROWS)
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nq,a,b\n")
    (tmp_path / "a.json").write_text(json.dumps({"train": ROWS, "test": ROWS}))
    for name in (
        *(str(tmp_path / name) for name in ("a.jsonl", "a.csv", "a.json", "")),
        f"{tmp_path}:default",
        "own/er",
    ):
        with pytest.raises(DataError, match="cannot be read from the middle"):
            Pool([PairFiles(name)], 3)


def test_what_is_damaged_or_empty_is_refused_as_when_it_is_read(tmp_path):
    for name, content, says in (
        ("a.jsonl", b"", "empty: it holds no row"),
        ("a.jsonl.gz", b"\0\0", "damaged gzip file"),
        ("a.parquet", b"PAR1", "not a readable Parquet file"),
        ("a.txt", b"Rest well.", "unknown file type"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=says):
            Pool([PairFiles(str(path))], 3)
