"""Resuming on another number of processes: the same rows in every step, or a message that says why not."""

import json
from types import SimpleNamespace

import pytest

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.streaming import Streaming


@pytest.fixture
def build(tiny_model, tmp_path):
    """A DataModule as one of some processes has it."""
    rows = [{"prompt": f"Give {n} tips", "chosen": "Good.", "rejected": "No."} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build(processes: int, batch_size: int, rank: int = 0, **options) -> PreferenceDataModule:
        data = PreferenceDataModule(str(tmp_path / "pairs.jsonl"), batch_size=batch_size, val_fraction=0.0, **options)
        state = SimpleNamespace(fn="fit")
        data.trainer = SimpleNamespace(global_rank=rank, world_size=processes, state=state)  # type: ignore[assignment]
        data.load("pairs", tiny_model)
        return data

    return build


def steps(modules: list[PreferenceDataModule], place: dict | None = None) -> list[list[str]]:
    """The prompts of each step, over all processes."""
    loaders = [module.train_dataloader() for module in modules]
    for loader in loaders:
        if place is not None:
            loader.load_state_dict(place)
    parts = [[[record.prompt[0].content for record in batch.records] for batch in loader] for loader in loaders]
    return [[prompt for part in step for prompt in part] for step in zip(*parts, strict=True)]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_other_processes_go_on_with_the_rows_that_are_left(build, before, after):
    first, then = ([build(many, 8 // many, rank) for rank in range(many)] for many in (before, after))
    loader = first[0].train_dataloader()
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    place = loader.state_dict()
    for module in then:
        module.load_state_dict(first[0].state_dict())
    whole = steps(first)
    assert len(whole) == 5
    assert steps(then, place) == whole[2:]


def test_another_number_of_rows_in_a_step_is_refused_with_both_numbers(build):
    state = build(2, 8).state_dict()
    build(1, 16).load_state_dict(state)
    with pytest.raises(DataError, match=r"16 rows in a step of all processes then, 32 now[\s\S]*data\.batch_size"):
        build(4, 8).load_state_dict(state)


def test_a_stream_is_resumed_by_as_many_processes_only(build):
    streaming = Streaming(window=64)
    state = build(2, 8, streaming=streaming).state_dict()
    build(2, 8, rank=1, streaming=streaming).load_state_dict(state)
    with pytest.raises(DataError, match="streamed by 2 processes then, by 1 now"):
        build(1, 16, streaming=streaming).load_state_dict(state)
