"""Means that follow a stream of batches: what wrappers know of the rewards that they have given."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.together import sum_of_all


class RunningMeans(nn.Module):
    """Exponential moving averages of some quantities, every response counting the same within its batch.

    Sums and count decay together, so the first batch's averages are its own means, and nothing starts from 0. The
    state lies in buffers named ``running_``, which checkpoints of policy optimisation keep.

    Args:
        n: Number of quantities.
        decay: What the past weighs after one more batch, from 0 (only the last batch counts) to 1 (all count alike).
        option: What the error calls the decay.

    Raises:
        DataError: If the decay is not from 0 to 1.
    """

    running_sums: Tensor
    running_count: Tensor

    def __init__(self, n: int, decay: float, option: str) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise DataError(f"is {decay}", option, "Give a number from 0 (the last batch alone) to 1 (all batches).")
        self.decay = decay
        self.register_buffer("running_sums", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("running_count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, *quantities: Tensor) -> None:
        """Count one batch, of all processes together: one tensor ``(N,)`` for each quantity."""
        table = torch.stack([quantity.double() for quantity in quantities])  # (n, N)
        batch = torch.cat([table.sum(1), table.new_tensor([table.shape[1]])])
        batch = sum_of_all(batch).to(self.running_sums.device)
        self.running_sums.mul_(self.decay).add_(batch[:-1])
        self.running_count.mul_(self.decay).add_(batch[-1])

    @property
    def means(self) -> list[float]:
        """The average of each quantity; 0 before the first batch."""
        count = float(self.running_count)
        return [each / count if count > 0 else 0.0 for each in self.running_sums.tolist()]

    def reset(self) -> None:
        """Forget everything."""
        self.running_sums.zero_()
        self.running_count.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the module to another device, but stay in double precision: bfloat16 sums would stop moving."""
        kept = self.running_sums, self.running_count
        super()._apply(fn, recurse)
        device = self.running_sums.device
        self.running_sums, self.running_count = (each.to(device) for each in kept)
        return self
