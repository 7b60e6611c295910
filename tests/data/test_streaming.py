"""Streams of training rows: every row once, the same order again, equal parts for all processes."""

import json
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.loader import Idle
from lit_rlhf.data.pieces import Pool
from lit_rlhf.data.preparation import Counts, Row
from lit_rlhf.data.rows import read_rows
from lit_rlhf.data.streaming import Stream, Streaming, StreamSampler
from lit_rlhf.data.strength import OWN_SCORES
from lit_rlhf.data.treatments import AdaptiveMargin, Flip, Slice
from lit_rlhf.world import WorldPairs
from tests.data.resuming import Learner, batches_of_a_run


def rows_of(numbers) -> list[dict]:
    return [{"prompt": f"Give {n} tips", "chosen": "Good. " * (1 + n % 7), "rejected": "No."} for n in numbers]


def write_lines(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_parquet(path, rows, group: int) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return str(path)


@pytest.fixture
def shards(tmp_path) -> list[str]:
    """Three hundred rows in four shards: two of lines, Parquet in small row groups and in a single one."""
    blank = write_lines(tmp_path / "blank.jsonl", rows_of(range(100, 180)))
    (tmp_path / "blank.jsonl").write_text("\ufeff" + (tmp_path / "blank.jsonl").read_text().replace("\n", "\n\n \n"))
    return [
        write_lines(tmp_path / "lines.jsonl", rows_of(range(100))),
        blank,
        write_parquet(tmp_path / "small.parquet", rows_of(range(180, 250)), 6),
        write_parquet(tmp_path / "large.parquet", rows_of(range(250, 300)), 1000),
    ]


@pytest.fixture
def build(tiny_model):
    """Build and load a DataModule that streams, unless ``streaming`` says otherwise."""

    def build(sources, view: str = "pairs", **options) -> PreferenceDataModule:
        options = {"batch_size": 8, "bucket": 3, "streaming": Streaming(window=64), "val_fraction": 0.0} | options
        data = PreferenceDataModule(sources, **options)
        data.load(view, tiny_model)
        return data

    return build


def epoch_of(data: PreferenceDataModule, epoch: int = 0) -> list[list[str]]:
    """The prompts of every batch of an epoch."""
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return [[record.prompt[0].content for record in batch.records] for batch in loader]


def texts(rows) -> list[str]:
    return sorted(row["prompt"] for row in rows)


def plain(records, counts: Counts) -> list[Row]:
    """Rows of six tokens and more, without a tokenizer."""
    return [Row(record, [0] * 5, [0] * len(record.chosen.split()), [0]) for record in records]


# ---------------------------------------------------------------------- pieces


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_pieces_of_a_file_are_its_rows_with_their_locations(shards, size):
    pool = Pool([PairFiles(shards)], size)
    assert max(piece.rows for piece in pool.pieces) <= size
    found = [(record.location, record.prompt[0].content) for piece in pool.pieces for record in pool.records(piece)]
    assert found == [(place, row["prompt"]) for file in shards for place, row in read_rows(file)]
    assert pool.rows == 300


def test_a_limit_ends_the_pieces_as_it_ends_the_records(shards):
    source = PairFiles(shards, limit=115)
    pool = Pool([source], 7)
    found = [record for piece in pool.pieces for record in pool.records(piece)]
    assert found == list(source.records())


def test_weights_repeat_pieces_and_thin_them_out(tmp_path):
    files = [write_lines(tmp_path / f"{n}.jsonl", rows_of(range(1000 * n, 1000 * n + 200))) for n in range(3)]
    sources = [
        PairFiles(file, name=file[-7], weight=weight) for file, weight in zip(files, (0.3, 1.0, 2.5), strict=True)
    ]
    uses = [
        Counter(record.prompt[0].content for piece in pool.pieces for record in pool.records(piece))
        for pool in (Pool(sources, 7, 0), Pool(sources, 7, 0), Pool(sources, 7, 1))
    ]
    assert uses[0] == uses[1] != uses[2]
    assert [sum(Counter(each.values()).values()) for each in uses] == [60 + 200 + 200] * 3
    assert Counter(uses[0].values()) == {1: 60 + 200, 2: 100, 3: 100}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: WorldPairs(5), "a source of WorldPairs cannot be read in parts"),
        (lambda folder: PairFiles(str(folder / "none.jsonl")), "none.jsonl: not found"),
        (lambda folder: PairFiles(str(folder)), "cannot be read from the middle"),
        (lambda folder: PairFiles(str(folder / "rows.jsonl.gz")), "rows.jsonl.gz: cannot be read from the middle"),
        (lambda folder: PairFiles(str(folder / "list.json")), "list.json: cannot be read from the middle"),
        (lambda folder: PairFiles(str(folder / "torn.parquet")), "torn.parquet: not a readable Parquet file"),
        (lambda folder: PairFiles(str(folder / "empty.jsonl")), "empty.jsonl: empty"),
    ],
)
def test_what_has_no_pieces_is_refused(tmp_path, make, says):
    (tmp_path / "list.json").write_text(json.dumps(rows_of(range(3))))
    for name in ("rows.jsonl.gz", "torn.parquet", "empty.jsonl"):
        (tmp_path / name).write_bytes(b"PAR1 nothing" if "parquet" in name else b"")
    with pytest.raises(DataError) as caught:
        Pool([make(tmp_path)], 8)
    assert says in str(caught.value)


def test_a_file_that_changes_while_it_is_used_is_refused(shards):
    pool = Pool([PairFiles(shards[0])], 8)
    write_lines(Path(shards[0]), rows_of(range(99)))
    with pytest.raises(DataError, match="was changed while it was in use"):
        list(pool.records(pool.pieces[0]))


# ---------------------------------------------------------------------- the order


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 90), size=st.integers(1, 6), more=st.integers(0, 60), world=st.integers(1, 4),
    bucket=st.integers(1, 5), epoch=st.integers(0, 2),
)  # fmt: skip
def test_all_processes_together_see_every_row_once_in_equally_many_batches(
    tmp_path_factory, rows, size, more, world, bucket, epoch
):
    folder = tmp_path_factory.mktemp("rows")
    pool = Pool([PairFiles(write_lines(folder / "rows.jsonl", rows_of(range(rows))))], 2)
    seen, batches = Counter(), -(-rows // size)
    for rank in range(world):
        stream = Stream(pool, plain, size, bucket, 4 * size + more, rank=rank, world_size=world)
        stream.sampler.set_epoch(epoch)
        names = list(stream.sampler)
        assert len(names) == len(stream.sampler) == -(-batches // world)
        for listed in names:
            batch = stream.__getitems__(listed)
            assert 1 <= len(batch) <= 1.5 * size + 1
            assert isinstance(batch, Idle) == isinstance(listed, Idle)
            if not isinstance(batch, Idle):
                assert listed[0] not in seen
                seen[listed[0]] = [row.record.prompt[0].content for row in batch]
    assert sorted(chain.from_iterable(seen.values())) == texts(rows_of(range(rows)))


@given(batches=st.integers(1, 40), world=st.integers(1, 6), given_out=st.integers(0, 40))
def test_every_process_has_a_stretch_of_its_own_and_resumes_from_the_state_of_the_first(batches, world, given_out):
    parts = [list(StreamSampler(batches, rank, world)) for rank in range(world)]
    together = [names[0][1] for part in parts for names in part if not isinstance(names, Idle)]
    assert together == list(range(batches))
    first = StreamSampler(batches, 0, world)
    given_out = min(given_out, len(first) - 1)
    iterator = iter(first)
    for _ in range(given_out):
        next(iterator)
    for rank in range(world):
        resumed = StreamSampler(batches, rank, world)
        resumed.load_state_dict(first.state_dict())
        assert list(resumed) == parts[rank][given_out:]


def test_a_stream_holds_what_reading_everything_holds(build, shards):
    held = build(shards, streaming=None)
    streamed = build(shards)

    def content(data):
        found = Counter()
        for batch in data.train_dataloader():
            sides = [[tuple(ids) for ids in side.response_lists()] for side in (batch.chosen, batch.rejected)]
            found.update(zip(*sides, [(record.location, record.prompt) for record in batch.records], strict=True))
        return found

    assert content(streamed) == content(held)
    assert sum(content(streamed).values()) == 300


def test_the_order_is_a_function_of_seed_and_epoch(build, shards):
    assert epoch_of(build(shards), 2) == epoch_of(build(shards), 2)
    data = [build(shards, seed=seed) for seed in range(2)]
    assert len({str(epoch_of(each, epoch)) for each in data for epoch in range(3)}) == 6


def test_a_worker_gives_the_same_batches(build, shards):
    assert epoch_of(build(shards, workers=1)) == epoch_of(build(shards))


def test_neighbours_in_the_files_come_far_apart(tmp_path):
    rows = rows_of(range(2000))
    pool = Pool([PairFiles(write_lines(tmp_path / "rows.jsonl", rows))], Streaming(window=200).window // 16)
    stream = Stream(pool, plain, 10, bucket=4, window=200)
    order = [int(row.record.location.split(":")[-1]) for (name,) in stream.sampler for row in stream.batch(name)]
    place = {number: index for index, number in enumerate(order)}
    apart = sorted(abs(place[a] - place[b]) for a, b in pairwise(range(1, 2001)))
    assert apart[1000] > 40, "the halves of a shuffled window lie as far apart"
    pages = [{order[i] // 200 for i in range(first, first + 200)} for first in range(0, 2000, 200)]
    assert min(map(len, pages)) >= 6, "every window draws on most of the file"
    correlation = torch.corrcoef(torch.stack([torch.arange(2000.0), torch.tensor(order, dtype=torch.float)]))[0, 1]
    assert abs(correlation) < 0.3


def test_batches_hold_rows_of_similar_lengths(tmp_path):
    rows = [{"prompt": "Give", "chosen": "Good. " * (1 + n * 37 % 400), "rejected": f"No {n}"} for n in range(800)]
    pool = Pool([PairFiles(write_lines(tmp_path / "rows.jsonl", rows))], 50)

    def padding(bucket: int) -> int:
        stream = Stream(pool, plain, 10, bucket=bucket, window=800)
        batches = [[row.length for row in stream.batch(name)] for (name,) in stream.sampler]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(40) < padding(1) / 5


def test_rows_left_out_make_batches_smaller_not_fewer(tmp_path):
    pool = Pool([PairFiles(write_lines(tmp_path / "rows.jsonl", rows_of(range(200))))], 5)

    def every_fourth(records, counts):
        return [row for row in plain(records, counts) if int(row.record.location.split(":")[-1]) % 4 == 0]

    stream = Stream(pool, every_fourth, 10, window=80)
    sizes = [len(stream.batch(name)) for (name,) in stream.sampler]
    assert (len(sizes), sum(sizes)) == (20, 50)
    assert min(sizes) >= 1


# ---------------------------------------------------------------------- the DataModule


def test_the_split_by_prompt_is_that_of_data_that_are_held(build, shards):
    held = build(shards, streaming=None, val_fraction=0.3)
    data = build(shards, val_fraction=0.3)
    few = build(shards, val_fraction=0.3, streaming=Streaming(window=64, val_rows=10))
    kept = {row.record.prompt for row in held.val_rows}
    assert {row.record.prompt for row in data.val_rows} == kept
    assert {row.record.prompt for row in few.val_rows} < kept
    assert len(few.val_rows) == 10
    for each in (data, few):
        assert sorted(chain.from_iterable(epoch_of(each))) == sorted(chain.from_iterable(epoch_of(held)))
        assert len(each.train_dataloader()) == -(-round(300 * 0.7) // 8)


def test_prompts_of_validation_sources_leave_a_stream(build, shards, tmp_path):
    other = write_lines(tmp_path / "val.jsonl", rows_of(range(40, 60)))
    data = build(shards, val_sources=other, val_fraction=0.5)
    assert len(data.val_rows) == 20
    assert sorted(chain.from_iterable(epoch_of(data))) == texts(rows_of([*range(40), *range(60, 300)]))


def test_demonstrations_are_streamed_too(build, shards):
    sequences = [batch.sequences for batch in build(shards, "responses").train_dataloader()]
    assert sum(map(len, sequences)) == 300


def test_labels_that_need_no_other_pair_are_those_of_data_that_are_held(build, tmp_path):
    rows = [{**row, "score_chosen": float(n % 5), "score_rejected": 1.5} for n, row in enumerate(rows_of(range(120)))]
    for row in rows:
        row |= {side: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
                for side in ("chosen", "rejected")}  # fmt: skip
    file = write_lines(tmp_path / "scored.jsonl", rows)
    options = {"strength": OWN_SCORES, "treatments": [Flip(below=0.0), AdaptiveMargin(clip=2.0)]}
    found = []
    for streaming in (None, Streaming(window=64)):
        data = build(file, streaming=streaming, **options)
        batches = list(data.train_dataloader())
        columns = [
            torch.cat([getattr(b, name) for b in batches]).tolist() for name in ("flipped", "margin", "strength")
        ]
        found.append(sorted(zip([r.location for b in batches for r in b.records], *columns, strict=True)))
    assert found[0] == found[1]
    assert {flipped for _, flipped, *_ in found[1]} == {True, False}


def test_what_became_of_the_rows_is_told_at_the_end_of_an_epoch(build, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lit_rlhf.data.streaming.rank_zero_info", told.append)
    rows = [*rows_of(range(100)), *[{**row, "rejected": row["chosen"]} for row in rows_of(range(9))]]
    file = write_lines(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text() + "{broken\n" * 2)
    data = build(PairFiles(file, on_bad_row="skip"))
    epoch_of(data)
    assert told[-1] == "data, streamed in epoch 0: 100 kept, 9 identical, 2 bad"
    epoch_of(data, 1)
    assert told[-1] == "data, streamed in epoch 1: 100 kept, 9 identical, 2 bad"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"view": "prompts"}, "option data.streaming: gives no prompts"),
        ({"strength": "table"}, "has no use for a strength table"),
        ({"strength": OWN_SCORES, "treatments": [Slice(0.1)]}, "which Slice goes by"),
        ({"strength": OWN_SCORES, "treatments": [Flip(0.1)]}, "which Flip goes by"),
        ({"batch_size": 17}, "is 64, less than four batches"),
        ({"max_length": 3}, "no row of a whole window is usable: 0 kept, "),
        ({"sources": WorldPairs(9)}, "a source of WorldPairs cannot be read in parts"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(build, shards, options, says):
    with pytest.raises(DataError) as caught:
        epoch_of(build(**({"sources": shards} | options)))
    assert says in str(caught.value)


def test_what_needs_all_rows_at_once_is_refused(build, shards):
    data = build(shards)
    for act in (lambda: data.train_rows, data.predict_dataloader):
        with pytest.raises(DataError, match=r"option data.streaming: does not serve what needs all training rows"):
            act()


def test_a_bad_row_in_the_middle_of_a_shard_is_told_with_its_place(build, tmp_path):
    path = tmp_path / "rows.jsonl"
    write_lines(path, [*rows_of(range(70)), {"prompt": "Give", "chosen": 7, "rejected": "No."}, *rows_of(range(9))])
    with pytest.raises(DataError, match=r"rows.jsonl:71: "):
        epoch_of(build(str(path)))


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 9},
        {"bucket": 1},
        {"max_length": 40},
        {"template": "plain"},
        {"view": "responses"},
        {"streaming": Streaming(window=65)},
        {"val_fraction": 0.1},
        {"strength": OWN_SCORES},
    ],
)
def test_a_checkpoint_refuses_another_stream(build, shards, change):
    sources = shards[:1]
    state = build(sources).state_dict()
    build(sources).load_state_dict(state)
    with pytest.raises(DataError, match="written with other data"):
        build(**{"sources": sources, **change}).load_state_dict(state)


def test_a_checkpoint_names_the_shards_that_changed(build, shards, tmp_path):
    state = build(shards).state_dict()
    write_parquet(tmp_path / "small.parquet", rows_of(range(181, 251)), 6)
    with pytest.raises(DataError, match=r"files that differ: small.parquet\)"):
        build(shards).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(tiny_model, shards, tmp_path, workers):
    def fit(**at) -> list[str]:
        options = {"batch_size": 8, "streaming": Streaming(window=64), "val_fraction": 0.0, "workers": workers}
        return batches_of_a_run(Learner(tiny_model, "pairs"), PreferenceDataModule(shards, **options), **at)

    stopped = tmp_path / "stopped.ckpt"
    assert len(whole := fit()) == 2 * 38
    for epoch in range(2):
        assert sorted(" | ".join(whole[38 * epoch : 38 * (epoch + 1)]).split(" | ")) == texts(rows_of(range(300)))
    for stop in (5, 38, 50) if not workers else (50,):
        fit(stop=(stop, stopped))
        assert fit(checkpoint=stopped) == whole[stop:]
