"""What every stage gets: a readable history, the export, its config."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_rlhf.cli.best import Best, best_of, own_best
from lit_rlhf.cli.card import Facts, check_place, export_with_card, facts
from lit_rlhf.cli.checkpoints import model_options, within_step
from lit_rlhf.cli.export import fill
from lit_rlhf.cli.generations import kept_lines, replace_lines
from lit_rlhf.cli.shards import read_checkpoint
from lit_rlhf.cli.throughput import PREFIX
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import write_json
from lit_rlhf.networks.sharding import is_split

_FEW = 20  # validation rows: half of an accuracy's 95 % interval is then about .2


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
        """Find the file; say so if there will be no validation metrics although some rows were to be set aside."""
        self.path = Path(self.directory or trainer.default_root_dir) / "metrics.jsonl"
        data: Any = getattr(trainer, "datamodule", None)
        if stage != "predict" and data is not None and (data.val_sources or data.val_fraction):
            rows, advice = len(data.val_rows), "Give data.val_sources, a larger data.val_fraction or more data."
            if not rows:
                said = f"no {data.view} are left for validation, so there will be no val/ metrics"
                rank_zero_info(f"warning: {said}. {advice}")
            elif rows < _FEW:
                rank_zero_info(f"warning: val/ metrics over {rows:,} {data.view} say little. {advice}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop lines behind the step that a resumed run starts from, or an earlier run's lines."""
        if self.path is not None and trainer.is_global_zero:
            replace_lines(self.path, kept_lines(self.path, trainer.global_step))

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
        if every and trainer.global_step % every == 0 and not within_step(trainer):
            self._write(trainer, "train/", PREFIX)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the validation metrics."""
        if not trainer.sanity_checking:
            self._write(trainer, "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the test metrics."""
        self._write(trainer, "test/")

    @rank_zero_only
    def _write(self, trainer: Trainer, *prefixes: str) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefixes)}
        if metrics and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": trainer.global_step, **metrics}) + "\n")


class Export(Callback):
    """Writes the trained network as a Hugging Face directory, with its card, when training has come to its end.

    Args:
        directory: Where to; a model that is there is replaced. None writes nothing.
        which: The network of the last step, or of the best checkpoint, see `lit_rlhf.cli.best.Best`.
    """

    def __init__(self, directory: str | None = None, which: Literal["last", "best"] = "last") -> None:
        self.directory, self.which = directory, which

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would lose files, or could not be done at the end, before any time is spent."""
        if self.directory is not None and stage == "fit":
            check_place(Path(self.directory), Path(trainer.default_root_dir))
            if self.which == "best":
                _check_best(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over to the next stage; an interrupted run hands over nothing.

        Of a split network every process holds a part, so all take part, and the first one writes.
        """
        writes = trainer.is_global_zero or is_split(pl_module)
        if self.directory is not None and not trainer.interrupted and writes:
            named = [each for each in trainer.callbacks if isinstance(each, SaveConfig)]  # type: ignore[attr-defined]
            known = named[0].facts(trainer) if named else facts(trainer, {})
            what = f"the last step, {trainer.global_step}"
            best = best_of(trainer) if self.which == "best" else None
            if best is not None:
                path, what = best
                content = read_checkpoint(path)
                fill(pl_module, content, path)
                known, what = content.get("run", known), f"the {what} of {trainer.global_step}"
            elif self.which == "best":
                rank_zero_info("warning: there is no best checkpoint, for there has been no validation")
            target = export_with_card(pl_module, Path(self.directory), known)
            rank_zero_info(f"model written to {target}: {what}")


def _check_best(trainer: Trainer) -> None:
    """Refuse to export the best checkpoint where there will be none, or none that can be read."""
    where, last = "option export.which", "take `last`."
    data: Any = getattr(trainer, "datamodule", None)
    kept = next((each for each in trainer.callbacks if isinstance(each, Best)), None)  # type: ignore[attr-defined]
    if data is not None and not data.val_rows:
        hint = f"Give data.val_sources or data.val_fraction, or {last}"
        raise DataError("there is no validation, so no step is the best", where, hint)
    if own_best(trainer) is None and (kept is None or not kept.keeps(trainer)):
        raise DataError(
            "no best checkpoint is kept", where, f"Set best.enabled to true, and keep checkpoints, or {last}"
        )
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        hint = "Take `last`; `lit-rlhf export FOLDER/checkpoints/best.ckpt DIRECTORY` makes a model of the best later."
        raise DataError("networks that are split are exported as they are at the end", where, hint)


class SaveConfig(SaveConfigCallback):
    """Saves the merged config in the run's folder and gives it to the logger, and its model part to the checkpoints.

    It is written when the work begins: a run that is refused leaves an earlier run's config as it is.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: the checks are still to come."""

    def state_dict(self) -> dict[str, Any]:
        """The model's options, for `lit_rlhf.cli.checkpoints.check_checkpoint` on resume."""
        return {"model": model_options(self.parser, self.config)}

    _metrics: dict[str, float] | None = None

    def facts(self, trainer: Trainer) -> Facts:
        """What a model card tells of this run; metrics that were not measured since it was resumed are those before."""
        found = facts(trainer, yaml.safe_load(self.parser.dump(self.config, skip_none=False)))
        return found | {"metrics": {**(self._metrics or {}), **found["metrics"]}}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what was measured before."""
        self._metrics = checkpoint.get("run", {}).get("metrics")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint tell as much as an exported model's card."""
        checkpoint["run"] = self.facts(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``fit.yaml``."""
        self._write(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``validate.yaml``, unless this is validation within a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``test.yaml``."""
        self._write(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``predict.yaml``."""
        self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: Trainer) -> None:
        assert trainer.state.fn is not None
        text = self.parser.dump(self.config, skip_none=False)
        path = Path(trainer.default_root_dir) / f"{trainer.state.fn.value}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(text, "utf-8")
        partial.rename(path)
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "report"):
            write_json(path.with_name("data.json"), data.report())
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": yaml.safe_load(text)})
