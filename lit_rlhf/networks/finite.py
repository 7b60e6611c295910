"""Optimiser steps on numbers that are not finite are refused, and the batch behind them is written aside."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import get_total_norm

from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.data.store import naming, write_json
from lit_rlhf.networks.wrapping import unwrapped


class StepGuard(Callback):
    """Refuses a step of the optimiser whose loss or gradient is NaN or infinite, and a rollout whose reward is.

    Weights, moments and checkpoints stay as they were. The batch is written to ``refused/step-N.json``, with its texts,
    and its tensors to ``refused/step-N.safetensors``. All processes decide alike. With a precision that scales the
    loss the scaler decides instead.

    Args:
        action: ``stop`` ends the run with an error; ``skip`` goes on with the next batch, and the step counts as taken.
        most: Refused steps in a row after which ``skip`` stops as well: then it is not the batch.
        directory: Where to write; None takes ``refused`` in the run's folder.

    Raises:
        DataError: If ``most`` is below 1.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", most: int = 10, directory: str | None = None) -> None:
        if most < 1:
            raise DataError(f"is {most}", "option guard.most", "Give 1 or more.")
        self.action, self.most, self.directory = action, most, directory
        self._batches: list[Any] = []
        self._losses: list[Tensor] = []
        self._refused: list[int] = []  # steps in a row

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember what the next step will have been made from: several batches where gradients are added up."""
        self._batches = [*self._batches, batch] if self._losses else [batch]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember the loss."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Look at losses and gradients; an optimiser that finds no gradients changes nothing."""
        losses, self._losses = self._losses, []
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        parameters = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        norm = _norm([each.grad for each in parameters])
        finite = bool(
            torch.stack([each.float().reshape(()).to(norm.device) for each in (norm, *losses)]).isfinite().all()
        )
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite)
        if finite:
            return
        names = [
            unwrapped(name)
            for name, each in pl_module.named_parameters()
            if each.grad is not None and not _finite(each.grad)
        ]
        for each in parameters:
            each.grad = None
        told = f"loss {', '.join(f'{float(loss):g}' for loss in losses)}, norm of the gradient {float(norm):g}"
        self.refuse(trainer, pl_module, NotFiniteError(told, f"step {trainer.global_step + 1}"), names)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step that was taken ends a row of refused ones."""
        if self._refused and self._refused[-1] < trainer.global_step - 1:
            self._refused = []

    def refuse(
        self, trainer: Trainer, module: LightningModule, error: NotFiniteError, gradients: list[str] | None = None
    ) -> None:
        """Write the batch aside; go on only if that is asked for and it has not happened too often.

        Args:
            trainer: Of the run.
            module: What is trained; its ``examples`` are written as well.
            error: What is not finite.
            gradients: Names of parameters whose gradient is not.

        Raises:
            NotFiniteError: Unless the step is to be skipped.
        """
        step = trainer.global_step
        path = Path(self.directory or Path(trainer.default_root_dir) / "refused") / f"step-{step + 1}.json"
        if trainer.world_size > 1:
            path = path.with_stem(f"{path.stem}-process-{trainer.global_rank}")
        if step not in self._refused:  # otherwise an earlier minibatch's is there
            self._write(path, module, {"step": step + 1, "error": str(error), "gradients": gradients or []})
            self._refused.append(step)
        if self.action == "skip" and len(self._refused) < self.most:
            rank_zero_warn(f"{error}\n  The step is left out; its batch is in {path}.")
            return
        hint = (
            f"The step was refused; its batch is in {path}. Look for a bad row there, lower the learning rate, or "
            "leave such steps out: --guard.action skip. The run goes on from its last checkpoint."
        )
        if self.action == "skip":
            hint = (
                f"That is number {self.most} in a row (guard.most), so it is not the batch. The last one is in {path}."
            )
        raise NotFiniteError(str(error), hint=hint)

    def _write(self, path: Path, module: LightningModule, told: dict[str, Any]) -> None:
        found = dict(pair for number, batch in enumerate(self._batches) for pair in _tensors(batch, f"batch{number}"))
        records = [asdict(record) for batch in self._batches for record in getattr(batch, "records", [])]
        told |= {"module": type(module).__name__, "records": records, "examples": list(getattr(module, "examples", ()))}
        write_json(path, _plain(told))
        partial = path.with_suffix(".partial")
        with naming(partial):
            save_file(found, partial)
        os.replace(partial, path.with_suffix(".safetensors"))


def leave_out(module: LightningModule, error: NotFiniteError) -> None:
    """Go on without a rollout whose reward is not finite: the iteration counts, and changes nothing.

    All processes must come, each with the error of `lit_rlhf.networks.together.failing_together`.

    Args:
        module: With manual optimisation by one optimiser.
        error: What was not finite.

    Raises:
        NotFiniteError: Unless the run's `StepGuard` is to skip.
    """
    trainer: Any = module.trainer
    guard = next((each for each in trainer.callbacks if isinstance(each, StepGuard)), None)
    if guard is None:
        raise error
    guard.refuse(trainer, module, error)
    optimizer, schedule = module.optimizers(), module.lr_schedulers()
    optimizer.zero_grad()  # type: ignore[union-attr]
    optimizer.step()  # type: ignore[union-attr]
    schedule.step()  # type: ignore[union-attr, call-arg]


def _norm(gradients: list[Tensor]) -> Tensor:
    """Norm of all gradients, a number; of all processes' parts where they are split."""
    whole, split = [[each for each in gradients if hasattr(each, "full_tensor") is kind] for kind in (False, True)]
    # In fp16 the sum of squares alone would be infinite.
    whole = [each.float() if each.dtype is torch.float16 else each for each in whole]
    found = [get_total_norm(part, foreach=None) for part in (whole, split) if part]
    norms = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in found]  # type: ignore[operator]
    return torch.stack(norms).norm() if norms else torch.zeros(())


def _finite(gradient: Tensor) -> bool:
    local: Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient  # type: ignore[operator]
    return bool(local.isfinite().all())


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a batch, by the names of the fields that lead to it."""
    if isinstance(value, Tensor):
        yield name, value.detach().cpu().contiguous().clone()
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name), f"{name}.{field.name}")


def _plain(value: Any) -> Any:
    """As strict JSON has it, which knows no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
