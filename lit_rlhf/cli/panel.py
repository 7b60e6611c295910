"""The over-optimisation panel of a run that trains a policy, and its warnings."""

import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_rlhf.cli.callbacks import History
from lit_rlhf.cli.tracking import log_media
from lit_rlhf.evaluation.overoptimisation import Row, Sign, first_signs, new_signs
from lit_rlhf.evaluation.panel import draw_panel, read_history

_SHARE = 0.02  # of a run's time that may go into drawing, the last picture aside
_DRAWING = 1.0  # seconds that the first drawing is expected to take


class Panel(Callback):
    """Draws ``panel.png`` in the folder of a PPO run, sends it to W&B, and warns of what it shows.

    Proxy and gold reward over the root of KL, and every quantity that tells whether the policy gets better or only
    better at its reward, by iteration; see `lit_rlhf.evaluation.panel`. The picture is drawn after each validation,
    every so many iterations, and at the end; drawings before the end that would take more than 2 % of the run's time
    are left out.

    Signs of trouble are told once each, on the screen and as ``warnings/NAME`` in the logger, where the rule that found
    them is stated in `lit_rlhf.evaluation.overoptimisation`: longer responses, a falling gold reward, a leap of KL, a
    useless critic, collapsing entropy. Runs without KL to a reference (``train/kl``), such as those of a reward model,
    have no panel.

    Args:
        enabled: Whether to draw and to warn.
        every_n_steps: Iterations between two drawings.
    """

    def __init__(self, enabled: bool = True, every_n_steps: int = 20) -> None:
        self.enabled, self.every_n_steps = enabled, every_n_steps
        self._train: list[Row] = []
        self._val: list[Row] = []
        self._signs: list[Sign] = []
        self._begun = self._spent = 0.0
        self._drawn = 0

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up a resumed run's iterations where they were left; what they showed has been told."""
        if not self.enabled:
            return
        history = read_history(_folder(trainer) / "metrics.jsonl")
        rows = [row for row in history if 0 < row["step"] <= trainer.global_step]
        self._train, self._val = ([row for row in rows if f"{part}/kl" in row] for part in ("train", "val"))
        self._signs = first_signs(self._train)
        self._begun, self._spent, self._drawn = time.monotonic(), 0.0, trainer.global_step

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any = None, batch: Any = None, batch_idx: int = 0
    ) -> None:
        """Look at every iteration that is logged; draw every so many."""
        every = _every(trainer) if self.enabled else 0
        if not every or trainer.global_step % every or not self._add(trainer, "train/", self._train):
            return
        for sign in new_signs(self._train, {sign.name for sign in self._signs}):
            self._signs.append(sign)
            self._warn(trainer, sign)
        if trainer.global_step >= self._drawn + self.every_n_steps:
            self._draw(trainer)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the validation's dots."""
        if not self.enabled or trainer.sanity_checking or not self._add(trainer, "val/", self._val):
            return
        if self._train:
            self._draw(trainer)

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the whole run."""
        if self.enabled and self._train:
            self._draw(trainer, last=True)

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there is of a run that Ctrl-C has stopped."""
        if isinstance(exception, KeyboardInterrupt):
            self.on_train_end(trainer, pl_module)

    def _add(self, trainer: Trainer, prefix: str, rows: list[Row]) -> bool:
        """Take down the latest metrics; whether they are those of a policy."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        if f"{prefix}kl" not in metrics:
            return False
        rows.append({"step": trainer.global_step, **metrics})
        return True

    def _warn(self, trainer: Trainer, sign: Sign) -> None:
        rank_zero_info(f"warning: iteration {sign.step}: {sign.message}")
        for logger in trainer.loggers:
            logger.log_metrics({f"warnings/{sign.name}": 1.0}, sign.step)

    def _draw(self, trainer: Trainer, last: bool = False) -> None:
        begin = time.monotonic()
        if not last and self._spent + _DRAWING > _SHARE * (begin - self._begun):
            return
        path = _folder(trainer) / "panel.png"
        title = f"{path.resolve().parent.name} · {trainer.global_step} iterations"
        draw_panel([*self._train, *self._val], path, title, self._signs)
        self._spent, self._drawn = self._spent + time.monotonic() - begin, trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                log_media(logger, {"panel": wandb.Image(str(path))}, commit=last)


def _history(trainer: Trainer) -> History | None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((each for each in callbacks if isinstance(each, History)), None)


def _folder(trainer: Trainer) -> Path:
    """Where the history lies."""
    history = _history(trainer)
    return Path((history and history.directory) or trainer.default_root_dir)


def _every(trainer: Trainer) -> int:
    """Steps between two lines of the history; 0 where none are written."""
    history = _history(trainer)
    return (history and history.every_n_steps) or trainer.log_every_n_steps  # type: ignore[attr-defined]
