from collections import Counter
from itertools import chain, pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf.data.loader import BucketBatchSampler, Idle, make_loader

LENGTHS = [Random(0).randint(1, 60) for _ in range(23)]  # 6 batches of 4, the last one of 3


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    """Padding tokens of an epoch."""
    return sum(sum(max(lengths[i] for i in batch) - lengths[i] for i in batch) for batch in batches)


# ---------------------------------------------------------------------- the order


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    size=st.integers(1, 9),
    window=st.integers(1, 5),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_comes_exactly_once_per_epoch(lengths, size, window, shuffle, epoch):
    sampler = BucketBatchSampler(lengths, size, shuffle, window=window)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert sum(len(batch) != size for batch in batches) <= 1
    assert all(batches)


def test_buckets_pad_far_less_than_plain_shuffling():
    random = Random(1)
    lengths = [int(random.lognormvariate(4, 0.7)) + 1 for _ in range(4000)]
    plain = padded(lengths, list(BucketBatchSampler(lengths, 16, window=1)))
    bucketed = padded(lengths, list(BucketBatchSampler(lengths, 16, window=32)))
    assert 0 < bucketed < plain / 5


def test_long_and_short_batches_are_mixed():
    lengths = list(range(1, 1025))
    means = [sum(batch) / len(batch) for batch in BucketBatchSampler(lengths, 8, window=128)]
    rising = sum(a < b for a, b in pairwise(means))
    assert 40 < rising < 88  # of 127; a shuffled order rises about half the time


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketBatchSampler(LENGTHS, 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 2) == order(0, 2)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_batches_are_composed_anew_in_every_epoch():
    sampler = BucketBatchSampler([8] * 400, 4, window=5)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append({frozenset(batch) for batch in sampler})
    assert len(epochs[0] & epochs[1]) <= 1


def test_without_shuffling_rows_keep_their_order():
    sampler = BucketBatchSampler(LENGTHS, 4, shuffle=False)
    first = list(sampler)
    sampler.set_epoch(5)
    assert list(chain.from_iterable(first)) == list(range(23))
    assert list(sampler) == first


@given(
    rows=st.integers(1, 40), size=st.integers(1, 5), world=st.integers(1, 6), shuffle=st.booleans(), seed=st.integers()
)
def test_processes_see_step_by_step_what_one_with_larger_batches_sees(rows, size, world, shuffle, seed):
    lengths = [(7 * i) % 13 + 1 for i in range(rows)]
    samplers = [BucketBatchSampler(lengths, size, shuffle, seed, rank=rank, world_size=world) for rank in range(world)]
    parts = [list(sampler) for sampler in samplers]
    alone = list(BucketBatchSampler(lengths, size * world, shuffle, seed))
    assert {len(part) for part in parts} == {len(sampler) for sampler in samplers} == {len(alone)}
    for together, step in zip(alone, zip(*parts, strict=True), strict=True):
        counted = [part for part in step if not isinstance(part, Idle)]
        assert [row for part in counted for row in part] == together
        assert max(map(len, counted)) - min(map(len, counted)) <= 1
        assert all(len(part) == 1 and part[0] in together for part in step if isinstance(part, Idle))


@pytest.mark.parametrize("workers", [0, 1])
def test_idle_rows_arrive_as_such(workers):
    sampler = BucketBatchSampler([1] * 9, 2, shuffle=False, rank=0, world_size=4)  # 8 rows, and 1 for the last rank
    loader = make_loader(list(range(9)), sampler, lambda rows: (list(rows), isinstance(rows, Idle)), workers)
    assert list(loader) == [([0, 1], False), ([8], True)]


# ---------------------------------------------------------------------- resuming by hand


def number_loader(workers: int = 0, **options):
    return make_loader(list(range(23)), BucketBatchSampler(LENGTHS, 4, window=3, **options), torch.tensor, workers)


def epoch_of(loader, epoch: int) -> list[list[int]]:
    loader.batch_sampler.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("given_out", range(7))
def test_a_loader_resumes_with_exactly_the_remaining_batches(epoch, given_out):
    whole = [epoch_of(number_loader(), each) for each in range(3)]
    loader, resumed = number_loader(), number_loader()
    loader.batch_sampler.set_epoch(epoch)
    iterator = iter(loader)
    for _ in range(given_out):
        next(iterator)
    resumed.load_state_dict(loader.state_dict())
    rest = [batch.tolist() for batch in resumed]
    if given_out == 6:  # nothing is left of that epoch
        assert rest == whole[epoch + 1]
    else:
        assert rest == whole[epoch][given_out:]
        assert epoch_of(resumed, epoch + 1) == whole[epoch + 1]


def test_breaking_off_an_epoch_does_not_shorten_the_next_iteration():
    loader = number_loader()
    whole = epoch_of(loader, 0)
    next(iter(loader))
    assert epoch_of(loader, 0) == whole


def test_a_resumed_loader_can_be_iterated_again():
    """By hand, without anyone who sets the epoch."""
    loader, resumed = number_loader(), number_loader()
    whole = epoch_of(loader, 0)
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    assert [batch.tolist() for batch in resumed] == whole[1:]
    assert [batch.tolist() for batch in resumed] == whole


def test_an_epoch_that_a_limit_ended_early_leaves_nothing_out_of_the_next():
    """The Trainer opens the loader first and sets the epoch afterwards."""
    loader, resumed = number_loader(), number_loader()
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    resumed.load_state_dict(loader.state_dict())
    iterator = iter(resumed)
    resumed.batch_sampler.set_epoch(1)
    assert [batch.tolist() for batch in iterator] == epoch_of(number_loader(), 1)
    loader.batch_sampler.set_epoch(1)
    assert loader.batch_sampler.state_dict() == {"epoch": 1, "given": 0}


def test_iterating_draws_nothing_from_the_global_generator():
    """A resumed run iterates less often, and has to go on with the same random numbers."""
    state = torch.get_rng_state()
    epoch_of(number_loader(), 0)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=30)
@given(given_out=st.integers(0, 3), world=st.integers(1, 3))
def test_every_process_resumes_from_the_state_of_one(given_out, world):
    """A checkpoint holds the state of the first process only."""
    first = BucketBatchSampler(LENGTHS, 3, rank=0, world_size=world)  # 8 batches
    given_out = min(given_out, len(first) - 1)
    iterator = iter(first)
    for _ in range(given_out):
        next(iterator)
    for rank in range(world):
        whole = list(BucketBatchSampler(LENGTHS, 3, rank=rank, world_size=world))
        resumed = BucketBatchSampler(LENGTHS, 3, rank=rank, world_size=world)
        resumed.load_state_dict(first.state_dict())
        assert list(resumed) == whole[given_out:]


# ---------------------------------------------------------------------- resuming under a Trainer


class Recorder(LightningModule):
    """Learns nothing and remembers the batches that it was given, with their epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, tuple[int, ...]]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, tuple(batch.tolist())))
        return 0.0 * self.weight

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(directory, checkpoint=None, workers=0, **options) -> list[tuple[int, tuple[int, ...]]]:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    keep = ModelCheckpoint(directory, filename="{step}", save_top_k=-1, **options)
    module = Recorder()
    trainer = Trainer(
        max_epochs=3,
        callbacks=[keep],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=3,
        **quiet,
    )
    trainer.fit(module, number_loader(workers), number_loader(), ckpt_path=checkpoint, weights_only=False)
    return module.seen


@pytest.mark.parametrize(
    ("workers", "options", "steps"),
    [
        (0, {"every_n_train_steps": 1}, [1, 5, 6, 7, 9, 12, 17]),
        (1, {"every_n_train_steps": 1}, [6, 8]),
        (0, {"save_on_train_epoch_end": True}, [6, 12]),
        (0, {"save_on_train_epoch_end": False}, [3, 6, 9, 12]),  # at the end of each validation
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(tmp_path, workers, options, steps):
    whole = fit(tmp_path, workers=workers, **options)
    assert [epoch for epoch, _ in whole] == [0] * 6 + [1] * 6 + [2] * 6
    assert all(Counter(chain(*(rows for e, rows in whole if e == epoch))) == Counter(range(23)) for epoch in range(3))
    for step in steps:
        resumed = fit(tmp_path / "resumed", tmp_path / f"step={step}.ckpt", workers, **options)
        assert resumed == whole[step:], f"resumed after step {step}"
