"""What processes that work on one batch tell each other: each holds some rows, and all learn what follows from all.

Losses count each process's rows for what they are among those of all, so that all train as one process would.

Everything here is a meeting: all processes must come, in the same order. A process alone gets back what it gave.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from lit_rlhf.data.errors import DataError, NotFiniteError


def processes() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if processes() > 1 else 0


def from_all(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    """The rows of all processes, one process's after another's.

    Args:
        rows: ``(N, ...)``; N and the sizes behind it may differ between processes.
        counts: How many rows each process has, if that is known and nothing else differs: saves asking.

    Returns:
        ``(N_0 + N_1 + …, ...)``; what is narrower than another process's is filled up with zeros.
    """
    if processes() == 1:
        return rows
    shapes = [[count, *rows.shape[1:]] for count in counts] if counts is not None else _shapes(rows)
    widest = [max(column) for column in zip(*shapes, strict=True)]
    missing = [wide - own for wide, own in zip(widest, rows.shape, strict=True)]
    # Every kind of process group knows bytes, not every one knows truth values.
    sent = rows.detach().byte() if rows.dtype == torch.bool else rows.detach()
    sent = F.pad(sent, [size for number in reversed(missing) for size in (0, number)]).contiguous()
    received = [torch.empty_like(sent) for _ in shapes]
    dist.all_gather(received, sent)
    return torch.cat([part[: shape[0]] for part, shape in zip(received, shapes, strict=True)]).to(rows.dtype)


def _shapes(rows: Tensor) -> list[list[int]]:
    own = torch.tensor(rows.shape, device=rows.device)
    found = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(found, own)
    return torch.stack(found).tolist()


def counts_of_all(count: int, device: torch.device) -> list[int]:
    """How many rows each process has."""
    return from_all(torch.tensor([count], device=device)).tolist()


def rows_of_mine(count: int, device: torch.device) -> slice:
    """Where this process's rows stand among those of all."""
    counts = counts_of_all(count, device)
    first = sum(counts[: rank()])
    return slice(first, first + count)


def columns_of_all(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Columns ``(N,)`` of a table of which each process has some rows, with those of all ``(N_0 + N_1 + …,)``; fp32."""
    if processes() == 1:
        return columns
    table = from_all(torch.stack([column.float() for column in columns.values()], 1))  # (N, K)
    return dict(zip(columns, table.t().contiguous(), strict=True))


def listed_from_all(entries: list[Any]) -> list[Any]:
    """The entries of all processes' lists, which may be any Python objects, one process's after another's."""
    if processes() == 1:
        return entries
    found: list[Any] = [None] * processes()
    dist.all_gather_object(found, entries)
    return [entry for part in found for entry in part]


def sum_of_all(figures: Tensor) -> Tensor:
    """The sums over the processes of numbers that each of them has ``(K,)``."""
    if processes() == 1:
        return figures
    figures = figures.clone()
    dist.all_reduce(figures)
    return figures


def mean_of_all(figures: Tensor) -> Tensor:
    """Their means."""
    return sum_of_all(figures) / processes()


def largest_of_all(figures: Tensor) -> Tensor:
    """The largest of the processes' numbers, each ``(K,)``."""
    if processes() == 1:
        return figures
    figures = figures.clone()
    dist.all_reduce(figures, dist.ReduceOp.MAX)
    return figures


def any_of_all(yes: bool, device: torch.device) -> bool:
    """Whether any process says yes."""
    return bool(largest_of_all(torch.tensor([float(yes)], device=device)))


def weight_among_all(weight: Tensor | float, device: torch.device) -> Tensor | float:
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


def from_all_with_gradients(rows: Tensor) -> Tensor:
    """The rows of all processes ``(N_0 + N_1 + …, H)``, with gradients, for a loss that compares rows.

    The loss must be the same on all processes. Each of them then sends its own rows' gradient back, W-fold, so that
    averaging over the W processes gives the gradient of the one loss; other parameters in it need nothing else.
    """
    return rows if processes() == 1 else _FromAll.apply(rows)  # type: ignore[return-value]


class _FromAll(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = counts_of_all(len(rows), rows.device)
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return from_all(rows, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0][ctx.start : ctx.start + ctx.count] * processes()


@contextmanager
def failing_together(device: torch.device) -> Generator[None]:
    """What fails inside on one process fails on all, which would otherwise wait for that one at their next meeting.

    For what depends on a process's own rows, such as their rewards. A process alone raises what it raises. Where
    processes meet inside, all that comes before stands in one of these of its own.

    Args:
        device: Where processes meet.

    Raises:
        NotFiniteError: If another process failed, and nothing but numbers that are not finite was wrong anywhere.
        DataError: If another process failed for another reason.
    """
    global _guards
    own: Exception | None = None
    _guards += 1
    depth = _guards
    try:
        yield
    except Exception as error:
        own = error
    finally:
        _guards -= 1
    if processes() > 1 and depth < getattr(own, "met_at", depth + 1):
        outermost = -float(largest_of_all(torch.tensor([-torch.inf if own is None else -depth * 1.0], device=device)))
        if outermost < torch.inf:
            own = _told_of_all(own)
            own.met_at = outermost  # type: ignore[attr-defined]
    if own is not None:
        raise own


_guards = 0
"""How many of these this process is inside of.

One may fail in the outer one while others are in an inner one already: they meet there, and not again further out.
"""


def _told_of_all(own: Exception | None) -> Exception:
    """What this process raises where some fail: its own error, or another process's in its words."""
    failures = listed_from_all([] if own is None else [(rank(), str(own), isinstance(own, NotFiniteError))])
    alike = all(not_finite for *_, not_finite in failures)
    if own is not None and (alike or not isinstance(own, NotFiniteError)):
        return own
    number, text, _ = next(failure for failure in failures if alike or not failure[2])
    told = (NotFiniteError if alike else DataError)(text, f"on process {number}")
    told.__cause__ = own  # all must take the same way on
    return told
