"""Scoring texts with a reward model, here and with a padded loop over transformers' sequence classifier."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.bench import Bench, Words
from benchmarks.common import Comparison, Meter, Work
from benchmarks.peers import scalar
from lit_rlhf.rewards import RewardModel

BATCH = 32


@dataclass
class Scoring:
    """Prompts with one answer each, as texts; a third of each is prompt.

    Attributes:
        bench: Model and texts.
    """

    bench: Bench

    @cached_property
    def texts(self) -> tuple[list[str], list[str]]:
        """Prompts and answers."""
        lengths = self.bench.lengths(self.bench.sizes.sequences, 3)
        answers = [(n - n // 3, 2) for n in lengths]
        records = list(Words("scoring", [n // 3 for n in lengths], answers, self.bench.sizes.vocabulary).records())
        return [record.prompt[-1].content for record in records], [str(record.chosen) for record in records]

    def ours(self, meter: Meter) -> Work:
        """`RewardModel.score`."""
        model = RewardModel.load(self.bench.model("scalar"), batch_size=BATCH)
        prompts, answers = self.texts
        meter.start()
        scores = model.score(prompts, answers)
        meter.stop()
        return Work(len(scores), scores)

    @torch.no_grad()
    def theirs(self, meter: Meter) -> Work:
        """The texts in their order, as many at once, padded to the longest."""
        path = self.bench.model("scalar")
        model, tokenizer = scalar(path).eval(), AutoTokenizer.from_pretrained(path)
        texts = [f"{prompt} {answer} {tokenizer.eos_token}" for prompt, answer in zip(*self.texts, strict=True)]
        scores: list[float] = []
        meter.start()
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(texts[start : start + BATCH], padding=True, return_tensors="pt")
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            scores += logits.squeeze(-1).tolist()
        meter.stop()
        return Work(len(scores), scores)


def parity(ours: Work, theirs: Work) -> tuple[float, dict[str, Any]]:
    """Largest difference between the scores of a text."""
    return max(abs(a - b) for a, b in zip(ours.curve, theirs.curve, strict=True)), {}


def comparisons(bench: Bench) -> list[Comparison]:
    """The row ``scoring``."""
    task, peer = Scoring(bench), "AutoModelForSequenceClassification, padded"
    what = "scoring with a reward model, sequences/s"
    return [Comparison("scoring", what, peer, 2.5, task.ours, task.theirs, parity, "scoring")]
