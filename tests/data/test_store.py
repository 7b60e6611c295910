import contextlib
import json
import os

import numpy
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from lit_rlhf.data import store as store_module
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store, naming

KEY = {"policy": "abc", "reward": "scalar 1 x 2", "k": 4, "temperature": 0.8}


def part(number: int, size: int = 3) -> list[dict]:
    return [{"prompt": f"p{number}-{i}", "texts": ["ä", ""], "scores": [0.1 * i, -2.5]} for i in range(size)]


@pytest.fixture
def store(tmp_path) -> Store:
    """A store of two parts, finished."""
    store = Store(tmp_path / "store")
    store.begin(KEY)
    for number in range(2):
        store.write_part(number, part(number))
    assert store.finish(2) == 6
    return store


def test_what_is_written_is_read(store):
    again = Store(store.directory)
    assert again.is_finished
    assert again.rows() == part(0) + part(1)
    assert again.key == KEY
    again.check(KEY)
    again.check({"k": 4})


def test_a_mismatch_names_each_differing_field_with_both_values(store):
    with pytest.raises(DataError) as caught:
        store.check({**KEY, "policy": "xyz", "temperature": 1.0, "template": "t"})
    message = str(caught.value)
    assert "policy: the store has 'abc', this run 'xyz'" in message
    assert "temperature: the store has 0.8, this run 1.0" in message
    assert "template: the store has 'nothing', this run 't'" in message
    assert "reward" not in message
    assert "k:" not in message
    assert str(store.directory) in message


def test_a_writer_with_another_key_is_refused_and_changes_nothing(store):
    with pytest.raises(DataError, match="k: the store has 4, this run 8"):
        Store(store.directory).begin({**KEY, "k": 8})
    assert store.key == KEY
    assert store.rows() == part(0) + part(1)


def test_an_unfinished_store_is_refused(tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(DataError, match="there is no store"):
        store.rows()
    store.begin(KEY)
    store.write_part(0, part(0))
    assert not store.is_finished
    with pytest.raises(DataError, match="the store is not finished"):
        store.rows()


def test_parts_that_are_missing_cannot_be_declared_finished(tmp_path):
    store = Store(tmp_path / "store")
    store.begin(KEY)
    store.write_part(1, part(1))
    with pytest.raises(DataError, match=r"parts \[0, 2\] are missing"):
        store.finish(3)
    assert not store.is_finished


def test_a_second_writer_skips_the_parts_that_are_there(tmp_path):
    first = Store(tmp_path / "store")
    first.begin(KEY)
    first.write_part(1, part(1))
    second = Store(tmp_path / "store")
    second.begin(KEY)
    written = [number for number in range(3) if not second.has_part(number)]
    assert written == [0, 2]
    for number in written:
        second.write_part(number, part(number))
    second.finish(3)
    assert second.rows() == part(0) + part(1) + part(2)


def test_parts_are_read_in_the_order_of_their_numbers(tmp_path):
    store = Store(tmp_path / "store")
    store.begin(KEY)
    for number in (10, 2, *(n for n in range(12) if n not in (2, 10))):
        store.write_part(number, part(number, size=1))
    store.finish(12)
    assert [row["prompt"] for row in store.rows()] == [f"p{number}-0" for number in range(12)]


def test_a_writer_killed_in_the_middle_of_a_part_leaves_no_part(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    store.begin(KEY)

    def killed(table, path):
        path.write_bytes(b"PAR1 half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module.pq, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write_part(0, part(0))
    assert list(store.directory.glob("*.partial")), "the half-written file stays beside"
    assert not store.has_part(0)
    with pytest.raises(DataError, match="missing"):
        store.finish(1)
    store.write_part(0, part(0))
    store.finish(1)
    assert store.rows() == part(0)


def test_leftovers_of_killed_writers_are_never_read(store):
    (store.directory / "part-00000.partial").write_bytes(b"garbage")
    (store.directory / "part-00002.partial").write_bytes(b"garbage")
    (store.directory / ".key.json.partial").write_text("{")
    (store.directory / ".finished.json.partial").write_text("{")
    assert store.rows() == part(0) + part(1)
    assert not store.has_part(2)
    store.check(KEY)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed"])
def test_a_damaged_part_is_refused_by_name(store, damage, finished):
    path = store.directory / "part-00001.parquet"
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    if not finished:
        (store.directory / "finished.json").unlink()
    with pytest.raises(DataError, match=r"part-00001\.parquet: (cannot be read|damaged)"):
        store.read_part(1)


def test_a_part_with_other_rows_than_were_written_is_refused(store):
    path = store.directory / "part-00001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DataError, match=r"part-00001\.parquet: damaged: these are not the bytes that were written"):
        store.rows()
    undo_digests(store)
    with pytest.raises(DataError, match="has 5 rows, 6 were written"):
        store.rows()


def undo_digests(store: Store) -> None:
    """Make it a store of an earlier version."""
    finished = json.loads((store.directory / "finished.json").read_text())
    del finished["sha256"]
    (store.directory / "finished.json").write_text(json.dumps(finished))


def test_a_store_of_an_earlier_version_is_read(store):
    undo_digests(store)
    assert store.rows() == part(0) + part(1)
    assert store.key == KEY


def test_every_flipped_bit_of_a_finished_store_is_refused_or_makes_no_difference(store):
    """Of every file; in the parts, of every 13th byte."""
    rows = part(0) + part(1)
    for path in sorted(store.directory.iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), 13 if path.suffix == ".parquet" else 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            with contextlib.suppress(DataError):
                assert (Store(store.directory).rows(), Store(store.directory).key) == (rows, KEY), (path.name, place)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "3", '{"parts": 2}', '{"parts": "2", "rows": 6}', '{"parts": true, "rows": 6}', "[" * 100_000],
)
def test_a_finished_mark_that_is_none_is_refused(store, content):
    (store.directory / "finished.json").write_text(content)
    with pytest.raises(DataError, match=r"(?s)finished\.json: (damaged|cannot be read).*\n  "):
        store.rows()


@pytest.mark.parametrize("content", ["[]", '"k"', "null"])
def test_a_key_that_is_none_is_refused(store, content):
    (store.directory / "finished.json").unlink()
    (store.directory / "key.json").write_text(content)
    with pytest.raises(DataError, match=r"key\.json: damaged: expected an object"):
        store.check(KEY)


def test_a_damaged_key_is_refused(store):
    (store.directory / "key.json").write_text("{")
    with pytest.raises(DataError, match=r"key\.json: damaged"):
        store.check(KEY)
    (store.directory / "finished.json").unlink()
    with pytest.raises(DataError, match=r"key\.json: cannot be read"):
        store.check(KEY)


def test_the_key_can_be_read_by_other_tools(store):
    assert json.loads((store.directory / "key.json").read_text("utf-8")) == KEY


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_what_cannot_be_written_is_named(tmp_path):
    store = Store(tmp_path)
    store.begin({"model": "a"})
    (tmp_path / "part-00000.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        store.write_part(0, [{"text": "some words"}])
    assert full.value.filename == str(tmp_path / "part-00000.partial")
    assert not store.has_part(0)


def test_errors_of_other_libraries_get_the_name_of_the_file_and_keep_one_they_have(tmp_path):
    (tmp_path / "weights").mkdir()
    with pytest.raises(Exception, match="os error") as full, naming(tmp_path / "weights"):
        safetensors.numpy.save_file({"a": numpy.ones(2**16)}, tmp_path / "weights")
    assert full.value.filename == str(tmp_path / "weights")  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="gone") as other, naming(tmp_path / "weights"):
        raise OSError(2, "gone", "elsewhere")
    assert other.value.filename == "elsewhere"
