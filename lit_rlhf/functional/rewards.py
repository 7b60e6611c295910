"""Rewards made from other rewards: relative to baselines, and per token from a sequence-to-sequence model."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_rlhf.functional.checks import as_float, check_fraction, check_mask, check_shapes
from lit_rlhf.functional.masked import keep_real

Reduction = Literal["mean", "median", "max", "quantile"]


def contrastive_reward(
    reward: Tensor, baseline_rewards: Tensor, reduce: Reduction = "mean", quantile: float = 0.5
) -> Tensor:
    """How much better a response is than what the baseline policy says to the same prompt: r − g(baselines).

    Anything that is added to all scores of a prompt cancels.

    Source: Shen et al. 2024, "Improving Reinforcement Learning from Human Feedback Using Contrastive Rewards" (arXiv
    2403.07708), with g = mean.

    Args:
        reward: Scores of the responses, ``(B,)``.
        baseline_rewards: Scores of k baseline responses to the same prompts by the same reward model, ``(B, k)``.
        reduce: g: "mean", "median" (for even k the average of the middle two), "max" or "quantile".
        quantile: Which quantile, from 0 to 1, interpolated linearly; used by "quantile" only.

    Returns:
        Contrastive rewards, ``(B,)``.

    Raises:
        ValueError: If shapes differ, a prompt has no baseline (k = 0, or NaN or infinite entries), or an option is
            unknown. A missing baseline is never taken for 0.

    Examples:
        >>> contrastive_reward(torch.tensor([1.5, 0.2]), torch.tensor([[1.0, 2.0], [0.0, 0.1]]))
        tensor([0.0000, 0.1500])
    """
    _check_baselines(reward, baseline_rewards)
    check_fraction(quantile=quantile)
    baselines = as_float(baseline_rewards)  # (B, k)
    if reduce == "mean":
        reference = baselines.mean(dim=1)
    elif reduce == "median":
        reference = baselines.quantile(0.5, dim=1)  # Tensor.median would take the lower of the middle two
    elif reduce == "max":
        reference = baselines.amax(dim=1)
    elif reduce == "quantile":
        reference = baselines.quantile(quantile, dim=1)
    else:
        raise ValueError(f"reduce is {reduce!r}, expected one of {', '.join(get_args(Reduction))}")
    return as_float(reward) - reference


def seq2seq_token_rewards(
    response: Tensor,
    prediction: Tensor,
    mask: Tensor,
    positive: float = 1.0,
    negative: float = -1.0,
    normalize: bool = True,
) -> Tensor:
    """Token rewards from a model that rewrites responses: positive until it first disagrees, negative where it does.

    With t0 the first position at which prediction and response differ, r_t = positive for t < t0; from t0 on r_t =
    negative where they differ and 0 where they agree. The end-of-sequence token counts like any other.

    Source: Zhou et al. 2024, "Sequence to Sequence Reward Modeling" (arXiv 2409.00162); with greedy
    decoding the two phases of its reward extraction equal this single teacher-forced pass.

    Args:
        response: Token ids, ``(B, T)``, right-padded.
        prediction: The model's most likely token at each position given the response before it, ``(B, T)``; so
            ``prediction[:, t]`` competes with ``response[:, t]``.
        mask: True at real tokens, ``(B, T)``.
        positive: Reward of a token before the first disagreement.
        negative: Reward of a disagreeing token.
        normalize: Divide by the number of real tokens in the row, so that length itself is not rewarded.

    Returns:
        Rewards ``(B, T)`` in float32, 0 at padding.

    Raises:
        ValueError: If shapes differ from ``(B, T)``, ids are not integers, or the mask is not bool.

    Examples:
        >>> response, prediction = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 9, 8]])
        >>> seq2seq_token_rewards(response, prediction, response > 0, normalize=False)
        tensor([[ 1.,  1., -1.,  0.]])
    """
    check_mask(mask, "(B, T)", response=response, prediction=prediction)
    for name, ids in (("response", response), ("prediction", prediction)):
        if ids.is_floating_point():
            raise ValueError(f"{name} has dtype {ids.dtype}, expected integer token ids")
    differs = (response != prediction) & mask  # (B, T)
    agreed_so_far = differs.cumsum(dim=1) == 0
    rewards = torch.where(agreed_so_far, positive, torch.where(differs, negative, 0.0))
    if normalize:
        rewards = rewards / mask.sum(dim=1, keepdim=True)  # rows of mere padding are put to 0 below
    return keep_real(rewards, mask)


def _check_baselines(reward: Tensor, baseline_rewards: Tensor) -> None:
    check_shapes("(B,)", reward=reward)
    check_shapes("(B, k)", baseline_rewards=baseline_rewards)
    if len(baseline_rewards) != len(reward):
        raise ValueError(
            f"baseline_rewards has shape {tuple(baseline_rewards.shape)}, expected (B, k) with B = {len(reward)}, "
            "one row per reward"
        )
    if baseline_rewards.shape[1] == 0:
        raise ValueError("baseline_rewards has k = 0 columns, expected at least one baseline per prompt")
    bad = (~baseline_rewards.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
        raise ValueError(
            f"baseline_rewards has NaN or infinite entries in rows {rows}: score baselines for each prompt"
        )
