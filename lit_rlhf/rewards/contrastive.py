"""Contrastive rewards: a reward minus what the SFT policy earns on the same prompt."""

import hashlib
import json

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Key, Store
from lit_rlhf.functional import contrastive_reward
from lit_rlhf.functional.rewards import Reduction
from lit_rlhf.networks.together import failing_together, from_all
from lit_rlhf.rewards.reward import Reward, on_last_token
from lit_rlhf.rewards.running import RunningMeans
from lit_rlhf.rewards.wrappers import RewardWrapper


class ContrastiveReward(RewardWrapper):
    """r_RL(x, y) = r(x, y) − g({r(x, y_j)}), y_j being offline baseline responses to the same prompt.

    *Improving RLHF Using Contrastive Rewards* (arXiv 2403.07708). The baseline is taken off on the last token.
    A prompt without baselines is an error, never a zero.

    Centred rewards are smaller. Dynamic scaling then multiplies them, every token alike, by λ = EMA|r| / EMA|r_RL| of
    whole responses, the present batch included, so that they weigh as much as r did against the KL penalty. Logs λ as
    ``dynamic_scale``.

    Args:
        inner: The reward r; the very same one must have scored the baselines, so it may not change as it goes.
        store: Folder of the baseline store that the ``predict`` stage wrote.
        reduce: The aggregate g: ``mean`` (the paper's), ``median``, ``max`` or ``quantile``.
        k: Use only the first k baselines of each prompt; None uses all.
        quantile: Which quantile, from 0 to 1; used by that aggregate only.
        dynamic_scaling: Decay of both averages per batch, from 0 to 1, such as 0.99; None turns the scaling off.

    Raises:
        DataError: If ``k`` is below 1, quantile or decay is not from 0 to 1, or the inner reward follows a running
            scale.
    """

    def __init__(
        self,
        inner: Reward,
        store: str,
        reduce: Reduction = "mean",
        k: int | None = None,
        quantile: float = 0.5,
        dynamic_scaling: float | None = None,
    ) -> None:
        super().__init__(inner)
        if k is not None and k < 1:
            raise DataError(f"is {k}", "ContrastiveReward, k", "Give 1 or more, or leave it out to use all baselines.")
        if not 0 <= quantile <= 1:
            raise DataError(f"is {quantile}", "ContrastiveReward, quantile", "Give a number from 0 to 1.")
        if any(isinstance(part, RunningMeans) for part in inner.modules()):
            hint = "Centre first, then scale: put the ContrastiveReward inside."
            raise DataError(
                "has a running scale, so baselines scored before have another unit", "ContrastiveReward, inner", hint
            )
        self.store, self.k, self.quantile = Store(store), k, quantile
        self.reduce: Reduction = reduce
        self.sizes = None
        if dynamic_scaling is not None:
            self.sizes = RunningMeans(2, dynamic_scaling, "ContrastiveReward, dynamic_scaling")

    def open(self, renderer: Renderer, policy_fingerprint: str) -> None:
        """Read the baselines, and check that they belong to the inner reward."""
        rows = self.store.rows()
        key: Key = {"policy": policy_fingerprint, "reward": self.inner.fingerprint, "template": renderer.fingerprint}
        self.store.check(key)
        k = self.k or int(self.store.key["k"])
        if any(len(row["scores"]) < k for row in rows):
            raise DataError(f"holds fewer than k = {k} baselines for a prompt", str(self.store.directory))
        self._baselines = {row["prompt_hash"]: row["scores"][:k] for row in rows}
        if self.sizes is not None:
            self.sizes.reset()

    def describe(self) -> str:
        """Aggregate, number and origin of the baselines, and the scaling."""
        how = f"quantile {self.quantile:g}" if self.reduce == "quantile" else self.reduce
        origin = hashlib.sha256(json.dumps(self.store.key, sort_keys=True).encode()).hexdigest()[:16]
        scaled = "" if self.sizes is None else f" scaled back with decay {self.sizes.decay:.6g}"
        return f"contrastive {how} of {self.k or self.store.key['k']} from store {origin}{scaled}"

    @property
    def factor(self) -> float:
        """λ; 1 without dynamic scaling, and while all rewards equal their baselines."""
        if self.sizes is None:
            return 1.0
        size, centred = self.sizes.means
        return size / centred if centred > 0 else 1.0

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

    def baseline_mean(self, completions: Completions) -> Tensor | None:
        """Mean baseline reward of each row's prompt ``(N,)``; None if the proxy has another unit than the baselines.

        So it is where a wrapper inside this one changes what the reward model says.
        """
        return self.baselines(completions).mean(1) if self.inner.proxy is self.inner else None

    def figures(self, completions: Completions) -> dict[str, Tensor]:
        """``centred_variance`` over the responses, before any scaling, and ``dynamic_scale``, where there is one."""
        centred = from_all(self._centred(self.inner(completions).sum(1), completions)[: completions.counted])
        found = {"centred_variance": centred.var(unbiased=False)}
        if self.sizes is not None:
            found["dynamic_scale"] = torch.tensor(self.factor, device=completions.sequences.ids.device)
        return found

    def _centred(self, total: Tensor, completions: Completions) -> Tensor:
        return contrastive_reward(total, self.baselines(completions), self.reduce, self.quantile)  # (N,)

    def _changed(self, completions: Completions) -> Tensor:
        if self.sizes is None:
            return super()._changed(completions)
        with failing_together(completions.sequences.ids.device):  # counting is a meeting of all processes
            rewards = self.inner(completions)
            self.baselines(completions)
        return self.change(rewards, completions)

    def change(self, rewards: Tensor, completions: Completions) -> Tensor:
        """Take the baseline off on the last token, then scale."""
        total = rewards.sum(1)  # (N,)
        centred = self._centred(total, completions)
        changed = rewards + on_last_token(centred - total, completions)
        if self.sizes is None:
            return changed
        self.sizes.update(total.abs()[: completions.counted], centred.abs()[: completions.counted])
        return changed * self.factor
