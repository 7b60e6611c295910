"""The checkpoint with the best validation metric, beside the last one."""

import math
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.cli.checkpoints import Checkpoint, put_back, remove_checkpoint
from lit_rlhf.data.errors import DataError

Mode = Literal["min", "max"]

MONITORED = ("val/gold_reward", "val/reward", "val/loss")
"""What is monitored unless an option names a metric: the first of them that is measured."""
_LOWER_IS_BETTER = ("loss", "perplexity", "kl")


class Best(Callback):
    """Keeps ``best.ckpt`` beside ``last.ckpt``: as it was when a validation metric was best, of equal ones the first.

    Of policies the metric is the judge's reward on validation prompts, where there is a judge, and otherwise the
    proxy's. Of all other modules it is the validation loss. For reward models that is meant: every pair counts by how
    wrong it is, while an accuracy over a few hundred pairs goes in steps, and the best of many is mostly luck.

    There is none without validation, none where a ``ModelCheckpoint`` of the user's own monitors something, and none
    where the run writes no checkpoints. It takes as much room as ``last.ckpt``. A resumed run goes on with the best so
    far.

    Args:
        enabled: Whether to keep it.
        monitor: A validation metric; None takes the first in `MONITORED` that is measured.
        mode: Whether the metric is to be low or high; None goes by its name: losses, perplexity and KL are to be low.
    """

    def __init__(self, enabled: bool = True, monitor: str | None = None, mode: Mode | None = None) -> None:
        self.enabled, self.monitor, self.mode = enabled, monitor, mode
        self.name = ""
        self.value = math.nan
        self.step = 0
        self.path: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """Which metric, its value, and the step."""
        return {"name": self.name, "value": self.value, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.name, self.value, self.step = (state_dict[name] for name in ("name", "value", "step"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the best of the run that is resumed; that of an earlier run in this folder goes."""
        writer = self._writer(trainer)
        if writer is None:
            return
        path = Path(str(writer.dirpath)) / "best.ckpt"
        put_back(path)
        if self.step and path.exists():
            self.path = str(path)
            return
        if self.step:
            rank_zero_info(f"the best checkpoint so far (step {self.step}) is not in {path.parent}: a new one is kept")
        self.step, self.path = 0, None
        if trainer.is_global_zero:
            remove_checkpoint(path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this state if it is the best, before the last checkpoint is written, which remembers it."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        writer = self._writer(trainer)
        name = self._metric(trainer) if writer is not None else None
        if writer is None or name is None:
            return
        value = float(trainer.callback_metrics[name])
        if not trainer.strategy.reduce_boolean_decision(self._is_better(name, value)):
            return
        self.name, self.value, self.step = name, value, trainer.global_step
        self.path = str(Path(str(writer.dirpath)) / "best.ckpt")
        writer.write(trainer, self.path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which one it is."""
        if self.path is not None:
            rank_zero_info(f"{self.described()}: {self.path}")

    def described(self) -> str:
        """What the best one is, in words."""
        return f"best by {self.name} ({self.value:.4g}), step {self.step}"

    def keeps(self, trainer: Trainer) -> bool:
        """Whether there will be a best one once validation has come."""
        return self._writer(trainer) is not None

    def _writer(self, trainer: Trainer) -> Checkpoint | None:
        """Who writes the run's checkpoints, if the best one is to be among them."""
        ours = next((each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoint)), None)
        tries = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if not self.enabled or tries or ours is None or not (ours.save_last or ours.save_top_k) or own_best(trainer):
            return None
        return ours

    def _metric(self, trainer: Trainer) -> str | None:
        measured = trainer.callback_metrics
        if self.monitor is not None and self.monitor not in measured:
            known = ", ".join(sorted(name for name in measured if name.startswith("val/")))
            raise DataError(f"{self.monitor!r} is not measured", "option best.monitor", f"There are: {known}.")
        return self.monitor or next((name for name in MONITORED if name in measured), None)

    def _is_better(self, name: str, value: float) -> bool:
        if math.isnan(value):
            return False
        if not self.step or self.name != name:
            return True
        low = self.mode == "min" or (self.mode is None and name.endswith(_LOWER_IS_BETTER))
        return value < self.value if low else value > self.value


def own_best(trainer: Trainer) -> ModelCheckpoint | None:
    """Lightning's callback by which the user has the best checkpoint kept, where there is one."""
    callbacks = (each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    return next((each for each in callbacks if each.monitor is not None and each.save_top_k != 0), None)


def best_of(trainer: Trainer) -> tuple[str, str] | None:
    """Path of a run's best checkpoint, and what it is in words; None where there is none."""
    own = own_best(trainer)
    if own is not None:
        score = "" if own.best_model_score is None else f" ({float(own.best_model_score):.4g})"
        return (own.best_model_path, f"best by {own.monitor}{score}") if own.best_model_path else None
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    ours = next((each for each in callbacks if isinstance(each, Best)), None)
    return None if ours is None or ours.path is None else (ours.path, ours.described())
