"""The bench: sizes, random models that both sides load from one directory, and texts of given lengths."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.models import KINDS, SPECIAL, random_model, trained_tokenizer, word_tokenizer
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.records import Message, Record, Source
from lit_rlhf.networks.backbone import replace_directory


@dataclass(frozen=True)
class Sizes:
    """How large models and work are.

    Attributes:
        hidden: Width of the models.
        layers: Blocks of the models.
        vocabulary: Tokens of the vocabulary.
        pairs: Pairs of made-up reward-model training.
        wide_pairs: The same for the model of twice the width.
        hh_pairs: Pairs of training on HH-RLHF.
        prompts: Prompts that are answered k times; twice as many are answered once.
        sequences: Sequences that are scored.
        rollout: Prompts of a PPO iteration.
        new_tokens: Most tokens of an answer.
        longest: Most tokens of a made-up sequence.
    """

    hidden: int = 256
    layers: int = 6
    vocabulary: int = 4096
    pairs: int = 96
    wide_pairs: int = 48
    hh_pairs: int = 64
    prompts: int = 64
    sequences: int = 256
    rollout: int = 32
    new_tokens: int = 64
    longest: int = 256


QUICK = Sizes(
    32, 2, 512, pairs=32, wide_pairs=16, hh_pairs=16, prompts=8, sequences=32, rollout=8, new_tokens=16, longest=64
)


class Words(Source):
    """Made-up records of given lengths.

    Args:
        name: Also seeds the words.
        prompts: Tokens of each prompt.
        responses: Tokens of each chosen and rejected response, end-of-sequence included; None gives bare prompts.
        vocabulary: Words are drawn from its first third.
    """

    def __init__(self, name: str, prompts: list[int], responses: list[tuple[int, int]] | None, vocabulary: int) -> None:
        self.name, self.prompts, self.responses, self.vocabulary = name, prompts, responses, vocabulary

    def records(self) -> Iterator[Record]:
        """Yield the records."""
        draw, last = random.Random(self.name), len(SPECIAL) + (self.vocabulary - len(SPECIAL)) // KINDS - 1

        def text(tokens: int) -> str:
            return " ".join(f"w{draw.randint(len(SPECIAL), last)}" for _ in range(tokens))

        for number, prompt in enumerate(self.prompts):
            messages = (Message("user", text(prompt)),)
            answers = [text(n - 1) for n in self.responses[number]] if self.responses is not None else [None, None]
            yield Record(messages, *answers, source=self.name, location=f"{self.name}:{number}")


class Bench:
    """Models and data of all rows.

    Args:
        folder: Where the models are written, once.
        quick: Toy sizes, to try the harness.
        hh: An HH-RLHF file of preference pairs, or a folder with such files; None or absent leaves rows out.
    """

    def __init__(self, folder: Path, quick: bool = False, hh: Path | None = None) -> None:
        self.folder, self.quick, self.hh = folder, quick, hh
        self.sizes = QUICK if quick else Sizes()

    # ------------------------------------------------------------------ data

    @cached_property
    def hh_files(self) -> list[str]:
        """Files of real pairs, or none."""
        if self.hh is None or not self.hh.exists():
            return []
        return sorted(map(str, self.hh.glob("hh_*_base.train.jsonl"))) if self.hh.is_dir() else [str(self.hh)]

    def lengths(self, n: int, seed: int) -> list[int]:
        """Lognormal around 64 tokens, between 16 and 256."""
        draw, longest = random.Random(seed), self.sizes.longest
        return [min(max(round(draw.lognormvariate(math.log(longest / 4), 0.7)), 16), longest) for _ in range(n)]

    def short_pairs(self, n: int | None = None, batch_size: int = 8) -> PreferenceDataModule:
        """Pairs that share a prompt of one token; the lengths of the two are independent."""
        n = n or self.sizes.pairs
        both = zip(self.lengths(n, 1), self.lengths(n, 2), strict=True)
        source = Words("short", [1] * n, [(a - 1, b - 1) for a, b in both], self.sizes.vocabulary)
        return self._data(source, "pairs", batch_size)

    def hh_pairs(self, batch_size: int = 8) -> PreferenceDataModule:
        """Real pairs, equally many from each file, at most 512 tokens long."""
        each = self.sizes.hh_pairs // len(self.hh_files)
        sources: list[str | Source] = [PairFiles(path, limit=2 * each, name=Path(path).stem) for path in self.hh_files]
        data = self._data(sources, "pairs", batch_size, self.model("scalar_hh"))
        rows = data.train_rows
        data.train_rows = [row for s in data.source_names for row in [r for r in rows if r.record.source == s][:each]]
        data.train_rows = data.train_rows[: len(data.train_rows) // batch_size * batch_size]
        return data

    def prompts(self, n: int, batch_size: int, name: str = "prompts") -> PreferenceDataModule:
        """Prompts of 16 to 64 tokens, evenly spread."""
        draw, longest = random.Random(name), self.sizes.longest // 4
        lengths = [draw.randint(min(16, longest // 2), longest) for _ in range(n)]
        return self._data(Words(name, lengths, None, self.sizes.vocabulary), "prompts", batch_size)

    def _data(self, source: Any, view: Any, batch_size: int, tokenizer: str | None = None) -> PreferenceDataModule:
        data = PreferenceDataModule(
            source,
            tokenizer=tokenizer or self.model("scalar"),
            val_fraction=0.0,
            batch_size=batch_size,
            val_batch_size=batch_size,
        )
        data.load(view)
        return data

    # ------------------------------------------------------------------ models

    def model(self, kind: str, hidden: int | None = None) -> str:
        """Directory of a random model, written when it is first asked for.

        Args:
            kind: ``scalar`` or ``scalar_hh`` (reward models; the latter's tokenizer is made from real pairs),
                ``policy`` (never ends its answers) or ``policy_stops``.
            hidden: Another width.
        """
        hidden = hidden or self.sizes.hidden
        target = self.folder / "models" / f"{kind}_{hidden}"
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            real, size = kind == "scalar_hh", self.sizes.vocabulary
            tokenizer = trained_tokenizer(self._real_texts(), size) if real else word_tokenizer(size)
            tokenizer.save_pretrained(partial)
            random_model(kind, hidden, self.sizes.layers, size).save_pretrained(partial)
            replace_directory(partial, target)
        return str(target)

    def _real_texts(self) -> Iterator[str]:
        """Last turns and answers of all real pairs."""
        for record in (record for path in self.hh_files for record in PairFiles(path).records()):
            yield from filter(None, (record.prompt[-1].content, record.chosen, record.rejected))
