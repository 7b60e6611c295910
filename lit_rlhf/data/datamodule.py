"""The one LightningDataModule that serves every stage."""

import hashlib
import random
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from typing import Any, Literal

import yaml
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torchdata.stateful_dataloader import StatefulDataLoader

from lit_rlhf.data.batches import Batch
from lit_rlhf.data.collate import collate_rows
from lit_rlhf.data.dealing import WholeBatches
from lit_rlhf.data.errors import DataError, check_counts
from lit_rlhf.data.file_report import FileReport, lines
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.loader import BucketBatchSampler, make_loader
from lit_rlhf.data.options import Configurable, restored
from lit_rlhf.data.pieces import Pool
from lit_rlhf.data.preparation import Counts, Preparation, Row, View, labelled, tokenise, validation_share, weighted
from lit_rlhf.data.records import Record, Source
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.streaming import Stream, Streaming
from lit_rlhf.data.strength import OWN_SCORES, strengths
from lit_rlhf.data.treatments import Treatment

_SHOWN = 400  # characters of the first row on the screen


class PreferenceDataModule(Configurable, LightningDataModule):
    """Preference pairs, demonstrations or prompts from any number of sources, as typed batches.

    What it gives is its ``view``: reward models get pairs, supervised fine-tuning the chosen responses, baselines and
    policy optimisation the distinct prompts. On the command line, view and tokenizer are those of the module.

    Args:
        sources: Where the records come from: paths of files (see ``PairFiles`` for the formats), or sources by
            ``class_path``. Several are mixed by their weights.
        val_sources: Where validation records come from. None splits ``sources`` by a hash of the prompt, so that
            a prompt never sits on both sides; with sources of its own, prompts that occur there leave training.
        tokenizer: A Hugging Face directory or Hub id, usually of the model being trained.
        template: Chat template: a name (``dialogue``, ``plain``), a Jinja text, or None for the tokenizer's own.
        batch_size: Rows per training batch and process: W processes with B rows each train as one with W · B rows.
        val_batch_size: Rows per validation or prediction batch and process; None takes twice ``batch_size``.
        max_length: Most tokens of prompt and response together.
        over_length: What happens to longer records: ``drop`` leaves them out and counts them, ``cut_prompt`` leaves
            out the prompt's earliest turns, and then the beginning of the last one, never the system turn.
        val_fraction: Share of the prompts that the split gives to validation.
        bucket: Batches among which rows are sorted by length; 1 shuffles plainly.
        seed: Of the order, and of the choice among weighted sources.
        workers: Processes that collate batches; 0 does it in this one. One at most reads a stream.
        strength: Folder of a strength table (see ``lit-rlhf strength``), or ``data`` for scores that came with the
            pairs. Validation pairs that it knows are reported by their strength.
        treatments: What is done with the labels of the training pairs, in this order; needs ``strength``. Validation
            labels stay as they are.
        streaming: Read the training rows from their files while they are needed, instead of holding all of them: for
            pairs and responses from files of lines or Parquet, with labels that need no other pair. Validation is
            held as ever. None reads everything at the start.
        thinking: Prompt policies as the chat template's generation prompt does, so that a reasoning model thinks
            before it answers. Otherwise it answers at once: a template with think blocks gets an empty one.
        view: ``pairs``, ``responses`` or ``prompts``: the ``view`` of the module that is trained on them.
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
        streaming: Streaming | None = None,
        thinking: bool = False,
        view: View | None = None,
    ) -> None:
        super().__init__()
        self.sources, self.val_sources = _as_sources(restored(sources)), _as_sources(restored(val_sources or []))
        if not self.sources:
            raise DataError("is empty", "option data.sources", "Name at least one file or source.")
        check_counts(batch_size=batch_size, val_batch_size=val_batch_size, max_length=max_length, bucket=bucket)
        if not 0 <= val_fraction <= 1:
            raise DataError(f"expected a share from 0 to 1, found {val_fraction}", "option data.val_fraction")
        self.tokenizer, self.template, self.thinking = tokenizer, template, thinking
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or 2 * batch_size
        self.max_length, self.over_length = max_length, over_length
        self.val_fraction, self.bucket, self.seed, self.workers = val_fraction, bucket, seed, workers
        self.strength, self.treatments = strength, restored(treatments or [])
        if self.treatments and strength is None:
            hint = "Name a strength table, or `data` where the pairs bring scores."
            raise DataError("is missing, and treatments go by it", "option strength", hint)
        self.streaming = restored(streaming, Streaming)
        self.view: View | None = view
        self._renderer: Renderer | None = None
        self._pool: Pool | None = None
        self._train_rows: list[Row] = []
        self.val_rows: list[Row] = []
        self.counts: dict[str, Counts] = {}
        self._first = ""
        self._ready: tuple[str, str] | None = None

    # ------------------------------------------------------------------ what the stages ask for

    @property
    def source_names(self) -> list[str]:
        """Names of all sources."""
        return list(dict.fromkeys(source.name for source in [*self.sources, *self.val_sources]))

    @property
    def train_rows(self) -> list[Row]:
        """The training rows, where they are held.

        Raises:
            DataError: Where they are streamed: whoever asks needs all of them.
        """
        if self.streaming is not None:
            hint = "Leave it out here, and use fewer rows if they do not fit into memory."
            raise DataError("does not serve what needs all training rows at once", "option data.streaming", hint)
        return self._train_rows

    @train_rows.setter
    def train_rows(self, rows: list[Row]) -> None:
        self._train_rows = rows

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenise all sources; the Trainer calls this, and so may you.

        Raises:
            DataError: If view or tokenizer is not known, or a source cannot be read.
        """
        if self.view is None:
            hint = "Give PreferenceDataModule(…, view=MODULE.view): pairs, responses or prompts."
            raise DataError("is missing", "option view", hint)
        self.load(self.view)
        trainer: Any = self.trainer
        if trainer is not None and trainer.logger is not None:
            counts = {part: asdict(count) for part, count in self.counts.items()}
            trainer.logger.log_hyperparams({"data_counts": counts})

    @property
    def renderer(self) -> Renderer:
        """How text becomes tokens, and back.

        Raises:
            DataError: If no tokenizer is known.
        """
        if self._renderer is None:
            if self.tokenizer is None:
                hint = "Give a Hugging Face directory or Hub id, such as that of the model: tokenizer=MODULE.tokenizer."
                raise DataError("is missing", "option tokenizer", hint)
            self._renderer = Renderer.load(self.tokenizer, self.template, self.thinking)
        return self._renderer

    def load(self, view: View, tokenizer: str | None = None) -> None:
        """Read and tokenise all sources for one view.

        Args:
            view: What to read them for.
            tokenizer: Directory or Hub id; None takes the one that the data were made with.
        """
        if tokenizer is not None and tokenizer != self.tokenizer:
            self.tokenizer, self._renderer = tokenizer, None
        path = str(self.renderer.described()["path"])
        if self._ready == (view, path):
            return
        self.view = view
        self.counts = {"train": Counts(), "validation": Counts()}
        self._pool = self._opened(view)
        records = [] if self._pool else self._records(self.sources)
        self.val_rows = self._rows(self._held_out(records), "validation")
        if view == "pairs" and self.strength is not None:
            self.val_rows = labelled(self.val_rows, strengths(self.strength, _pairs(self.val_rows), optional=True))
        held_out = {row.record.split_hash for row in self.val_rows}
        cut, split = self.over_length == "cut_prompt", 0.0 if self.val_sources else self.val_fraction
        self._preparation = Preparation(
            self.renderer, view, self.max_length, cut, split, held_out, self.strength, self.treatments
        )
        self.counts["validation"].bad = sum(source.bad_rows for source in self.val_sources)
        if self._pool:
            del self.counts["train"]  # told when the rows are read
            files = len(self._pool.files)
            rank_zero_info(f"data, train {view}: {self._pool.rows:,} rows, streamed from {files:,} files")
        else:
            self.train_rows = self._preparation(records, self.counts["train"])
            self.counts["train"].bad = sum(source.bad_rows for source in self.sources)
        for line in lines(self._reports()):
            rank_zero_info(line)
        for part, counts in self.counts.items():
            rank_zero_info(f"data, {part} {view}: {counts}")
        if not self._pool and not self.train_rows and not self.val_rows:
            raise self._nothing_left("")
        probed = [*self._train_rows[:1000], *self.val_rows[:1000]]
        if said := self.renderer.warning(ids for row in probed for ids in (row.prompt, row.chosen, row.rejected)):
            rank_zero_info(said)
        if probed:
            rank_zero_info(f"data, the first row as the model reads it: {_shortened(self._seen(probed[0]))}")
        self._first = self._seen(probed[0]) if probed else ""
        self._ready = (view, path)

    def report(self) -> dict[str, Any]:
        """What was read: each file's format, columns, warnings and first records, counts, and the first row's text."""
        counts = {part: asdict(count) for part, count in self.counts.items()}
        return {"sources": [each.asdict() for each in self._reports()], "counts": counts, "first_row": self._first}

    def train_dataloader(self) -> StatefulDataLoader[Any]:
        """Shuffled, length-bucketed batches; resumes after the last batch that was used."""
        if self._pool:
            stream = self._stream(self._pool)
            # A second worker would read the same windows; batches that are ready bridge the reading of a window.
            return make_loader(stream, stream.sampler, self._collate, min(self.workers, 1), ahead=32)
        if not self.train_rows:
            raise self._nothing_left(" for training")
        return self._loader(self.train_rows, self.batch_size, shuffle=True)

    def val_dataloader(self) -> StatefulDataLoader[Any] | list[Any]:
        """Validation batches in their order; an empty list where nothing was set aside."""
        return self._loader(self.val_rows, self.val_batch_size, shuffle=False) if self.val_rows else []

    def test_dataloader(self) -> StatefulDataLoader[Any] | list[Any]:
        """The validation batches: name the sources to be tested as ``val_sources``."""
        return self.val_dataloader()

    def predict_dataloader(self) -> StatefulDataLoader[Any]:
        """The training part in its order, each row once: what offline baselines are sampled for."""
        return self.plain_dataloader(self.train_rows)

    def plain_dataloader(self, rows: list[Row]) -> StatefulDataLoader[Any]:
        """Any rows in their order, each once, in batches of ``val_batch_size`` that processes take in turn."""
        sampler = WholeBatches([row.length for row in rows], self.val_batch_size, *self._place())
        return make_loader(rows, sampler, self._collate, self.workers)

    # ------------------------------------------------------------------ exact resume

    @property
    def fingerprint(self) -> str:
        """Names the training rows and their order, so that a resumed run can tell whether the data changed."""
        return self.named_for(self._place()[1])

    def named_for(self, processes: int) -> str:
        """The fingerprint that the rows have where so many processes train on them."""
        digest = hashlib.sha256(f"{self.view} {processes * self.batch_size} {self.bucket} {self.seed}".encode())
        if self._pool:
            digest.update(f" {processes} processes".encode() if processes > 1 else b"")  # each reads a stretch
            digest.update(f"{self.streaming} {self._pool.fingerprint} {self._preparation.fingerprint}".encode())
            return digest.hexdigest()[:16]
        for row in self.train_rows:
            digest.update(f"{row.prompt} {row.chosen} {row.rejected} {row.label.margin} {row.label.target};".encode())
        return digest.hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data."""
        _, processes = self._place()
        rows = self._pool.rows if self._pool else len(self.train_rows)
        state = {"fingerprint": self.fingerprint, "rows": rows, "batch": processes * self.batch_size}
        return {**state, "processes": processes, "files": self._pool.files} if self._pool else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume training on other data than the run began with; other data may be measured on.

        Another number of processes may go on if the rows of a step are as many, and if nothing is streamed.
        """
        fitting = self.trainer is None or self.trainer.state.fn == "fit"
        if not fitting or state_dict["fingerprint"] == self.fingerprint:
            return
        before, now, hint = state_dict, self.state_dict(), "Resume with the same data options, or start a new run."
        message = f"{before['rows']:,} training rows then, {now['rows']:,} now, or another order, batch size or seed"
        if before.get("batch", now["batch"]) != now["batch"]:
            message = f"{before['batch']:,} rows in a step of all processes then, {now['batch']:,} now"
            hint = (
                "Give data.batch_size so that it is as many again, times the number of processes, or start a new run."
            )
        elif before.get("processes", 1) != now.get("processes", 1):
            message = f"streamed by {before.get('processes', 1)} processes then, by {now.get('processes', 1)} now"
            hint = "Each process reads a part of its own: resume with as many of them, or start a new run."
        elif self._pool and (changed := sorted(set(self._pool.files) ^ set(before.get("files", [])))):
            names = list(dict.fromkeys(file.split()[0] for file in changed))
            message += f"; files that differ: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        raise DataError(f"the checkpoint was written with other data ({message})", "option data", hint)

    # ------------------------------------------------------------------ inside

    def _reports(self) -> list[FileReport]:
        """What the files of all sources were read as; of those that are streamed, their first row."""
        sources = [*self.sources, *self.val_sources]
        if self._pool:
            sources = [*map(copy, self.sources), *self.val_sources]
            for source in sources[: len(self.sources)]:
                next(iter(source.records()), None)
        return [report for source in sources for report in getattr(source, "reports", {}).values()]

    def _seen(self, row: Row) -> str:
        """A row's text as the model reads it: the prompt, and the response that the view has first."""
        return self.renderer.tokenizer.decode([*row.prompt, *row.chosen])

    def _nothing_left(self, purpose: str) -> DataError:
        assert self.view is not None
        counts = self.counts["train"]
        hint = f"What was read: {counts}. {counts.advice(self.view)}"
        return DataError(f"no {self.view} are left{purpose}", "option data.sources", hint)

    def _opened(self, view: View) -> Pool | None:
        """Where streamed rows lie; None where everything is held."""
        if self.streaming is None:
            return None
        where = "option data.streaming"
        if view == "prompts":
            hint = "Leave it out for stages that need prompts alone: they are small."
            raise DataError("gives no prompts: which of them come twice would take all to tell", where, hint)
        if view == "pairs" and self.strength not in (None, OWN_SCORES):
            raise DataError(
                "has no use for a strength table, which is held whole", where, "Write scores into the data."
            )
        whole = [type(each).__name__ for each in self.treatments if not each.by_itself]
        if whole:
            hint = "Treat by the strength of a pair itself, such as Flip with `below`, or leave out data.streaming."
            raise DataError(f"cannot tell a pair's place among all others, which {whole[0]} goes by", where, hint)
        return self.streaming.open(self.sources, self.seed)

    def _held_out(self, records: list[Record]) -> Iterable[Record]:
        """Records of validation: all of its own sources, or the deterministic split by prompt hash."""
        if self.val_sources:
            return self._records(self.val_sources)
        mine: Iterable[Record] = records
        if self._pool and self.streaming and self.val_fraction:
            pieces = random.Random("validation").sample(self._pool.pieces, len(self._pool.pieces))
            mine = chain.from_iterable(map(self._pool.records, pieces))
        most = self.streaming.val_rows if self.streaming else None
        return islice((record for record in mine if validation_share(record.split_hash) < self.val_fraction), most)

    def _stream(self, pool: Pool) -> Stream:
        assert self.streaming is not None
        window, set_aside = self.streaming.window, self._preparation.val_fraction
        place = self._place()
        return Stream(pool, self._preparation, self.batch_size, self.bucket, window, self.seed, set_aside, *place)

    def _records(self, sources: list[Source]) -> list[Record]:
        return [record for source in sources for record in weighted(source, self.seed)]

    def _rows(self, records: Iterable[Record], part: str) -> list[Row]:
        assert self.view is not None
        cut = self.over_length == "cut_prompt"
        return list(tokenise(records, self.renderer, self.view, self.counts[part], self.max_length, cut))

    def _loader(self, rows: list[Row], batch_size: int, shuffle: bool) -> StatefulDataLoader[Any]:
        lengths = [row.length for row in rows]
        sampler = BucketBatchSampler(lengths, batch_size, shuffle, self.seed, self.bucket, *self._place())
        return make_loader(rows, sampler, self._collate, self.workers)

    def _place(self) -> tuple[int, int]:
        """This process's number, and the number of processes."""
        trainer: Any = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    @property
    def _collate(self) -> Callable[[list[Row]], Batch]:
        assert self.view is not None
        return partial(collate_rows, view=self.view, pad_id=self.renderer.pad_id)


def _shortened(text: str) -> str:
    """A text on one line, without the middle of a long one."""
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN // 2]} … {shown[-_SHOWN // 2 :]}"


def _pairs(rows: list[Row]) -> list[Record]:
    return [row.record for row in rows]


def _as_sources(sources: str | Source | list[str | Source]) -> list[Source]:
    if isinstance(sources, str) and sources.startswith("["):
        sources = yaml.safe_load(sources)  # a list on the command line comes as its text
    listed = sources if isinstance(sources, list) else [sources]
    return [PairFiles(source) if isinstance(source, str) else source for source in listed]
