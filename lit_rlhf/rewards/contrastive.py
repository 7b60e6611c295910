"""Contrastive rewards: a reward minus what the SFT policy earns on the same prompt."""

import hashlib
import json
from typing import Self

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Key, Store
from lit_rlhf.functional import contrastive_reward
from lit_rlhf.functional.rewards import Reduction
from lit_rlhf.rewards.reward import Reward, on_last_token


class ContrastiveReward(Reward):
    """r_RL(x, y) = r(x, y) − g({r(x, y_j)}), y_j being offline baseline responses to the same prompt.

    *Improving RLHF Using Contrastive Rewards* (arXiv 2403.07708). The baseline is taken off on the last token.
    A prompt without baselines is an error, never a zero.

    Args:
        inner: The reward r; the very same one must have scored the baselines.
        store: Folder of the baseline store that the ``predict`` stage wrote.
        reduce: The aggregate g: ``mean`` (the paper's), ``median``, ``max`` or ``quantile``.
        k: Use only the first k baselines of each prompt; None uses all.
        quantile: Which quantile, from 0 to 1; used by that aggregate only.

    Raises:
        DataError: If ``k`` is below 1.
    """

    def __init__(
        self,
        inner: Reward,
        store: str,
        reduce: Reduction = "mean",
        k: int | None = None,
        quantile: float = 0.5,
    ) -> None:
        super().__init__()
        if k is not None and k < 1:
            raise DataError(f"is {k}", "ContrastiveReward, k", "Give 1 or more, or leave it out to use all baselines.")
        self.inner, self.store, self.k, self.quantile = inner, Store(store), k, quantile
        self.reduce: Reduction = reduce

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Load the inner reward and the baselines, and check that they belong together."""
        self.inner.load(renderer, policy_fingerprint)
        self.scale = self.inner.scale
        rows = self.store.rows()
        key: Key = {"policy": policy_fingerprint, "reward": self.inner.fingerprint, "template": renderer.fingerprint}
        self.store.check(key)
        k = self.k or int(self.store.key["k"])
        if any(len(row["scores"]) < k for row in rows):
            raise DataError(f"holds fewer than k = {k} baselines for a prompt", str(self.store.directory))
        self._baselines = {row["prompt_hash"]: row["scores"][:k] for row in rows}
        how = f"quantile {self.quantile:g}" if self.reduce == "quantile" else self.reduce
        origin = hashlib.sha256(json.dumps(self.store.key, sort_keys=True).encode()).hexdigest()[:16]
        self.fingerprint = f"contrastive {how} of {k} from store {origin} over {self.inner.fingerprint}"
        return self

    @property
    def proxy(self) -> Reward:
        """The inner reward's proxy: unseen prompts have no baselines."""
        return self.inner.proxy

    def critic_scale(self, path: str) -> float:
        """The inner reward's."""
        return self.inner.critic_scale(path)

    def baselines(self, completions: Completions) -> Tensor:
        """Baseline rewards of each row's prompt ``(N, k)``.

        Raises:
            DataError: If a prompt has none.
        """
        rows = [self._baselines.get(record.prompt_hash) for record in completions.records]
        for record, row in zip(completions.records, rows, strict=True):
            if row is None:
                hint = "Run the baseline stage on the same data, with the same options, as this one."
                where = record.location or str(self.store.directory)
                raise DataError(f"no baselines for the prompt {record.prompt[-1].content[:80]!r}", where, hint)
        return torch.tensor(rows, device=completions.sequences.ids.device)

    def baseline_mean(self, completions: Completions) -> Tensor:
        """Mean baseline reward of each row's prompt ``(N,)``."""
        return self.baselines(completions).mean(1)

    def diagnostics(self, completions: Completions) -> dict[str, Tensor]:
        """The inner reward's."""
        return self.inner.diagnostics(completions)

    def forward(self, completions: Completions) -> Tensor:
        """The inner rewards with the baseline taken off on the last token ``(N, T)``."""
        rewards = self.inner(completions)
        total = rewards.sum(1)
        centred = contrastive_reward(total, self.baselines(completions), self.reduce, self.quantile)
        return rewards + on_last_token(centred - total, completions)
