"""Rows a few at a time: the gradients of a whole batch in the memory of a part of it."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn import Parameter

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.sharding import is_split


def added_up(losses: Iterable[Tensor], parameters: Iterable[Parameter]) -> Tensor:
    """The sum of losses, each of which is computed, differentiated and forgotten before the next.

    The result's own way back gives the parameters the gradients that the sum would have given them, so whatever comes
    after (scaling by a constant, accumulation, clipping, an average over processes) is as usual.

    Args:
        losses: Computed as they are asked for.
        parameters: Those that are trained.
    """
    trained = [each for each in parameters if each.requires_grad]
    total, gradients = torch.zeros(()), _none(len(trained))
    for loss in losses:
        with torch.autocast(loss.device.type, enabled=False):  # it is for the way there
            found = torch.autograd.grad(loss, trained, allow_unused=True)
        gradients = [_sum(*pair) for pair in zip(gradients, found, strict=True)]
        total = total.to(loss.device) + loss.detach()
    return _Known.apply(total, gradients, *trained)  # type: ignore[return-value]


def _none(number: int) -> list[Tensor | None]:
    return [None] * number


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first.add_(second)


class _Known(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *(each if each is None else each.mul_(by) for each in ctx.gradients)


def parts(rows: int, size: int) -> list[slice]:
    """The rows of a batch, so many at a time."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def check_size(size: int | None) -> None:
    """Refuse a number of rows below 1.

    Raises:
        DataError: Names the option.
    """
    if size is not None and size < 1:
        raise DataError(f"is {size}", "option micro_batch_size", "Give 1 or more, or leave it out.")


def check_training(size: int | None, network: nn.Module, trainer: Trainer) -> None:
    """Refuse to differentiate parts of a batch where that would go wrong.

    Raises:
        DataError: For a network that is split over processes, and for a precision that scales the loss.
    """
    if size is None:
        return
    hint = "Leave it out; a smaller data.batch_size with trainer.accumulate_grad_batches saves memory, too."
    if is_split(network):
        raise DataError("cannot be had where networks are split over processes", "option micro_batch_size", hint)
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise DataError("cannot be had with a precision that scales the loss", "option micro_batch_size", hint)
