"""What a Trainer shows of its progress: a bar on a terminal, plain lines anywhere else."""

import math
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich.console import Console

from lit_rlhf.data.progress import Progress


def progress_bar() -> ProgressBar:
    """A bar where there is a terminal or a notebook, lines where the output goes to a file or a pipe."""
    console = Console()
    return TerminalBar() if console.is_terminal or console.is_jupyter else ProgressLines()


class TerminalBar(RichProgressBar):
    """Lightning's progress bar, without a number of epochs where a number of steps ends the run."""

    def _get_train_description(self, current_epoch: int) -> str:
        shown = super()._get_train_description(current_epoch)
        return shown.replace("/-2", "   ")


class ProgressLines(ProgressBar):
    """Progress as lines of text, see `lit_rlhf.data.progress.Progress`.

    Training counts optimiser steps, which are iterations where a policy is optimised; validation, test and prediction
    count batches. The figures are those that modules log for the bar.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self._training: Progress | None = None
        self._evaluating: Progress | None = None
        self._batches = 0

    def disable(self) -> None:
        """Say nothing."""
        self.enabled = False

    def enable(self) -> None:
        """Speak again."""
        self.enabled = True

    # ------------------------------------------------------------------ training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time; a resumed run does not count what was done before."""
        unit = "iteration" if getattr(pl_module, "view", None) == "prompts" else "step"
        self._training = Progress("fit", unit, _steps(trainer), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how far training is."""
        self._tell_training(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where it ended."""
        self._tell_training(trainer, last=True)

    def _tell_training(self, trainer: Trainer, last: bool = False) -> None:
        if self.enabled and self._training is not None:
            self._training.tell(trainer.global_step, self._figures(trainer), last)

    def _figures(self, trainer: Trainer) -> dict[str, float]:
        metrics = trainer.progress_bar_metrics.items()
        return {name.removeprefix("train/"): float(value) for name, value in metrics if name != "v_num"}

    # ------------------------------------------------------------------ validation, test, prediction

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._begin("validate", trainer.num_val_batches)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how far validation is."""
        self._count(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was measured, unless training goes on and will."""
        self._end(trainer, said=self._training is None)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._begin("test", trainer.num_test_batches)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how far the test is."""
        self._count(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was measured."""
        self._end(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._begin("predict", trainer.num_predict_batches)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how far prediction is."""
        self._count(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that it is done."""
        self._end(trainer)

    def _begin(self, what: str, batches: list[int | float]) -> None:
        self._evaluating, self._batches = Progress(what, "batch", sum(batches)), 0

    def _count(self, trainer: Trainer) -> None:
        self._batches += 1
        self._tell_evaluating(trainer)

    def _end(self, trainer: Trainer, said: bool = True) -> None:
        if said:
            self._tell_evaluating(trainer, last=True)
        self._evaluating = None

    def _tell_evaluating(self, trainer: Trainer, last: bool = False) -> None:
        if self.enabled and self._evaluating is not None and not trainer.sanity_checking:
            # In the middle of it, there are only figures of what was before.
            self._evaluating.tell(self._batches, self._figures(trainer) if last else {}, last)


def _steps(trainer: Trainer) -> float:
    """Optimiser steps of the whole run, once its data are there; infinite where nothing limits them."""
    limits: list[float] = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:  # pyright: ignore[reportUnnecessaryComparison]
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        limits.append(math.inf if math.isinf(batches) else math.ceil(batches) * trainer.max_epochs)
    return min(limits, default=math.inf)
