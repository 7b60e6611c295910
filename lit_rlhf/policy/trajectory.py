"""What one rollout leaves behind for the update: `Trajectory`, and how advantages are made of it."""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from lit_rlhf.data.batches import Batch, Sequences
from lit_rlhf.functional import kl_estimate, masked_whiten
from lit_rlhf.policy.advantages import Advantages
from lit_rlhf.policy.kl import KLPenalty


@dataclass
class Trajectory(Batch):
    """A rollout's responses with everything that the update needs. All but ``sequences`` are ``(B, T)``.

    Attributes:
        sequences: Prompts with responses.
        mask: Real response tokens.
        logprobs: Log-probabilities under the policy that sampled them, at the sampling temperature.
        reference_logprobs: The same under the frozen reference.
        values: The critic's value of the state before each token; None where there is no critic.
        rewards: What the reward object gave, without the KL penalty.
        advantages: Filled in by `with_advantages`.
        returns: Filled in by `with_advantages`.
    """

    sequences: Sequences
    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor | None
    rewards: Tensor
    advantages: Tensor | None = None
    returns: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: slice | Tensor) -> "Trajectory":
        """A minibatch: part of the rows, cut to its longest response."""
        sequences = self.sequences[rows]
        width = int(sequences.response_length.max())
        cut: dict[str, Any] = {
            name: None if value is None else value[rows][:, :width]
            for name, value in vars(self).items()
            if name != "sequences"
        }
        return Trajectory(sequences=sequences, **cut)

    @property
    def kl(self) -> Tensor:
        """log π − log π_ref of the sampled tokens ``(B, T)``, zero at padding."""
        return kl_estimate(self.logprobs, self.reference_logprobs, "k1").masked_fill(~self.mask, 0.0)

    def with_advantages(self, estimator: Advantages, penalty: KLPenalty, coefficient: float, whiten: bool) -> Self:
        """Rewards minus the KL penalty per token, then advantages, then whitening over the whole rollout.

        Args:
            estimator: From rewards to advantages and returns.
            penalty: What kind of KL penalty there is, and whether it is part of the reward.
            coefficient: β, as it is now.
            whiten: Whether advantages get standard deviation 1, and mean 0 if the estimator says so.
        """
        rewards = self.rewards
        if penalty.place == "reward" and coefficient:
            estimate = kl_estimate(self.logprobs, self.reference_logprobs, penalty.kind)
            rewards = rewards - coefficient * estimate.masked_fill(~self.mask, 0.0)
        advantages, self.returns = estimator(self, rewards)
        self.advantages = masked_whiten(advantages, self.mask, estimator.centred) if whiten else advantages
        return self
