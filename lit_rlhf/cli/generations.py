"""The responses that a run writes down for people to read, and their tokens as coloured pages."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_rlhf.cli.tracking import log_media

if TYPE_CHECKING:
    from lit_rlhf.evaluation.heatmap import TokenRow

Rows = list[dict[str, Any]]


class Generations(Callback):
    """A table that grows: prompt, response, proxy reward, baseline mean, and the gold reward where it is known.

    A response is shown with its special tokens, and ``truncated`` says whether it was cut off at the limit. The table
    of a rewriter holds rejected response, correction and chosen response after each validation.

    Goes to W&B and to ``generations.jsonl`` in the run's folder: at the first iteration, then every so many, and at the
    last one, however the run ends. What is known of every token goes to the file as lists, and to W&B as heat-maps:
    ``generations/token_rewards`` and ``generations/token_advantages``. Those of the last iteration lie in the run's
    folder as well, ``token_rewards.html`` and ``.png``, ``token_advantages.html`` and ``.png``.

    Args:
        every_n_steps: Iterations between two sets of rows.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self._table: Any = None
        self._latest: Rows = []
        self._corrections: Rows = []
        self._written: Rows = []

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop rows behind the iteration that a resumed run starts from, or an earlier run's rows.

        Those of the very iteration, if they are there because the run ended with it, wait: it ends elsewhere now, or
        it has nothing left to do.
        """
        path = _path(trainer)
        lines = kept_lines(path, trainer.global_step)
        if not self._is_due(trainer.global_step):
            rows = [json.loads(line) for line in lines]
            self._latest = [row for row in rows if row["step"] == trainer.global_step and "correction" not in row]
            lines = lines[: len(lines) - len(self._latest)]
        replace_lines(path, lines)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any = None, batch: Any = None, batch_idx: int = 0
    ) -> None:
        """Take down the ``examples`` of the step's outputs; write them every so many iterations."""
        examples = outputs.get("examples") if isinstance(outputs, dict) else None
        if examples:
            self._latest = _rows(trainer, examples)
            if self._is_due(trainer.global_step):
                self._add(trainer, self._latest)

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any = None,
        batch: Any = None,
        batch_idx: int = 0,
        dataloader_idx: int = 0,
    ) -> None:
        """Take down the ``corrections`` of the step's outputs, which a seq2seq reward model has written."""
        if isinstance(outputs, dict) and outputs.get("corrections"):
            self._corrections = outputs["corrections"]

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the corrections."""
        written, self._corrections = self._corrections, []
        if written and not trainer.sanity_checking:
            self._add(trainer, _rows(trainer, written))

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last iteration and draw its heat-maps, as pages and pictures."""
        self._add_latest(trainer)
        self._draw(trainer)

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the last iteration of a run that was stopped, too."""
        with suppress(OSError):  # it may be the disk that has stopped it
            self._add_latest(trainer)
            if isinstance(exception, KeyboardInterrupt):
                self._draw(trainer)

    def _is_due(self, step: int) -> bool:
        return (step - 1) % self.every_n_steps == 0

    def _add_latest(self, trainer: Trainer) -> None:
        if self._latest and self._latest is not self._written:
            self._add(trainer, self._latest, last=True)

    def _add(self, trainer: Trainer, rows: Rows, last: bool = False) -> None:
        self._written = rows
        path = _path(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self._log(logger, rows, last)

    def _draw(self, trainer: Trainer) -> None:
        from lit_rlhf.evaluation.heatmap import heatmap_html, heatmap_png

        for name, heading, rows in _token_rows(self._written):
            path = _path(trainer).with_name(f"{name}.html")
            _replace(path, heatmap_html(rows, heading))
            heatmap_png(rows, path.with_suffix(".png"), heading)

    def _log(self, logger: WandbLogger, rows: Rows, last: bool) -> None:
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
        log_media(logger, {"generations": self._table, **pages}, commit=last)


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "generations.jsonl"


def _rows(trainer: Trainer, examples: Rows) -> Rows:
    return [{"step": trainer.global_step, **example} for example in examples]


def _token_rows(rows: Rows) -> Iterator[tuple[str, str, list["TokenRow"]]]:
    """Name, heading and rows of each kind of number that all rows have for every token."""
    from lit_rlhf.evaluation.heatmap import TokenRow

    for name in ("token_rewards", "token_advantages"):
        if rows and all(name in row and "tokens" in row for row in rows):
            heading = f"{name.replace('_', ' ')}, iteration {rows[0]['step']}"
            yield name, heading, [TokenRow.of(row, name) for row in rows]


def kept_lines(path: Path, step: int) -> list[str]:
    """A history's lines up to a step, and none at step 0, where a run begins anew.

    Args:
        path: A file of JSON lines with ``step``; one that is not there has no lines.
        step: The last step whose lines are kept.
    """
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [line for line in lines if step > 0 and _step(line) <= step]


def replace_lines(path: Path, lines: list[str]) -> None:
    """Let a file that is there hold these lines."""
    if path.exists():
        _replace(path, "".join(f"{line}\n" for line in lines))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut short when the run was killed
