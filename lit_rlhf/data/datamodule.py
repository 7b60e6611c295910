"""The one LightningDataModule that serves every stage."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import torch
import yaml
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torchdata.stateful_dataloader import StatefulDataLoader

from lit_rlhf.data.batches import Batch, PairBatch, PromptBatch, ResponseBatch, pad_rows, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.loader import BucketBatchSampler, make_loader
from lit_rlhf.data.preparation import Counts, Row, View, labelled, tokenise, validation_share, weighted
from lit_rlhf.data.records import Record, Source
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.strength import strengths
from lit_rlhf.data.treatments import Treatment


class PreferenceDataModule(LightningDataModule):
    """Preference pairs, demonstrations or prompts from any number of sources, as typed batches.

    The stage decides what it sees: supervised fine-tuning gets the chosen responses, reward models get pairs,
    baselines and policy optimisation get the distinct prompts.

    Args:
        sources: Where the records come from: paths of files (see ``PairFiles`` for the formats), or sources by
            ``class_path``. Several are mixed by their weights.
        val_sources: Where validation records come from. None splits ``sources`` by a hash of the prompt, so that
            a prompt never sits on both sides; with sources of its own, prompts that occur there leave training.
        tokenizer: A Hugging Face directory or Hub id; None takes that of the model being trained.
        template: Chat template: a name (``dialogue``, ``plain``), a Jinja text, or None for the tokenizer's own.
        batch_size: Rows per training batch and process.
        val_batch_size: Rows per validation or prediction batch; None takes twice ``batch_size``.
        max_length: Most tokens of prompt and response together.
        over_length: What happens to longer records: ``drop`` leaves them out and counts them, ``cut_prompt`` cuts
            the beginning of the prompt.
        val_fraction: Share of the prompts that the split gives to validation.
        bucket: Batches among which rows are sorted by length; 1 shuffles plainly.
        seed: Of the order, and of the choice among weighted sources.
        workers: Processes that collate batches; 0 does it in this one.
        strength: Folder of a strength table (see ``lit-rlhf strength``), or ``data`` for scores that came with the
            pairs. Validation pairs that it knows are reported by their strength.
        treatments: What is done with the labels of the training pairs, in this order; needs ``strength``. Validation
            labels stay as they are.
    """

    def __init__(
        self,
        sources: str | Source | list[str | Source],
        val_sources: str | Source | list[str | Source] | None = None,
        tokenizer: str | None = None,
        template: str | None = None,
        batch_size: int = 32,
        val_batch_size: int | None = None,
        max_length: int = 512,
        over_length: Literal["drop", "cut_prompt"] = "drop",
        val_fraction: float = 0.05,
        bucket: int = 32,
        seed: int = 0,
        workers: int = 0,
        strength: str | None = None,
        treatments: list[Treatment] | None = None,
    ) -> None:
        super().__init__()
        self.sources, self.val_sources = _as_sources(sources), _as_sources(val_sources or [])
        if not self.sources:
            raise DataError("is empty", "option sources", "Name at least one file or source.")
        self.tokenizer, self.template = tokenizer, template
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or 2 * batch_size
        self.max_length, self.over_length = max_length, over_length
        self.val_fraction, self.bucket, self.seed, self.workers = val_fraction, bucket, seed, workers
        self.strength, self.treatments = strength, treatments or []
        if self.treatments and strength is None:
            hint = "Name a strength table, or `data` where the pairs bring scores."
            raise DataError("is missing, and treatments go by it", "option strength", hint)
        self.train_rows: list[Row] = []
        self.val_rows: list[Row] = []
        self.counts: dict[str, Counts] = {}
        self._ready: tuple[str, str] | None = None

    # ------------------------------------------------------------------ what the stages ask for

    @property
    def source_names(self) -> list[str]:
        """Names of all sources, in the order that ``PairBatch.source`` counts them in."""
        return list(dict.fromkeys(source.name for source in [*self.sources, *self.val_sources]))

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenise what the module at hand trains on; called by the Trainer."""
        trainer: Any = self.trainer
        if trainer is None:
            raise DataError("has no Trainer to take the view from", "PreferenceDataModule", "Call load(view) instead.")
        module = trainer.lightning_module
        self.load(module.view, self.tokenizer or module.tokenizer)
        if trainer.logger is not None:
            counts = {part: asdict(count) for part, count in self.counts.items()}
            trainer.logger.log_hyperparams({"data_counts": counts})

    def load(self, view: View, tokenizer: str | None = None) -> None:
        """Read and tokenise all sources for one view; `setup` does this under a Trainer, notebooks do it by hand."""
        path = tokenizer or self.tokenizer
        if path is None:
            raise DataError("is missing", "option tokenizer", "Give a Hugging Face directory or Hub id.")
        if self._ready == (view, path):
            return
        self.view: View = view
        self.renderer = Renderer.load(path, self.template)
        self.counts = {"train": Counts(), "validation": Counts()}
        records = self._records(self.sources)
        held_out = self._records(self.val_sources) or [record for record in records if self._in_validation(record)]
        self.val_rows = self._rows(held_out, "validation")
        self.train_rows = self._rows(self._training_records(records), "train")
        if view == "pairs" and self.strength is not None:
            self.val_rows = labelled(self.val_rows, strengths(self.strength, _pairs(self.val_rows), optional=True))
            self.train_rows = self._treated(self.train_rows, self.strength)
        self.counts["train"].bad = sum(source.bad_rows for source in self.sources)
        self.counts["validation"].bad = sum(source.bad_rows for source in self.val_sources)
        for part, counts in self.counts.items():
            rank_zero_info(f"data, {part} {view}: {counts}")
        if not self.train_rows and not self.val_rows:
            raise self._nothing_left("")
        self._ready = (view, path)

    def train_dataloader(self) -> StatefulDataLoader:
        """Shuffled, length-bucketed batches; resumes after the last batch that was used."""
        if not self.train_rows:
            raise self._nothing_left(" for training")
        return self._loader(self.train_rows, self.batch_size, shuffle=True)

    def val_dataloader(self) -> StatefulDataLoader | list[Any]:
        """Validation batches in their order; an empty list where nothing was set aside."""
        return self._loader(self.val_rows, self.val_batch_size, shuffle=False) if self.val_rows else []

    def test_dataloader(self) -> StatefulDataLoader | list[Any]:
        """The validation batches: name the sources to be tested as ``val_sources``."""
        return self.val_dataloader()

    def predict_dataloader(self) -> StatefulDataLoader:
        """The training part in its order, each row once: what offline baselines are sampled for."""
        return self.plain_dataloader(self.train_rows)

    def plain_dataloader(self, rows: list[Row]) -> StatefulDataLoader:
        """Any rows in their order, each once, in batches of ``val_batch_size``."""
        return self._loader(rows, self.val_batch_size, shuffle=False)

    # ------------------------------------------------------------------ exact resume

    @property
    def fingerprint(self) -> str:
        """Names the training rows and their order, so that a resumed run can tell whether the data changed."""
        digest = hashlib.sha256(f"{self.view} {self.batch_size} {self.bucket} {self.seed}".encode())
        for row in self.train_rows:
            digest.update(f"{row.prompt} {row.chosen} {row.rejected} {row.label.margin} {row.label.target};".encode())
        return digest.hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data."""
        return {"fingerprint": self.fingerprint, "rows": len(self.train_rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume training on other data than the run began with; other data may be measured on."""
        fitting = self.trainer is None or self.trainer.state.fn == "fit"
        if fitting and state_dict["fingerprint"] != self.fingerprint:
            raise DataError(
                f"the checkpoint was written with other data ({state_dict['rows']:,} training rows then, "
                f"{len(self.train_rows):,} now, or another order, batch size or seed)",
                "option data",
                "Resume with the same data options, or start a new run.",
            )

    # ------------------------------------------------------------------ inside

    def _nothing_left(self, purpose: str) -> DataError:
        hint = f"What was read: {self.counts['train']}. Look at max_length, at val_fraction and at the format."
        return DataError(f"no {self.view} are left{purpose}", "option sources", hint)

    def _treated(self, rows: list[Row], strength: str) -> list[Row]:
        """Training rows with the labels that the treatments give them."""
        treated = labelled(rows, strengths(strength, _pairs(rows)), self.treatments)
        counts = self.counts["train"]
        counts.kept, counts.treated_out = len(treated), len(rows) - len(treated)
        counts.flipped = sum(row.label.flipped for row in treated)
        return treated

    def _in_validation(self, record: Record) -> bool:
        """The deterministic split by prompt hash; off where validation has sources of its own."""
        return not self.val_sources and validation_share(record.split_hash) < self.val_fraction

    def _training_records(self, records: list[Record]) -> Iterable[Record]:
        held_out = {row.record.split_hash for row in self.val_rows}
        for record in records:
            if self._in_validation(record) or record.split_hash in held_out:
                self.counts["train"].in_validation += 1
            else:
                yield record

    def _records(self, sources: list[Source]) -> list[Record]:
        return [record for source in sources for record in weighted(source, self.seed)]

    def _rows(self, records: Iterable[Record], part: str) -> list[Row]:
        cut = self.over_length == "cut_prompt"
        return list(tokenise(records, self.renderer, self.view, self.counts[part], self.max_length, cut))

    def _loader(self, rows: list[Row], batch_size: int, shuffle: bool) -> StatefulDataLoader:
        trainer: Any = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        lengths = [row.length for row in rows]
        sampler = BucketBatchSampler(lengths, batch_size, shuffle, self.seed, self.bucket, rank, world)
        collate = partial(collate_rows, view=self.view, pad_id=self.renderer.pad_id, sources=self.source_names)
        return make_loader(rows, sampler, collate, self.workers)


def collate_rows(rows: list[Row], view: View, pad_id: int, sources: list[str]) -> Batch:
    """Make the typed batch of a view out of tokenised rows."""
    prompts = [row.prompt for row in rows]
    if view == "prompts":
        return PromptBatch(*pad_rows(prompts, pad_id), [row.record for row in rows])
    chosen = stack_sequences(prompts, [row.chosen for row in rows], pad_id)
    if view == "responses":
        return ResponseBatch(chosen)
    labels = [row.label for row in rows]
    return PairBatch(
        chosen=chosen,
        rejected=stack_sequences(prompts, [row.rejected for row in rows], pad_id),
        chosen_is_better=torch.tensor([_truth(row) for row in rows]),
        source=torch.tensor([sources.index(row.record.source) if row.record.source in sources else -1 for row in rows]),
        flipped=torch.tensor([label.flipped for label in labels]),
        margin=torch.tensor([label.margin for label in labels]),
        target=torch.tensor([label.target for label in labels]),
        strength=torch.tensor([label.strength for label in labels]),
        records=[row.record for row in rows],
    )


def _truth(row: Row) -> int:
    """1 where the row's chosen response is truly better, 0 where it is not, -1 where nobody knows."""
    known = row.record.chosen_is_better
    return -1 if known is None else int(known != row.label.flipped)


def _pairs(rows: list[Row]) -> list[Record]:
    return [row.record for row in rows]


def _as_sources(sources: str | Source | list[str | Source]) -> list[Source]:
    if isinstance(sources, str) and sources.startswith("["):
        sources = yaml.safe_load(sources)  # a list on the command line comes as its text
    listed = sources if isinstance(sources, list) else [sources]
    return [PairFiles(source) if isinstance(source, str) else source for source in listed]
