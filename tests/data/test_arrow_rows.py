"""Arrow and Parquet files, told by their content."""

import subprocess
import sys

import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import Start, read_from, read_rows, seekable_kind
from tests.data.layouts import outcome

ROWS = [{"prompt": f"q{n}", "turns": [{"role": "user", "content": "é"}], "score": n / 2 or None} for n in range(3000)]
SCHEMA = pyarrow.Table.from_pylist(ROWS).schema


def in_stream_format(path, table) -> None:
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


def in_file_format(path, table) -> None:
    with pyarrow.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


WRITERS = {
    "stream": in_stream_format,
    "file": in_file_format,
    "feather": lambda path, table: pyarrow.feather.write_feather(table, path),
    "packed feather": lambda path, table: pyarrow.feather.write_feather(table, path, compression="zstd"),
    "parquet": lambda path, table: pyarrow.parquet.write_table(table, path, row_group_size=500),
}


@pytest.mark.parametrize("name", ["a.arrow", "a.feather", "a.parquet", "a.jsonl", "a", "a.csv"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_read_whatever_its_name(tmp_path, writer, name):
    if writer != "parquet" and name == "a.parquet":
        return
    path = str(tmp_path / name)
    WRITERS[writer](path, pyarrow.Table.from_pylist(ROWS))
    assert list(read_rows(path)) == [(f"{path}:row {number}", row) for number, row in enumerate(ROWS, 1)]
    assert seekable_kind(path) == ("Parquet" if writer == "parquet" else None)
    with pytest.raises(DataError, match="a file has no splits"):
        list(read_rows(path, "train"))


def test_a_parquet_file_of_another_name_is_read_from_the_middle(tmp_path):
    path = str(tmp_path / "a.jsonl")
    WRITERS["parquet"](path, pyarrow.Table.from_pylist(ROWS))
    assert list(read_from(path, Start(1007, 2, 6)))[:2] == [
        (f"{path}:row 1007", ROWS[1006]),
        (f"{path}:row 1008", ROWS[1007]),
    ]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_without_rows_is_empty(tmp_path, writer):
    path = str(tmp_path / "a.arrow")
    WRITERS[writer](path, SCHEMA.empty_table())
    with pytest.raises(DataError, match="empty: it holds no row"):
        list(read_rows(path))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, writer, part):
    path = tmp_path / "a.arrow"
    WRITERS[writer](str(path), pyarrow.Table.from_pylist(ROWS))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    if writer == "stream" and part > 0.9:
        return  # its last bytes say only that it ends
    with pytest.raises(
        DataError, match=r"not a readable (Arrow|Parquet) file \(after row \d+\): .*\n  Copy or download"
    ):
        list(read_rows(str(path)))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["stream", "file"]))
def test_damaged_metadata_gives_rows_or_a_data_error(tmp_path_factory, data, writer):
    path = tmp_path_factory.mktemp("arrow") / "a.arrow"
    WRITERS[writer](str(path), pyarrow.table({"n": [1, 2, 3]}))
    content = path.read_bytes()
    begin = data.draw(st.integers(0, len(content)))
    assert outcome(content[:begin] + data.draw(st.binary(max_size=2)) + content[begin + 2 :], "a.arrow")


def test_a_table_whose_texts_lie_outside_of_it_is_refused(tmp_path):
    """In a process of its own: to read such a table ends the process."""
    import struct

    path = tmp_path / "a.arrow"
    in_stream_format(str(path), pyarrow.table({"prompt": [f"p{n}" for n in range(5)]}))
    places = struct.pack("<6i", 0, 2, 4, 6, 8, 10)
    assert places in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(places, struct.pack("<6i", 0, 2, 4, 6, 8, 2**30)))
    statement = f"from lit_rlhf.data.rows import read_rows; list(read_rows({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not a readable Arrow file" in done.stderr
