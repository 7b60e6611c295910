"""Weights & Biases by default: offline unless the user is logged in, never a prompt, never a wait."""

import os
import sys
from collections.abc import Iterator, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only


def logged_in() -> bool:
    """Whether W&B could log without asking: by its environment variables or the user's netrc file."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


class Wandb(WandbLogger):
    """Logs to Weights & Biases; offline where nobody is logged in.

    Args:
        project: W&B project; all stages go into one.
        name: Name of the run.
        group: Runs that belong together, such as the stages of an experiment.
        save_dir: Folder for W&B's files; None takes the run's folder.
        offline: None decides by whether the user is logged in.
        id: Identity of the run; resuming with the same one continues it.
    """

    def __init__(
        self,
        project: str = "lit_rlhf",
        name: str | None = None,
        group: str | None = None,
        save_dir: str | None = None,
        offline: bool | None = None,
        id: str | None = None,
    ) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        offline = not logged_in() if offline is None else offline
        settings: dict[str, Any] = {"group": group, "resume": "allow" if id else None}
        super().__init__(name=name, project=project, offline=offline, id=id, **settings)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it even where it is None
        self._save_dir = None
        if save_dir is not None:
            self.settle(save_dir)
        self._has_axis = False

    def settle(self, folder: str) -> None:
        """Write into this folder, unless one was named before."""
        if self._save_dir is None:
            os.makedirs(folder, exist_ok=True)
            self._save_dir = self._wandb_init["dir"] = folder

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; everything in it is drawn over ``iteration``: one PPO iteration, or one optimiser step."""
        run = super().experiment
        if not self._has_axis and hasattr(run, "define_metric"):
            run.define_metric("iteration")
            run.define_metric("*", step_metric="iteration", step_sync=True)
            self._has_axis = True
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log on the common axis."""
        super().log_metrics(dict(metrics) if step is None else {**metrics, "iteration": step}, step)


def finish() -> None:
    """End the W&B run of this process, if there is one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish()


def log_report(command: str, folder: Path, result: Mapping[str, Any], group: str | None, start: float) -> None:
    """Log what a command found as a W&B run of its own: its figures, and the pictures that it wrote.

    Args:
        command: Names the run.
        folder: Where the command wrote to; W&B's files go there too.
        result: Figures, possibly nested.
        group: Runs that belong together.
        start: When the command began, in seconds since the epoch; older pictures are not its own.
    """
    import wandb

    logger = Wandb(name=f"{group} {command}" if group else command, group=group, save_dir=str(folder))
    if os.environ.get("WANDB_MODE") == "disabled":
        return
    pictures = [path for path in sorted(folder.glob("*.png")) if path.stat().st_mtime >= start]
    logger.experiment.log({path.stem: wandb.Image(str(path)) for path in pictures}, commit=False)
    logger.experiment.log(dict(_flat(result)))
    finish()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested mapping, their names joined by slashes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
