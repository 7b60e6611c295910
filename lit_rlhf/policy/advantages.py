"""From the rewards of a rollout to the advantages of its tokens: what tells PPO, RLOO and REINFORCE apart."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import Configurable
from lit_rlhf.functional import gae, leave_one_out

if TYPE_CHECKING:
    from lit_rlhf.policy.trajectory import Trajectory


class Advantages(Configurable, ABC):
    """Estimates how much better each sampled token is than what was to be expected.

    Attributes:
        needs_critic: Whether a critic is to be trained, whose values the trajectory then holds.
        samples: Responses that are sampled per prompt.
        centred: Whether whitening takes the mean over the rollout off, or only divides by the standard deviation:
            where the baseline is the estimator's whole point, taking off another one would hide it.
    """

    needs_critic: bool = False
    samples: int = 1
    centred: bool = False

    @abstractmethod
    def __call__(self, trajectory: "Trajectory", rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate.

        Args:
            trajectory: The rollout; rows of one prompt stand together.
            rewards: Rewards per token ``(B, T)``, with the KL penalty where that is part of the reward.

        Returns:
            Advantages ``(B, T)``, and returns ``(B, T)``, which a critic learns from.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        assert not state


class GAE(Advantages):
    """Generalised advantage estimation with a critic: PPO's (arXiv 1506.02438).

    Args:
        gamma: Discount per token.
        lam: λ, from 0 (trust the critic) to 1 (trust the rewards).
    """

    needs_critic = True
    centred = True

    def __init__(self, gamma: float = 1.0, lam: float = 0.95) -> None:
        for name, value in (("gamma", gamma), ("lam", lam)):
            if not 0 <= value <= 1:
                raise DataError(f"is {value}", f"advantages, {name}", "Give a number from 0 to 1.")
        self.gamma, self.lam = gamma, lam

    def __call__(self, trajectory: "Trajectory", rewards: Tensor) -> tuple[Tensor, Tensor]:
        """As `functional.gae`."""
        assert trajectory.values is not None
        return gae(rewards, trajectory.values, trajectory.mask, self.gamma, self.lam)


class ResponseAdvantages(Advantages):
    """One advantage per response, that of its whole reward, on each of its tokens; no critic.

    Subclasses say how responses are compared; they set ``samples`` if there are to be several per prompt.
    """

    def __call__(self, trajectory: "Trajectory", rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the whole responses."""
        totals = rewards.masked_fill(~trajectory.mask, 0.0).sum(1)
        everywhere = trajectory.mask.to(totals.dtype)  # (B, T)
        return self.compare(totals)[:, None] * everywhere, totals[:, None] * everywhere

    @abstractmethod
    def compare(self, totals: Tensor) -> Tensor:
        """Advantages of responses ``(B,)`` from their whole rewards ``(B,)``."""


class LeaveOneOut(ResponseAdvantages):
    """RLOO: the reward minus the mean reward of the other responses to the same prompt (arXiv 2402.14740).

    Args:
        samples: Responses per prompt, at least 2. An iteration then holds that many times the prompts of a batch.
    """

    def __init__(self, samples: int = 4) -> None:
        if samples < 2:
            raise DataError(f"is {samples}", "advantages, samples", "Leave-one-out needs 2 or more.")
        self.samples = samples

    def compare(self, totals: Tensor) -> Tensor:
        """As `functional.leave_one_out`."""
        return leave_one_out(totals, self.samples)


class MovingBaseline(ResponseAdvantages):
    """REINFORCE with a moving average of earlier rewards as its baseline (Williams 1992).

    With `ContrastiveReward`, whose baseline is the prompt's own, take `NoBaseline`.

    Args:
        decay: Share of the old average that an iteration keeps, from 0 to below 1. The first rollout is compared with
            its own mean, later ones with the average of those before.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise DataError(f"is {decay}", "advantages, decay", "Give a share from 0 to below 1.")
        self.decay = decay
        self.average: float | None = None

    def compare(self, totals: Tensor) -> Tensor:
        """The reward minus the average, which then moves."""
        mean = float(totals.mean())
        baseline = mean if self.average is None else self.average
        self.average = self.decay * baseline + (1 - self.decay) * mean
        return totals - baseline

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.average = state["average"]


class NoBaseline(ResponseAdvantages):
    """REINFORCE as it is: the reward itself, for rewards that bring their baseline, such as `ContrastiveReward`."""

    def compare(self, totals: Tensor) -> Tensor:
        """The rewards."""
        return torch.clone(totals)
