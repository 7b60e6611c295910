"""The optimiser that every stage shares: AdamW with warm-up and a schedule."""

# There may be no limit, whatever Lightning's types say.
# pyright: reportUnnecessaryComparison=false

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lit_rlhf.data.errors import DataError

if TYPE_CHECKING:
    from lightning import Trainer


@dataclass
class Optimizer:
    """AdamW with warm-up and a schedule.

    Attributes:
        lr: Peak learning rate.
        betas: Decay of the two moments.
        weight_decay: Decoupled weight decay.
        warmup: Share of all steps over which the rate rises from zero.
        schedule: What follows: ``constant``, or a fall to zero as ``linear`` or ``cosine``.

    Raises:
        DataError: If a number is one that nothing can be trained with.
    """

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: float = 0.03
    schedule: Literal["constant", "linear", "cosine"] = "cosine"

    def __post_init__(self) -> None:
        """Refuse what could not train, or not as it says."""
        for name, fine, expected in (
            ("lr", self.lr >= 0, "0 or more"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "numbers from 0 to below 1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("warmup", 0 <= self.warmup <= 1, "a share of all steps, from 0 to 1"),
        ):
            if not fine:
                raise DataError(f"expected {expected}, found {getattr(self, name)}", f"optimizer, {name}")

    def build(self, groups: Iterable[Parameter] | list[dict[str, Any]], total_steps: float) -> dict[str, Any]:
        """What ``configure_optimizers`` returns; ``total_steps`` may be infinite with a constant schedule.

        Args:
            groups: Parameters, or parameter groups, each of which may bring its own ``lr``.
            total_steps: Number of times that the schedule will be stepped.
        """
        optimizer = AdamW(groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)
        # Else Lightning takes for granted that a loss scaler leaves gradients to it scaled, and refuses to clip them.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        scheduler = LambdaLR(optimizer, lambda step: self.factor(step, total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def factor(self, step: int, total_steps: float) -> float:
        """Share of the peak rate at a step."""
        if math.isinf(total_steps):
            return 1.0
        warmup = self.warmup * total_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
        match self.schedule:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 - progress
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * progress))


def check_precision(trainer: "Trainer") -> None:
    """Refuse a precision that scales the loss, for modules that themselves use gradients before the optimiser does.

    Raises:
        DataError: Names the option.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        hint = "Take bf16-mixed or 32-true."
        raise DataError("scales the loss, so gradients would be clipped to nothing", "trainer.precision", hint)


def check_weights(trainer: "Trainer") -> None:
    """Refuse precisions in which weights themselves are not fp32: they are trained, counted and compared in it.

    Raises:
        DataError: Names the option.
    """
    if trainer.precision not in ("32-true", "16-mixed", "bf16-mixed"):
        hint = (
            "Give bf16-mixed: products are computed in bf16, weights, heads and sums kept in fp32; or 32-true. Only "
            "reward models can be asked in half precision: dtype of ScalarReward and RewardModel.load."
        )
        raise DataError(f"is {trainer.precision}, and weights are kept in fp32 here", "option trainer.precision", hint)


def total_steps(trainer: "Trainer") -> float:
    """Optimiser steps of the whole run; infinite where nothing limits them.

    With a DataModule, not the Trainer's own ``estimated_stepping_batches``: that opens the training data before a
    checkpoint has been restored, and a run resumed in the middle of an epoch would begin the epoch anew.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return float(trainer.estimated_stepping_batches)
    limits = [float(trainer.max_steps)] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        batches: float = len(data.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * (1.0 if limit is None else limit))
        limits.append(math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs)
    return min(limits, default=math.inf)
