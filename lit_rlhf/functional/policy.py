"""Proximal policy optimisation: advantages, the two clipped losses, and estimates of the KL divergence."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_rlhf.functional.checks import as_float, check_fraction, check_mask, check_positive, check_shapes
from lit_rlhf.functional.masked import keep_real, masked_mean

KLKind = Literal["k1", "k2", "k3"]


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation on padded rows.

    δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γλ A_{t+1}; the return is A_t + V_t. After the last real token V and A
    are 0: a finished response ends the episode. Padding is skipped wherever it stands, as though it were not there. The
    results are targets of learning, so no gradient flows.

    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (arXiv
    1506.02438), equation 16.

    Args:
        rewards: Rewards per token, ``(B, T)``.
        values: The critic's value before each token, ``(B, T)``.
        mask: True at real tokens, ``(B, T)``.
        gamma: Discount γ per token, from 0 to 1.
        lam: λ, from 0 (one-step differences) to 1 (whole returns).

    Returns:
        Advantages ``(B, T)`` and returns ``(B, T)``, both 0 at padding.

    Raises:
        ValueError: If shapes differ from ``(B, T)``, the mask is not bool, or a number is out of range.

    Examples:
        >>> rewards = torch.tensor([[0.0, 0.0, 1.0]])
        >>> gae(rewards, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), lam=0.5)[0]
        tensor([[0.2500, 0.5000, 1.0000]])
    """
    check_mask(mask, "(B, T)", rewards=rewards, values=values)
    check_fraction(gamma=gamma, lam=lam)
    rewards, values = keep_real(rewards, mask), keep_real(values, mask)
    advantages = torch.zeros_like(values)
    advantage = next_value = values.new_zeros(len(values))  # (B,)
    for t in reversed(range(mask.shape[1])):
        real, value = mask[:, t], values[:, t]
        delta = rewards[:, t] + gamma * next_value - value
        advantage = torch.where(real, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(real, value, next_value)
        advantages[:, t] = torch.where(real, advantage, 0.0)
    return advantages, advantages + values


@torch.no_grad()
def leave_one_out(rewards: Tensor, samples: int) -> Tensor:
    """How much better a response is than the mean of the other responses to the same prompt.

    A_i = R_i − 1/(k − 1) Σ_{j ≠ i} R_j, an unbiased baseline that needs no critic.

    Source: Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human
    Feedback in LLMs" (arXiv 2402.14740), section 3.2; Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for
    Free!".

    Args:
        rewards: Reward of each response, those to one prompt one after another, ``(B * k,)``.
        samples: k, responses per prompt, at least 2.

    Returns:
        Advantages ``(B * k,)``.

    Raises:
        ValueError: If there are fewer than two responses per prompt, or the rows are no multiple of them.

    Examples:
        >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]), samples=3)
        tensor([-3.0000, -1.5000,  4.5000])
    """
    check_shapes("(N,)", rewards=rewards)
    if samples < 2 or len(rewards) % samples:
        raise ValueError(f"{len(rewards)} rewards of {samples} responses per prompt, expected a multiple of 2 or more")
    groups = as_float(rewards).view(-1, samples)  # (B, k)
    return ((groups - groups.mean(1, keepdim=True)) * samples / (samples - 1)).flatten()


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """Clipped surrogate objective of PPO, negated: −mean min(ρA, clamp(ρ, 1 − c, 1 + c) A), ρ = π/π_old.

    No gradient once ρ has moved beyond the clip in the direction that the advantage asks for; full gradient when it has
    moved the other way.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), equation 7.

    Args:
        logprobs: Log-probabilities of the sampled tokens under the policy in training, any shape, usually ``(B, T)``.
        old_logprobs: The same under the distribution they were sampled from; a constant, detached.
        advantages: Advantages per token; a constant, detached.
        mask: True at real tokens.
        clip: c, between 0 and 1.

    Returns:
        The mean over real tokens, a scalar.

    Raises:
        ValueError: If shapes differ, the mask is not bool, or ``clip`` is not between 0 and 1.

    Examples:
        >>> new, old = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()  # a ratio of 2, clipped to 1.2
        >>> ppo_policy_loss(new, old, torch.tensor([1.0]), torch.tensor([True]))
        tensor(-1.2000)
    """
    check_mask(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if not 0 < clip < 1:
        raise ValueError(f"clip is {clip}, expected a number above 0 and below 1")
    advantages = advantages.detach()
    log_ratio = keep_real(logprobs, mask) - old_logprobs.detach()
    # The side of the clip depends on the sign of A alone. Clamping before exp keeps an overflow, which would turn the
    # zero gradient beyond the clip into NaN, from happening there.
    upper, lower = log_ratio.clamp(max=math.log1p(clip)), log_ratio.clamp(min=math.log1p(-clip))
    clipped = torch.where(advantages >= 0, upper, lower)
    return -masked_mean(advantages * clipped.exp(), mask)


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """Clipped squared error of the critic: ½ · mean max((V − R)², (V_old + clamp(V − V_old, −c, c) − R)²).

    The maximum keeps the critic from moving further than c per iteration towards the return; a move away from it is
    always corrected. The conventional factor ½ is included.

    Source: OpenAI Baselines, ppo2; used with c = 0.2 by Wang et al. 2024 (arXiv 2401.06080).

    Args:
        values: Values of the critic in training, any shape, usually ``(B, T)``.
        old_values: Values at rollout time; a constant, detached.
        returns: Targets, as from :func:`gae`; a constant, detached.
        mask: True at real tokens.
        clip: c, above 0, in units of the value; ``math.inf`` turns clipping off.

    Returns:
        The mean over real tokens, a scalar.

    Raises:
        ValueError: If shapes differ, the mask is not bool, or ``clip`` is not positive.

    Examples:
        >>> values, old, returns = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])
        >>> ppo_value_loss(values, old, returns, torch.tensor([True]))  # it moved too far: (0.2 - 1)² / 2
        tensor(0.3200)
    """
    check_mask(mask, values=values, old_values=old_values, returns=returns)
    check_positive(clip=clip)
    values, old_values, returns = keep_real(values, mask), old_values.detach(), returns.detach()
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns).square(), (clipped - returns).square()), mask)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KLKind = "k1") -> Tensor:
    """Estimate KL(π ‖ π_ref) per token from tokens that π has sampled.

    With ρ = π_ref/π: k1 = −log ρ is unbiased and may be negative; k2 = ½ (log ρ)² is biased, never negative; k3 = (ρ −
    1) − log ρ is unbiased and never negative. It works entry by entry and knows no mask: average with
    :func:`masked_mean`, and if a gradient is to flow, make sure that the padding is finite.

    Source: Schulman 2020, "Approximating KL Divergence" (joschu.net/blog/kl-approx.html).

    Args:
        logprobs: Log-probabilities of the sampled tokens under π, any shape.
        ref_logprobs: The same under π_ref, same shape.
        kind: "k1", "k2" or "k3".

    Returns:
        Estimates in nats, same shape.

    Raises:
        ValueError: If shapes differ or the kind is unknown.

    Examples:
        >>> kl_estimate(torch.tensor([-1.0, -1.5]), torch.tensor([-1.5, -1.0]))
        tensor([ 0.5000, -0.5000])
        >>> kl_estimate(torch.tensor([-1.0, -1.5]), torch.tensor([-1.5, -1.0]), "k3")
        tensor([0.1065, 0.1487])
    """
    check_shapes("(...)", logprobs=logprobs, ref_logprobs=ref_logprobs)
    log_rho = as_float(ref_logprobs) - as_float(logprobs)
    if kind == "k1":
        return -log_rho
    if kind == "k2":
        return 0.5 * log_rho.square()
    if kind == "k3":
        return torch.expm1(log_rho) - log_rho  # expm1: exp(x) − 1 would round to 0 near the reference
    raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(KLKind))}")
