"""Rewards that change what one inner reward gives: clipped, scaled, less what is taken off for length or truncation."""

import math
from typing import Self

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.together import failing_together, from_all
from lit_rlhf.rewards.reward import Reward, on_last_token
from lit_rlhf.rewards.running import RunningMeans


class RewardWrapper(Reward):
    """Base of the rewards with one inner reward. A subclass says how it changes it, and what it is called.

    On unseen prompts the inner reward's proxy speaks, as the reward model gives it: neither centred, scaled, clipped
    nor less any penalty. Baseline means, which are compared with it, are passed on in the same unit.

    Args:
        inner: The reward that is changed.
    """

    def __init__(self, inner: Reward) -> None:
        super().__init__()
        self.inner = inner

    # ------------------------------------------------------------------ what a subclass overrides

    def change(self, rewards: Tensor, completions: Completions) -> Tensor:
        """The inner rewards as they are to be, both ``(N, T)``; called once for the same completions."""
        raise NotImplementedError

    def describe(self) -> str:
        """The wrapper and its numbers, for the fingerprint."""
        raise NotImplementedError

    def figures(self, completions: Completions) -> dict[str, Tensor]:
        """The wrapper's own diagnostics, each a scalar: of the responses of all processes, see `together.from_all`."""
        return {}

    @property
    def factor(self) -> float:
        """What the wrapper now multiplies all rewards by; a change that is no factor leaves it at 1."""
        return 1.0

    def open(self, renderer: Renderer, policy_fingerprint: str) -> None:
        """Open what the wrapper itself needs, after the inner reward was loaded."""

    # ------------------------------------------------------------------ the same for all

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Load the inner reward, then what the wrapper needs; nothing is left of what was asked before."""
        self._memory = None
        self.inner.load(renderer, policy_fingerprint)
        self.open(renderer, policy_fingerprint)
        self.fingerprint = f"{self.describe()} over {self.inner.fingerprint}"
        return self

    @property
    def scale(self) -> float:  # type: ignore[override]
        """The inner reward's, times the wrapper's factor."""
        return self.inner.scale * self.factor

    @property
    def proxy(self) -> Reward:
        """The inner reward's."""
        return self.inner.proxy

    def critic_scale(self, path: str) -> float:
        """The inner reward's, times the wrapper's factor."""
        return self.inner.critic_scale(path) * self.factor

    def baseline_mean(self, completions: Completions) -> Tensor | None:
        """The inner reward's, unchanged as the proxy is."""
        return self.inner.baseline_mean(completions)

    def diagnostics(self, completions: Completions) -> dict[str, Tensor]:
        """The wrapper's own and the inner reward's, which is called ``inner/NAME`` where both have one of that name."""
        own = self.figures(completions)
        below = self.inner.diagnostics(completions)
        return own | {f"inner/{name}" if name in own else name: value for name, value in below.items()}

    def components(self, completions: Completions) -> dict[str, Tensor]:
        """The inner reward's."""
        return self.inner.components(completions)

    def forward(self, completions: Completions) -> Tensor:
        """The changed rewards of the response tokens ``(N, T)``, zero at padding."""
        return self.remembered(completions, self._changed)

    def _changed(self, completions: Completions) -> Tensor:
        return self.change(self.inner(completions), completions)


class ClipReward(RewardWrapper):
    """Keeps each response's total reward within bounds; what is too much or too little is taken off the last token.

    Put it around the wrappers that centre and scale: bounds are in the unit of what they give. Logs ``clipped``, the
    share of the responses whose total lay beyond a bound.

    Source: Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II: Reward Modeling" (arXiv 2401.06080),
    which clips at ±0.8.

    Args:
        inner: The reward that is clipped.
        low: Least total of a response; None sets no such bound.
        high: Greatest total of a response; None sets no such bound.

    Raises:
        DataError: If no bound is given, or the lower one is not below the upper one.
    """

    def __init__(self, inner: Reward, low: float | None = None, high: float | None = None) -> None:
        super().__init__(inner)
        if low is None and high is None:
            raise DataError("neither is given", "ClipReward, low and high", "Give one of them, or both.")
        self.low, self.high = -math.inf if low is None else low, math.inf if high is None else high
        if not self.low < self.high:
            raise DataError(f"are {low} and {high}", "ClipReward, low and high", "Give a low that is below high.")

    def describe(self) -> str:
        """Wrapper and bounds."""
        return f"clip {self.low:.6g} to {self.high:.6g}"

    def change(self, rewards: Tensor, completions: Completions) -> Tensor:
        """Take the excess off the last token."""
        total = rewards.sum(1)  # (N,)
        return rewards + on_last_token(total.clamp(self.low, self.high) - total, completions)

    def figures(self, completions: Completions) -> dict[str, Tensor]:
        """``clipped``."""
        total = from_all(self.inner(completions).sum(1)[: completions.counted])
        return {"clipped": ((total < self.low) | (total > self.high)).float().mean()}


class ScaledReward(RewardWrapper):
    """Divides rewards by the running standard deviation of the responses' totals. The mean stays where it is.

    Subtracting the mean would hide what contrastive rewards do; put this around them: centre, then scale. The
    deviation is that of all processes' responses, the present batch included, each batch counted once; as long as all
    totals are equal, nothing is divided. Logs ``running_std``.

    A critic that starts from the reward model starts before the first batch, when the spread is taken for 1. That is
    about right as long as the inner `ScalarReward` keeps its default scale.

    Source: Engstrom et al. 2020, "Implementation Matters in Deep Policy Gradients" (arXiv 2005.12729), with the whole
    response's reward as return; averaged exponentially here, since policies and their rewards drift.

    Args:
        inner: The reward that is scaled.
        decay: What the past weighs after one more batch, from 0 (only the present batch counts) to 1 (all batches
            count alike).

    Raises:
        DataError: If the decay is not from 0 to 1.
    """

    def __init__(self, inner: Reward, decay: float = 0.99) -> None:
        super().__init__(inner)
        self.moments = RunningMeans(2, decay, "ScaledReward, decay")

    def open(self, renderer: Renderer, policy_fingerprint: str) -> None:
        """Begin anew."""
        self.moments.reset()

    def describe(self) -> str:
        """Wrapper and decay."""
        return f"running scale with decay {self.moments.decay:.6g}"

    @property
    def factor(self) -> float:
        """1 / standard deviation, or 1 while totals do not differ by more than rounding."""
        mean, square = self.moments.means
        rounding = (16 * torch.finfo(torch.float32).eps) ** 2 * square
        variance = square - mean**2
        return variance**-0.5 if variance > rounding else 1.0

    def _changed(self, completions: Completions) -> Tensor:
        with failing_together(completions.sequences.ids.device):  # counting is a meeting of all processes
            rewards = self.inner(completions)
        return self.change(rewards, completions)

    def change(self, rewards: Tensor, completions: Completions) -> Tensor:
        """Count the batch, then divide."""
        total = rewards.double().sum(1)  # (N,)
        counted = total[: completions.counted]
        self.moments.update(counted, counted.square())
        return rewards * self.factor

    def figures(self, completions: Completions) -> dict[str, Tensor]:
        """``running_std``."""
        return {"running_std": torch.tensor(1 / self.factor, device=completions.sequences.ids.device)}


class LengthPenalty(RewardWrapper):
    """Takes ``per_token`` · max(0, length − ``free``) off the last token; logs the mean as ``length_penalty``.

    Args:
        inner: The reward that the penalty is taken off.
        per_token: Price of one token, in the inner reward's unit.
        free: Tokens of a response that cost nothing; the end-of-sequence counts as one.

    Raises:
        DataError: If a number is negative.
    """

    def __init__(self, inner: Reward, per_token: float, free: int = 0) -> None:
        super().__init__(inner)
        self.per_token, self.free = _checked(per_token, "LengthPenalty, per_token"), free
        if free < 0:
            raise DataError(f"is {free}", "LengthPenalty, free", "Give 0 or more tokens.")

    def describe(self) -> str:
        """Wrapper and prices."""
        return f"length penalty {self.per_token:.6g} beyond {self.free} tokens"

    def change(self, rewards: Tensor, completions: Completions) -> Tensor:
        """Take the price off the last token."""
        return rewards - on_last_token(self._price(completions), completions)

    def figures(self, completions: Completions) -> dict[str, Tensor]:
        """``length_penalty``."""
        return {"length_penalty": from_all(self._price(completions)[: completions.counted]).mean()}

    def _price(self, completions: Completions) -> Tensor:
        return self.per_token * (completions.sequences.response_length - self.free).clamp(min=0).float()  # (N,)


class TruncationPenalty(RewardWrapper):
    """Takes a penalty off the last token of responses that reached the length limit without ending.

    Logs the mean as ``truncation_penalty``.

    Args:
        inner: The reward that the penalty is taken off.
        penalty: Price of not ending, in the inner reward's unit.

    Raises:
        DataError: If the penalty is negative.
    """

    def __init__(self, inner: Reward, penalty: float) -> None:
        super().__init__(inner)
        self.penalty = _checked(penalty, "TruncationPenalty, penalty")

    def describe(self) -> str:
        """Wrapper and price."""
        return f"truncation penalty {self.penalty:.6g}"

    def change(self, rewards: Tensor, completions: Completions) -> Tensor:
        """Take the price off the last token."""
        return rewards - on_last_token(self._price(completions), completions)

    def figures(self, completions: Completions) -> dict[str, Tensor]:
        """``truncation_penalty``."""
        return {"truncation_penalty": from_all(self._price(completions)[: completions.counted]).mean()}

    def _price(self, completions: Completions) -> Tensor:
        return self.penalty * completions.truncated.float()  # (N,)


def _checked(price: float, option: str) -> float:
    """A price as it is.

    Raises:
        DataError: If it is negative or no finite number.
    """
    if not 0 <= price < math.inf:
        raise DataError(f"is {price}", option, "Give 0 or more: it is taken off the reward.")
    return price
