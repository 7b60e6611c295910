"""Training rows that are read from their files while they are needed, a window of them at a time."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate, chain, cycle, islice, pairwise

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import Dataset

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.loader import Idle, ResumableSampler, same_kind
from lit_rlhf.data.pieces import Piece, Pool
from lit_rlhf.data.preparation import Counts, Row
from lit_rlhf.data.records import Record, Source

BatchName = tuple[int, int]
"""Epoch, and number of the batch among all of the epoch, those of other processes included."""

_PIECES = 16  # that a window is mixed from, at least


@dataclass
class Streaming:
    """How training rows are streamed.

    Attributes:
        window: Rows that are held, shuffled and sorted by length at a time. Two responses of a thousand tokens each
            take about 80 KiB.
        val_rows: Most records that the split sets aside. The other prompts of ``val_fraction`` are not used at all.
    """

    window: int = 16_384
    val_rows: int = 2048

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise DataError(f"is {value}", f"option data.streaming.{name}", "Give a number of 1 or more.")

    def open(self, sources: Sequence[Source], seed: int) -> Pool:
        """Find the pieces that windows are made of."""
        return Pool(sources, max(1, self.window // _PIECES), seed)


class StreamSampler(ResumableSampler[BatchName]):
    """Names each process's part of the batches, one after another, so that each reads its own files' parts.

    All processes take the same number of steps; where fewer batches are left than that, some get `Idle` ones. A step's
    batches are not those that one process would see, as they are with `BucketBatchSampler`: each process reads its own
    stretch of the epoch. Every row comes once all the same.

    Args:
        batches: Of an epoch, over all processes.
        rank: This process's number.
        world_size: Number of processes.
    """

    def __init__(self, batches: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__()
        self.batches, self.rank, self.world_size = batches, rank, world_size

    def __len__(self) -> int:
        return -(-self.batches // self.world_size)

    def mine(self, start: int) -> Iterator[list[BatchName]]:
        """One stretch of the epoch's batches; each list holds the name of one."""
        epoch, first = self.epoch, self.rank * len(self)
        for step in range(start, len(self)):
            number = first + step
            yield [(epoch, number)] if number < self.batches else Idle([(epoch, self.batches - 1)])


class Stream(Dataset[Row]):
    """All batches of all epochs, each a function of its name: nothing needs to be remembered to go on anywhere.

    An epoch goes through the pieces in an order of its own. They are cut into windows of about equally many rows. One
    window at a time is read and tokenised, its rows are shuffled, runs of them are sorted by length and cut into
    batches, and the batches are shuffled. Every row comes exactly once.

    How many batches a window gives is settled by the number of rows in its files alone, so that all processes agree on
    it without reading each other's part. Rows that turn out to be unusable make its batches smaller, not fewer.

    Args:
        pool: Where the rows lie.
        prepare: Makes the rows of records, counting.
        batch_size: Rows per batch, if all but the share set aside are usable.
        bucket: Batches among which rows are sorted by length.
        window: Rows of a window.
        seed: Of the order.
        set_aside: Share of the rows that `prepare` is known to leave out.
        rank: This process's number.
        world_size: Number of processes.

    Raises:
        DataError: If a window is too small for some batches. Later, if not one row of a window is usable.
    """

    def __init__(
        self,
        pool: Pool,
        prepare: Callable[[Iterable[Record], Counts], list[Row]],
        batch_size: int,
        bucket: int = 32,
        window: int = 16_384,
        seed: int = 0,
        set_aside: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if window < 4 * batch_size:
            hint = f"Give {4 * batch_size:,} or more, best some hundred batches."
            raise DataError(f"is {window:,}, less than four batches", "option data.streaming.window", hint)
        if not pool.rows:
            raise DataError("leave no row", "the sources' weights", "Give larger weights or more data.")
        self.pool, self.prepare, self.bucket, self.seed = pool, prepare, bucket, seed
        self.batches = max(1, -(-round(pool.rows * (1 - set_aside)) // batch_size))
        self.windows = max(1, min(-(-pool.rows // window), self.batches // 4))
        self.sampler = StreamSampler(self.batches, rank, world_size)
        self._last = min((rank + 1) * len(self.sampler), self.batches) - 1
        self._counts, self._read = Counts(), 0
        self._plan: tuple[int, list[list[Piece]], list[int]] = (-1, [], [])
        self._held: tuple[tuple[int, int], list[list[Row]]] = ((-1, -1), [])

    def __getitems__(self, names: list[BatchName]) -> list[Row]:
        """The rows of the batches that are named; how the loader asks for a batch."""
        return same_kind(names, list(chain.from_iterable(map(self.batch, names))))

    def batch(self, name: BatchName) -> list[Row]:
        """The rows of one batch."""
        epoch, number = name
        if self._plan[0] != epoch:
            self._plan = (epoch, *self._planned(epoch))
            self._counts, self._read = Counts(), 0
        _, windows, ends = self._plan
        index = bisect_right(ends, number)
        if self._held[0] != (epoch, index):
            self._held = ((-1, -1), [])  # given up before the next one is read
            before = ends[index - 1] if index else 0
            rows = self._rows(windows[index])
            self._held = ((epoch, index), self._cut(rows, ends[index] - before, f"{self.seed} {epoch} {index}"))
            self._report(epoch, index == bisect_right(ends, self._last))
        return self._held[1][number - ends[index]]

    def _planned(self, epoch: int) -> tuple[list[list[Piece]], list[int]]:
        """The pieces of each of an epoch's windows, and the number of batches up to the end of each."""
        order = list(range(len(self.pool.pieces)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        windows: list[list[int]] = [[] for _ in range(self.windows)]
        before = 0
        for index in order:
            windows[before * self.windows // self.pool.rows].append(index)
            before += self.pool.pieces[index].taken
        # Sorted, neighbours in a file are read one after the other; the rows are shuffled all the same.
        pieces = [[self.pool.pieces[index] for index in sorted(window)] for window in windows]
        ends = accumulate(sum(piece.taken for piece in window) for window in pieces)
        return pieces, [-(-end * self.batches // self.pool.rows) for end in ends]

    def _rows(self, pieces: list[Piece]) -> list[Row]:
        bad, counts = self.pool.bad_rows, Counts()
        rows = self.prepare(chain.from_iterable(map(self.pool.records, pieces)), counts)
        counts.bad = self.pool.bad_rows - bad
        self._counts = Counts(*map(sum, zip(astuple(self._counts), astuple(counts), strict=True)))
        self._read += 1
        if not rows:
            where = f"{pieces[0].file}, from row {pieces[0].start.number}"
            hint = "Look at max_length and at the format; a larger data.streaming.window takes more rows together."
            raise DataError(f"no row of a whole window is usable: {counts}", where, hint)
        return rows

    def _cut(self, rows: list[Row], batches: int, seed: str) -> list[list[Row]]:
        """Shuffle rows and cut them into so many batches of about equal size, each of similar lengths."""
        order = random.Random(seed)
        order.shuffle(rows)
        rows = list(islice(cycle(rows), max(batches, len(rows))))  # a batch without rows would be none
        ends = [len(rows) * number // batches for number in range(batches + 1)]
        cut: list[list[Row]] = []
        for first in range(0, batches, self.bucket):
            mine = ends[first : first + self.bucket + 1]
            run = sorted(rows[mine[0] : mine[-1]], key=lambda row: row.length)
            cut += [run[begin - mine[0] : end - mine[0]] for begin, end in pairwise(mine)]
        order.shuffle(cut)
        return cut

    def _report(self, epoch: int, last: bool) -> None:
        """Say what became of the rows: at the end of this process's part of an epoch, in the first one now and then."""
        if last or (epoch == 0 and self._read.bit_count() == 1):
            rank_zero_info(f"data, streamed in epoch {epoch}: {self._counts}")
