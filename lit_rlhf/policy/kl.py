"""How far the policy may go from its reference: a KL penalty, fixed or adaptive, in the reward or in the loss."""

from dataclasses import dataclass
from typing import Literal

from lit_rlhf.data.errors import DataError
from lit_rlhf.functional.policy import KLKind


@dataclass
class KLPenalty:
    """β times an estimate of KL(π ‖ π_ref) per token, and how β moves.

    With a target, β follows the measured KL: β ← β (1 + clip(KL/target − 1, ±.2) · n/horizon) after each iteration of n
    responses.

    Source: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences" (arXiv 1909.08593), section 2.2.

    Attributes:
        coefficient: β; with a target, where it starts.
        kind: The estimate: ``k1`` (log π − log π_ref), ``k2`` (half its square) or ``k3`` (never negative, unbiased).
        place: ``reward`` takes the penalty off each token's reward, ``loss`` adds it to the policy's loss. The gradient
            of k1 in the loss is 0 on average, so it is refused there; that of k2 is the divergence's own.
        target: KL per response, in nats, that an adaptive β steers to; None keeps β where it is.
        horizon: Responses over which an adaptive β moves.
    """

    coefficient: float = 0.05
    kind: KLKind = "k1"
    place: Literal["reward", "loss"] = "reward"
    target: float | None = None
    horizon: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.coefficient < 0:
            raise DataError(f"is {self.coefficient}", "kl, coefficient", "Give 0 or more.")
        if self.target is not None and (self.target <= 0 or self.coefficient <= 0):
            hint = "An adaptive penalty needs a target and a coefficient above 0: β moves by factors."
            raise DataError(f"is {self.target} with a coefficient of {self.coefficient}", "kl, target", hint)
        if self.horizon < 1:
            raise DataError(f"is {self.horizon}", "kl, horizon", "Give 1 or more.")
        if self.place == "loss" and self.kind == "k1":
            hint = "Its gradient is 0 on average, so it would not hold the policy. Take k2 or k3."
            raise DataError("k1 in the loss does nothing", "kl, kind", hint)

    def in_reward(self) -> bool:
        """Whether the penalty is part of the reward."""
        return self.place == "reward"

    def adapted(self, coefficient: float, kl: float, responses: int) -> float:
        """The next β.

        Args:
            coefficient: The present one.
            kl: Measured KL per response, in nats.
            responses: How many it was measured on.
        """
        if self.target is None:
            return coefficient
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coefficient * (1 + error * min(responses / self.horizon, 1.0))
