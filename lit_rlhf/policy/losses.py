"""The policy's loss on a minibatch."""

import torch
from torch import Tensor

from lit_rlhf.functional import kl_estimate, masked_mean, ppo_policy_loss
from lit_rlhf.policy.kl import KLPenalty
from lit_rlhf.policy.settings import PPOSettings
from lit_rlhf.policy.trajectory import Trajectory


def policy_loss(
    batch: Trajectory, logprobs: Tensor, entropies: Tensor | None, settings: PPOSettings, kl: KLPenalty, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped loss, with KL penalty and entropy bonus where they belong to it; and its parts.

    Args:
        batch: Part of a rollout, with advantages.
        logprobs: Of its tokens, under the policy in training ``(N, T)``.
        entropies: Of the policy at each token ``(N, T)``, where there is a bonus for them.
        settings: The numbers of PPO.
        kl: Of what kind the penalty is, and whether it belongs to the loss.
        beta: The penalty's coefficient, as it is now.

    Returns:
        The loss, a mean over real tokens, and figures that are such means, too.
    """
    assert batch.advantages is not None
    mask = batch.mask
    parts = {"policy_loss": ppo_policy_loss(logprobs, batch.logprobs, batch.advantages, mask, settings.clip)}
    loss = parts["policy_loss"]
    if kl.place == "loss":
        parts["kl_loss"] = masked_mean(kl_estimate(logprobs, batch.reference_logprobs, kl.kind), mask)
        loss = loss + beta * parts["kl_loss"]
    if entropies is not None:
        parts["policy_entropy"] = masked_mean(entropies, mask)
        loss = loss - settings.entropy_bonus * parts["policy_entropy"]
    beyond = (ratio(batch, logprobs) - 1).abs() > settings.clip
    return loss, parts | {"clip_fraction": beyond.float().mean()}


@torch.no_grad()
def ratio(batch: Trajectory, logprobs: Tensor) -> Tensor:
    """π / π_old of each real token ``(M,)``."""
    return (logprobs - batch.logprobs)[batch.mask].exp()
