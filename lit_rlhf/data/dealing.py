"""Whole batches dealt to processes that work side by side, each on its own."""

from collections.abc import Sequence

from lit_rlhf.data.loader import BucketBatchSampler, Idle


class WholeBatches(BucketBatchSampler):
    """Rows in their order, in batches that processes take in turn: batch number ``i * W + r`` is the i-th of process r.

    So batches are the same for any number of processes. Where the last round has too few, some processes get an `Idle`
    one.

    Args:
        lengths: Tokens per row.
        batch_size: Rows per batch; the last one may be smaller.
        rank: This process's number.
        world_size: W, the number of processes.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(lengths, batch_size, shuffle=False)
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return -(-super().__len__() // self.world_size)

    def mine(self, start: int) -> list[list[int]]:
        """Every W-th batch."""
        batches = self._batches()
        dealt = batches[self.rank :: self.world_size]
        return [*dealt, *[Idle(batches[0][:1])] * (len(self) - len(dealt))][start:]
