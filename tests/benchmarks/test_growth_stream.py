"""Streams of many shards: what is written is read, stretch by stretch."""

import json
from glob import glob

import pytest

from lit_rlhf.data.rows import read_rows


@pytest.fixture
def stream():
    from benchmarks import growth_stream

    return growth_stream


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shards_hold_every_row_once_and_every_stretch_is_measured(stream, tmp_path, kind):
    pattern = stream.write_shards(tmp_path / kind, 1000, 3, kind, 150)
    rows = [row for file in sorted(glob(pattern)) for _, row in read_rows(file)]
    assert len(glob(pattern)) == 3
    assert len({row["prompt"] for row in rows}) == len(rows) == 1000
    opened, *parts = stream.read(pattern, kind, None)
    assert (opened.work, opened.rows) == ("opened", 1000)
    assert sum(part.rows for part in parts) == 1000
    assert [part.begin for part in parts] == pytest.approx([tenth / 10 for tenth in range(10)], abs=1 / 31)
    assert stream.table(parts).count(f"| {kind} | read |") == 10


def test_a_stretch_is_charged_with_what_it_held_at_most(stream):
    parts = stream.Parts("jsonl")
    held = b"x" * 2**26
    parts.end("read", 0.0, 1)
    del held
    parts.end("read", 0.5, 1)
    parts.end("read", 1.0, 1)
    first, _, last = parts.found
    assert first.mib > 60
    assert last.mib < first.mib - 30


def test_both_ends_or_the_whole_stream_are_tokenised(stream, tmp_path, tiny_model):
    pattern = stream.write_shards(tmp_path / "jsonl", 960, 2, "jsonl", 1)
    _, first, last = stream.tokenise(pattern, "jsonl", 320, tiny_model)
    assert (first.begin, first.rows) == (0.0, 320)
    assert (last.begin, last.rows) == (pytest.approx(2 / 3), 320)
    parts = stream.tokenise(pattern, "jsonl", None, tiny_model)
    assert sum(part.rows for part in parts if part.work == "tokenised") == 960
    assert json.loads(json.dumps([vars(part) for part in parts]))
