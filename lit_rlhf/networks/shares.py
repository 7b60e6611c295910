"""What each of several processes contributes to a loss, so that all together train as one process on all rows."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lit_rlhf.networks.together import counts_of_all, from_all, processes, rank, sum_of_all


def share(weight: Tensor | float, device: torch.device) -> Tensor | float:
    """What to multiply a mean over this process's rows with; 1 where it is alone. A meeting of all processes.

    Gradients (and what is logged with ``sync_dist``) are averaged over the W processes. A mean over n of N rows is
    therefore multiplied with W n / N: the average is then the mean over all rows.

    Args:
        weight: n: what the local mean divides by: rows, tokens, or the sum of their weights; 0 if nothing counts.
        device: Where processes meet.
    """
    if processes() == 1:
        return 1.0
    own = torch.as_tensor(weight, dtype=torch.float32, device=device).detach().reshape(1)
    return (own * processes() / sum_of_all(own).clamp(min=1e-8)).squeeze(0)


def rows_of_all(rows: Tensor) -> Tensor:
    """The rows of all processes ``(N_0 + N_1 + …, H)``, with gradients, for a loss that compares rows.

    The loss must be the same on all processes. Each of them then sends its own rows' gradient back, W-fold, so that
    averaging over the W processes gives the gradient of the one loss; other parameters in it need nothing else.
    """
    return rows if processes() == 1 else _RowsOfAll.apply(rows)  # type: ignore[return-value]


class _RowsOfAll(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = counts_of_all(len(rows), rows.device)
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return from_all(rows, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0][ctx.start : ctx.start + ctx.count] * processes()
