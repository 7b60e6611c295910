"""Weights & Biases by default: offline unless the user is logged in, never a prompt, never a wait."""

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

SECONDS_TO_BEGIN, SECONDS_TO_END = 60.0, 300.0
"""How long W&B may take to answer at the beginning, and to send what is left at the end."""
_untold: list[str] = []


def untracked() -> list[str]:
    """What W&B has not been told since this was last asked, as messages; it has all of it if there are none."""
    told, _untold[:] = _untold.copy(), []
    return told


def _tell(message: str) -> None:
    _untold.append(message)
    rank_zero_info(f"warning: W&B: {message}")


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

    Training does not depend on it. Where its server cannot be reached at the beginning, the run is kept offline; where
    its service dies on the way, the run goes on without. The history, the tables and the pictures are in the run's
    folder in any case, and the command ends with exit code 3.

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
        os.environ.setdefault("WANDB_INIT_TIMEOUT", f"{SECONDS_TO_BEGIN:.0f}")
        super().__init__(name=name, project=project, offline=offline, id=id, **settings)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it even where it is None
        self._save_dir = None
        if save_dir is not None:
            self.settle(save_dir)
        self._has_axis = False
        self._lost = False

    def settle(self, folder: str) -> None:
        """Write into this folder, unless one was named before."""
        if self._save_dir is None:
            os.makedirs(folder, exist_ok=True)
            self._save_dir = self._wandb_init["dir"] = folder

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; everything in it is drawn over ``iteration``: one PPO iteration, or one optimiser step."""
        if self._lost:
            return _DummyExperiment()
        try:
            run = super().experiment
        except Exception as error:  # whatever W&B and its service come up with
            if self._offline:
                return self._give_up(error)
            _tell(f"cannot be reached, so this run is kept offline; send it later with wandb sync: {_reason(error)}")
            self._offline, self._wandb_init["mode"] = True, "offline"
            return self.experiment
        if not self._has_axis and hasattr(run, "define_metric"):
            run.define_metric("iteration")
            run.define_metric("*", step_metric="iteration", step_sync=True)
            self._has_axis = True
        return run

    def _give_up(self, error: Exception) -> _DummyExperiment:
        self._lost = True
        _tell(f"its service has failed, so nothing more goes there; the run's own files have it: {_reason(error)}")
        return _DummyExperiment()

    @contextmanager
    def surviving(self) -> Iterator[None]:
        """Training goes on without W&B where W&B fails."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] != "wandb":
                raise
            self._give_up(error)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log on the common axis."""
        with self.surviving():
            super().log_metrics(dict(metrics) if step is None else {**metrics, "iteration": step}, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the config."""
        with self.surviving():
            super().log_hyperparams(params, *args, **kwargs)


def log_media(logger: WandbLogger, content: Mapping[str, Any], commit: bool = False) -> None:
    """Log tables, pages and pictures.

    Args:
        logger: Where to.
        content: By their names.
        commit: As a step of their own; otherwise they go with the step's metrics.
    """
    with logger.surviving() if isinstance(logger, Wandb) else nullcontext():
        logger.experiment.log(dict(content), commit=commit)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def finish() -> None:
    """End the W&B run of this process, if there is one, within a bounded time.

    What has not been sent by then lies in the run's folder, for ``wandb sync``.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or getattr(wandb, "run", None) is None:
        return
    failed: list[Exception] = []

    def end() -> None:
        try:
            wandb.finish()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=end, daemon=True, name="end of the W&B run")
    thread.start()
    thread.join(SECONDS_TO_END)
    if thread.is_alive():
        _tell(f"has not taken everything within {SECONDS_TO_END:.0f} s; send the rest with wandb sync")
    elif failed and not _untold:
        _tell(f"its service has failed at the end: {_reason(failed[0])}")
    if thread.is_alive() or failed:
        wandb.run = None  # type: ignore[attr-defined]  the next stage in this process gets one of its own, or none


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
    log_media(logger, {path.stem: wandb.Image(str(path)) for path in pictures})
    log_media(logger, dict(_flat(result)), commit=True)
    finish()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested mapping, their names joined by slashes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
