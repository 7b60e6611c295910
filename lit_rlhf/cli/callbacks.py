"""What every stage gets: exact random state, a readable history, a table of generations, the export."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only


class Checkpoint(ModelCheckpoint):
    """Lightning's checkpoints, but behind the validation that falls on the same step, and always at the end.

    A run that was killed during that validation would otherwise be resumed behind it and never have its figures.
    They lie in the run's folder, whatever the logger.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        self.dirpath = self.dirpath or str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave the checkpoint to `on_validation_end` where validation comes next."""
        due = self._every_n_train_steps > 0 and trainer.global_step % self._every_n_train_steps == 0
        loop = trainer.fit_loop
        if due and loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            self._defer_save_until_validation = True
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint that was left for now."""
        if self._defer_save_until_validation and not self._should_skip_saving_checkpoint(trainer):
            self._defer_save_until_validation = False
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        else:
            super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the end of training too, whatever its step."""
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class RandomState(Callback):
    """Keeps the state of all global random number generators in the checkpoint, which Lightning does not."""

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """State of Python's, numpy's and torch's generators, on every device."""
        numpy = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],  # type: ignore[index, union-attr]
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the state; it is put in place when training starts."""
        self._resumed = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the random numbers of the run that is resumed."""
        if self._resumed is None:
            return
        version, internal, gauss = self._resumed["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = self._resumed["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(self._resumed["torch"].cpu())
        if self._resumed["cuda"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in self._resumed["cuda"]])


class History(Callback):
    """Writes the logged metrics to ``metrics.jsonl`` in the run's folder, one line per logged step.

    Args:
        directory: The folder; None takes the Trainer's ``default_root_dir``.
        every_n_steps: Steps between two lines; None takes the Trainer's ``log_every_n_steps``.
    """

    def __init__(self, directory: str | None = None, every_n_steps: int | None = None) -> None:
        self.directory, self.every_n_steps = directory, every_n_steps
        self.path: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the file."""
        self.path = Path(self.directory or trainer.default_root_dir) / "metrics.jsonl"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop lines behind the step that a resumed run starts from, or an earlier run's lines."""
        if self.path is not None and trainer.is_global_zero:
            _forget(self.path, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule | None = None,
        outputs: Any = None,
        batch: Any = None,
        batch_idx: int = 0,
    ) -> None:
        """Write the training metrics of every n-th step."""
        every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0:
            self._write(trainer, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the validation metrics."""
        if not trainer.sanity_checking:
            self._write(trainer, "val/")

    @rank_zero_only
    def _write(self, trainer: Trainer, prefix: str) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        if metrics and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": trainer.global_step, **metrics}) + "\n")


def _forget(path: Path, step: int) -> None:
    """Keep a file's lines up to a step, and none at step 0."""
    if path.exists():
        lines = [line for line in path.read_text("utf-8").splitlines() if step > 0 and _step(line) <= step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        partial.rename(path)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut short when the run was killed


class Generations(Callback):
    """A table that grows: prompt, response, proxy reward, baseline mean, and the true reward where it is known.

    Goes to W&B and to ``generations.jsonl`` in the run's folder.

    Args:
        every_n_steps: Iterations between two sets of rows.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self._table: Any = None

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop rows behind the iteration that a resumed run starts from, or an earlier run's rows."""
        _forget(self._path(trainer), trainer.global_step)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any = None, batch: Any = None, batch_idx: int = 0
    ) -> None:
        """Add what the module keeps as its examples."""
        examples = getattr(pl_module, "examples", None)
        if not examples or (trainer.global_step - 1) % self.every_n_steps:
            return
        rows = [{"step": trainer.global_step, **example} for example in examples]
        path = self._path(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self._log(logger, rows)

    @staticmethod
    def _path(trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "generations.jsonl"

    def _log(self, logger: WandbLogger, rows: list[dict[str, Any]]) -> None:
        import wandb

        if self._table is None:
            self._table = wandb.Table(columns=list(rows[0]), log_mode="INCREMENTAL")
        for row in rows:
            self._table.add_data(*row.values())
        logger.experiment.log({"generations": self._table}, commit=False)


class Export(Callback):
    """Writes the trained network as a Hugging Face directory when training has come to its end.

    Args:
        directory: Where to; None writes nothing.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over to the next stage; an interrupted run hands over nothing."""
        if self.directory is not None and not trainer.interrupted:
            datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
            target = pl_module.export(self.directory, datamodule.renderer)  # type: ignore[operator]
            rank_zero_info(f"model written to {target}")


class SaveConfig(SaveConfigCallback):
    """Saves the merged config in the run's folder, and gives it to the logger."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``fit.yaml`` (or another command's) atomically; log it as hyper-parameters."""
        if trainer.is_global_zero:
            text = self.parser.dump(self.config, skip_none=False)
            path = Path(trainer.default_root_dir) / f"{getattr(stage, 'value', stage)}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_text(text, "utf-8")
            partial.rename(path)
            for logger in trainer.loggers:
                logger.log_hyperparams({"config": self.config.as_dict()})
