"""What every stage gets: a readable history, a table of generations, the export, its config."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_rlhf.cli.card import Facts, check_place, export_with_card, facts
from lit_rlhf.cli.checkpoints import model_options, within_step
from lit_rlhf.cli.tracking import log_media
from lit_rlhf.networks.sharding import is_split

if TYPE_CHECKING:
    from lit_rlhf.evaluation.heatmap import TokenRow


class Progress(RichProgressBar):
    """Lightning's progress bar, without a number of epochs where a number of steps ends the run."""

    def _get_train_description(self, current_epoch: int) -> str:
        shown = super()._get_train_description(current_epoch)
        return shown.replace("/-2", "   ")


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
        if every and trainer.global_step % every == 0 and not within_step(trainer):
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
    """A table that grows: prompt, response, proxy reward, baseline mean, and the gold reward where it is known.

    A rewriter's table holds rejected response, correction and chosen response after each validation.

    Goes to W&B and to ``generations.jsonl`` in the run's folder. What is known of every token goes to the file as
    lists, and to W&B as heat-maps: ``generations/token_rewards`` and ``generations/token_advantages``. The last ones
    lie in the run's folder as well, ``token_rewards.html`` and ``.png``, ``token_advantages.html`` and ``.png``.

    Args:
        every_n_steps: Iterations between two sets of rows.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self._table: Any = None
        self._last: list[dict[str, Any]] = []

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
        self._add(trainer, examples)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add what the module has written in validation: the corrections of a rewriter."""
        written = getattr(pl_module, "corrections", None)
        if written and not trainer.sanity_checking:
            self._add(trainer, written)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last heat-maps, as pages and pictures."""
        from lit_rlhf.evaluation.heatmap import heatmap_html, heatmap_png

        for name, heading, rows in _token_rows(self._last):
            path = self._path(trainer).with_name(f"{name}.html")
            path.write_text(heatmap_html(rows, heading), "utf-8")
            heatmap_png(rows, path.with_suffix(".png"), heading)

    def _add(self, trainer: Trainer, examples: list[dict[str, Any]]) -> None:
        self._last = rows = [{"step": trainer.global_step, **example} for example in examples]
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

        from lit_rlhf.evaluation.heatmap import heatmap_html

        cells = [{name: value for name, value in row.items() if not isinstance(value, list)} for row in rows]
        if self._table is None:
            self._table = wandb.Table(columns=list(cells[0]), log_mode="INCREMENTAL")
        for row in cells:
            self._table.add_data(*row.values())
        pages = {
            f"generations/{name}": wandb.Html(heatmap_html(found, heading))
            for name, heading, found in _token_rows(rows)
        }
        log_media(logger, {"generations": self._table, **pages})


def _token_rows(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, list["TokenRow"]]]:
    """Name, heading and rows of each kind of number that all rows have for every token."""
    from lit_rlhf.evaluation.heatmap import TokenRow

    for name in ("token_rewards", "token_advantages"):
        if rows and all(name in row and "tokens" in row for row in rows):
            heading = f"{name.replace('_', ' ')}, iteration {rows[0]['step']}"
            yield name, heading, [TokenRow(row["prompt"], row["tokens"], row[name]) for row in rows]


class Export(Callback):
    """Writes the trained network as a Hugging Face directory, with its card, when training has come to its end.

    Args:
        directory: Where to; a model that is there is replaced. None writes nothing.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would lose files, before any time is spent."""
        if self.directory is not None and stage == "fit":
            check_place(Path(self.directory), Path(trainer.default_root_dir))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over to the next stage; an interrupted run hands over nothing.

        Of a split network every process holds a part, so all take part, and the first one writes.
        """
        writes = trainer.is_global_zero or is_split(pl_module)
        if self.directory is not None and not trainer.interrupted and writes:
            datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
            named = [each for each in trainer.callbacks if isinstance(each, SaveConfig)]  # type: ignore[attr-defined]
            known = named[0].facts(trainer) if named else facts(trainer, {})
            target = export_with_card(pl_module, Path(self.directory), datamodule.renderer, known)
            rank_zero_info(f"model written to {target}")


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
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": self.config.as_dict()})
