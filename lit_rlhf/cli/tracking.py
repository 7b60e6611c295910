"""Weights & Biases by default: offline unless the user is logged in, never a prompt, never a wait."""

import os
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment  # pyright: ignore[reportPrivateUsage]
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_rlhf.cli import lineage

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
        artifacts: Keep what the run reads and writes as artifacts, with references to where models, stores and data
            lie; nothing of them is uploaded.
    """

    def __init__(
        self,
        project: str = "lit_rlhf",
        name: str | None = None,
        group: str | None = None,
        save_dir: str | None = None,
        offline: bool | None = None,
        id: str | None = None,
        artifacts: bool = True,
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
        self.artifacts = artifacts
        self._options: Mapping[str, Any] = {}

    def settle(self, folder: str, job_type: str | None = None) -> None:
        """Write into this folder, unless one was named before, and say what kind of stage this is."""
        if job_type is not None:
            self._wandb_init.setdefault("job_type", job_type)
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
    def surviving(self) -> Generator[None]:
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
        """Log the config; the models, stores and files that it names are what the run reads."""
        with self.surviving():
            super().log_hyperparams(params, *args, **kwargs)
        if isinstance(params, Mapping) and isinstance(params.get("config"), Mapping):
            self._options = params["config"]
            self.log_artifacts(lineage.inputs(self._options), used=True)

    @rank_zero_only
    def log_artifacts(self, paths: Iterable[Path], used: bool = False) -> None:
        """Log models, stores and data files as artifacts.

        Args:
            paths: Where they lie.
            used: Whether the run has read them; otherwise it has written them.
        """
        if not self.artifacts or os.environ.get("WANDB_MODE") == "disabled":
            return
        with self.surviving():
            for path in paths:
                run = self.experiment
                if not hasattr(run, "log_artifact") or isinstance(run, _DummyExperiment):
                    return
                artifact = lineage.describe(path, Path(self._save_dir or "."))
                if not used:
                    run.log_artifact(artifact)
                elif not self._offline:
                    run.use_artifact(artifact)
                elif hasattr(run, "_log_artifact"):
                    # Offline, W&B has no public way to say that a run has read something, though its files can hold it.
                    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the models and stores that a run has written, if it came to its end."""
        if status == "success" and self._options:
            self.log_artifacts(lineage.outputs(self._options))
        super().finalize(status)


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


def log_report(
    name: str,
    folder: Path,
    result: Mapping[str, Any],
    group: str | None,
    start: float,
    command: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Log what a command found as a W&B run of its own: its figures, and the pictures that it wrote.

    A study makes a group: beside the run with its claims, one for each seed with what that seed says of every claim.

    Args:
        name: Names the run.
        folder: Where the command wrote to; W&B's files go there too.
        result: Figures, possibly nested.
        group: Runs that belong together; a study is one by itself.
        start: When the command began, in seconds since the epoch; older pictures are not its own.
        command: The kind of run; None takes the name.
        options: The command's options, for the config and for the models and stores that it read.
    """
    import wandb

    if os.environ.get("WANDB_MODE") == "disabled":
        return
    if "claims" in result:
        group = group or f"study {result['study']}"
        _log_seeds(folder, result, group)
    logger = Wandb(name=f"{group} {name}" if group else name, group=group, save_dir=str(folder))
    logger.settle(str(folder), command or name)
    if options:
        logger.log_hyperparams({"config": options})
    pictures = [path for path in sorted(folder.glob("*.png")) if path.stat().st_mtime >= start]
    log_media(logger, {path.stem: wandb.Image(str(path)) for path in pictures})
    log_media(logger, dict(_flat(result)), commit=True)
    logger.finalize("success")
    finish()


def _log_seeds(folder: Path, summary: Mapping[str, Any], group: str) -> None:
    """One run per seed of a study: the value of each claim's effect, under the claim's name."""
    seeds = summary.get("settings", {}).get("seeds") or range(
        max((len(c["values"]) for c in summary["claims"]), default=0)
    )
    for place, seed in enumerate(seeds):
        values = {claim["id"]: claim["values"][place] for claim in summary["claims"] if len(claim["values"]) > place}
        if not values:
            continue
        logger = Wandb(name=f"{group} seed {seed}", group=group, save_dir=str(folder))
        logger.settle(str(folder), "seed")
        logger.log_hyperparams({"seed": seed})
        log_media(logger, values, commit=True)
        finish()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested mapping, their names joined by slashes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
