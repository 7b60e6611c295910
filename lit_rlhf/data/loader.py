"""Batches of similar lengths in a seeded order, from a loader that resumes in the middle of an epoch."""

import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

T = TypeVar("T")


class Idle(list[T]):
    """Rows, or their names, that stand in where none is left for a process, see ``Loaded.idle``."""


class Rows(Dataset[Any]):
    """Rows that are held, given out a batch at a time.

    Args:
        rows: Named by their places.
    """

    def __init__(self, rows: Sequence[Any] | Dataset[Any]) -> None:
        self.rows: Any = rows

    def __getitems__(self, places: list[int]) -> list[Any]:
        """The rows of a batch."""
        return same_kind(places, [self.rows[place] for place in places])


def same_kind(names: list[Any], rows: list[T]) -> list[T]:
    """The rows of some names, marked as idle if these are."""
    return Idle(rows) if isinstance(names, Idle) else rows


class ResumableSampler(Sampler[list[T]]):
    """Gives out an epoch's batches, as lists of whatever names their rows, and knows how many it has given out.

    It keeps its place in the epoch itself: a loader that only counted batches would go on in another epoch's order
    when it is resumed before the Trainer sets the epoch, and would take the end of an epoch for an empty one.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._start = self._given = 0  # batches of this epoch to leave out, and given out so far

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch, the same in every epoch and process."""

    @abstractmethod
    def mine(self, start: int) -> Iterable[list[T]]:
        """This process's batches of the epoch, in their order, without the first ``start``."""

    @property
    def sampler(self) -> "ResumableSampler[T]":
        """Itself: where the Trainer looks for the sampler whose epoch it sets."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows; the Trainer calls this."""
        if epoch != self.epoch:
            self.epoch, self._start, self._given = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were given out."""
        return {"epoch": self.epoch, "given": self._given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next iteration begin behind the batches that were given out; behind the last comes the next epoch."""
        finished, self._start = divmod(state_dict["given"], len(self))
        self.epoch, self._given = state_dict["epoch"] + finished, self._start

    def __iter__(self) -> Iterator[list[T]]:
        start, self._start = self._start, 0
        for given, batch in enumerate(self.mine(start), start + 1):
            self._given = given
            yield batch


class BucketBatchSampler(ResumableSampler[int]):
    """Batches of indices whose rows have similar lengths, so that little is padded.

    The order depends on the seed and the epoch alone. Within a window of ``window`` batches the shuffled rows
    are sorted by length and cut into batches; the batches are then shuffled. Every row comes exactly once
    per epoch.

    Several processes share each batch out: W of them with batches of B rows see, step by step, the rows that one
    process with batches of W · B rows would see, each of them a stretch of about equal length, in the order of their
    numbers. Where a last batch has fewer rows than there are processes, some get an `Idle` one.

    Args:
        lengths: Tokens per row.
        batch_size: Rows per batch and process; the last batch of an epoch may be smaller.
        shuffle: Whether to shuffle; otherwise rows keep their order and are not bucketed.
        seed: Of the order.
        window: Batches that are sorted together; 1 gives plain shuffling.
        rank: This process's number.
        world_size: Number of processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        window: int = 32,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.lengths, self.shuffle, self.seed, self.window = lengths, shuffle, seed, window
        self.rank, self.world_size = rank, world_size
        self.batch_size = batch_size * world_size  # of all processes together

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def mine(self, start: int) -> list[list[int]]:
        """This process's part of each batch."""
        return [self._part(batch) for batch in self._batches()[start:]]

    def _part(self, batch: list[int]) -> list[int]:
        first, end = (len(batch) * number // self.world_size for number in (self.rank, self.rank + 1))
        return batch[first:end] or Idle(batch[:1])

    def _batches(self) -> list[list[int]]:
        rows = list(range(len(self.lengths)))
        if not self.shuffle:
            return self._cut(rows)
        order = random.Random(f"{self.seed} {self.epoch}")
        order.shuffle(rows)
        span = self.batch_size * self.window
        windows = [sorted(rows[i : i + span], key=self.lengths.__getitem__) for i in range(0, len(rows), span)]
        batches = [batch for window in windows for batch in self._cut(window)]
        order.shuffle(batches)
        return batches

    def _cut(self, rows: list[int]) -> list[list[int]]:
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]


def make_loader(
    rows: Sequence[Any] | Dataset[Any],
    sampler: ResumableSampler[Any],
    collate: Callable[[list[Any]], Any],
    workers: int = 0,
    ahead: int = 2,
) -> StatefulDataLoader[Any]:
    """A loader over ``rows`` whose ``state_dict`` resumes after the last batch it gave out.

    Args:
        rows: Given out by what the sampler calls them; a dataset that gives whole batches does it itself.
        sampler: Whose batches are followed.
        collate: Makes a batch of rows.
        workers: Processes that do so; 0 does it in this one.
        ahead: Batches that each worker keeps ready.
    """
    # A generator of its own: iterating would draw from the global one, and a resumed run does not iterate as often.
    generator = torch.Generator()
    return StatefulDataLoader(
        rows if hasattr(rows, "__getitems__") else Rows(rows),  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        generator=generator,
    )
