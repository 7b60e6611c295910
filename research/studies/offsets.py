"""A reward that is off by an amount which depends on the prompt alone: what contrastive rewards cancel."""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.records import Record
from lit_rlhf.rewards.reward import Reward, on_last_token
from lit_rlhf.rewards.wrappers import RewardWrapper

Kind = Literal["words", "prompt", "family", "constant"]


class PromptOffset(RewardWrapper):
    """Adds b(x), with mean 0 and a given standard deviation over the prompts; the best answer stays the best.

    Args:
        inner: The reward.
        kind: What b is a function of: the prompt's ``words``, each of which adds its share; the whole ``prompt``, as
            good as random; its ``family``; or nothing (``constant``: b is the size itself).
        size: Standard deviation over the prompts, or the constant.
        records: The prompts.
        seed: Which function it is.
    """

    def __init__(self, inner: Reward, kind: Kind, size: float, records: Sequence[Record] = (), seed: int = 0) -> None:
        super().__init__(inner)
        self.kind: Kind = kind
        self.size, self.seed = size, seed
        raw = np.array([self._raw(record) for record in records]) if records else np.array([-1.0, 1.0])
        self.mean, self.std = float(raw.mean()), float(raw.std())

    def describe(self) -> str:
        """Kind, size, seed, and what it is measured by."""
        return f"offset by {self.kind} of {self.size:.6g}, seed {self.seed}, from {self.mean:.6g} by {self.std:.6g}"

    @property
    def proxy(self) -> Reward:
        """With the offset: it is a fault of the reward model, not an addition to it."""
        return self

    def change(self, rewards: Tensor, completions: Completions) -> Tensor:
        """Add b(x) on the last token."""
        offsets = torch.tensor([self.offset(record) for record in completions.records], device=rewards.device)
        return rewards + on_last_token(offsets, completions)

    def offset(self, record: Record) -> float:
        """b of a prompt."""
        return self.size if self.kind == "constant" else self.size * (self._raw(record) - self.mean) / self.std

    def _raw(self, record: Record) -> float:
        text = record.prompt[-1].content
        if self.kind == "words":
            return sum(map(self._normal, sorted(set(re.findall(r"\w+", text.lower())))))
        return self._normal(text if self.kind == "prompt" else str(record.meta.get("family")))

    def _normal(self, text: str) -> float:
        """A standard normal number that is a function of the text."""
        digest = hashlib.sha256(f"{self.seed} {self.kind} {text}".encode()).digest()
        return float(np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal())
