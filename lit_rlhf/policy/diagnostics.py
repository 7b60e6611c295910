"""What is measured of completions and trajectories."""

from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.functional import masked_mean
from lit_rlhf.policy.trajectory import Trajectory
from lit_rlhf.rewards.reward import Reward


@torch.no_grad()
def completion_metrics(completions: Completions, proxy: Reward, judge: Reward | None) -> dict[str, Tensor]:
    """Means over the responses: reward, true reward where there is a judge, length, share cut off.

    Args:
        completions: Sampled responses.
        proxy: The reward without its baselines.
        judge: The true reward, where known.
    """
    metrics = {"reward": proxy(completions).sum(1).mean()}
    if judge is not None:
        metrics["gold_reward"] = judge(completions).sum(1).mean()
    return metrics | {
        "response_length": completions.sequences.response_length.float().mean(),
        "truncated": completions.truncated.float().mean(),
    }


@torch.no_grad()
def reward_diagnostics(completions: Completions, reward: Reward) -> dict[str, Tensor]:
    """What the reward itself has to say of the responses, such as an ensemble's disagreement."""
    return {f"reward/{name}": value for name, value in reward.diagnostics(completions).items()}


@torch.no_grad()
def example_rows(completions: Completions, reward: Reward, judge: Reward | None, n: int = 4) -> list[dict[str, Any]]:
    """The first few completions for a table that people read: texts, proxy reward, baseline mean, true reward."""
    few = Completions(
        completions.sequences[:n], completions.truncated[:n], completions.records[:n], completions.texts[:n]
    )
    columns = {"proxy_reward": reward.proxy(few).sum(1), "baseline_mean": reward.baseline_mean(few)}
    if judge is not None:
        columns["gold_reward"] = judge(few).sum(1)
    numbers = [(name, None if values is None else values.tolist()) for name, values in columns.items()]
    return [
        {"prompt": record.prompt[-1].content, "response": text}
        | {name: None if values is None else values[i] for name, values in numbers}
        for i, (record, text) in enumerate(zip(few.records, few.texts, strict=True))
    ]


@torch.no_grad()
def trajectory_metrics(trajectory: Trajectory) -> dict[str, Tensor]:
    """KL to the reference per response, entropy, spread of the trained reward, and how good the critic is."""
    mask, total = trajectory.mask, trajectory.rewards.sum(1)
    assert trajectory.returns is not None
    returns, values = trajectory.returns[mask], trajectory.values[mask]
    variance = returns.var(unbiased=False)
    return {
        "kl": trajectory.kl.sum(1).mean(),
        "entropy": -masked_mean(trajectory.logprobs, mask),
        "trained_reward": total.mean(),
        "trained_reward_std": total.std(unbiased=False),
        "value_mean": values.mean(),
        "explained_variance": 1 - (returns - values).var(unbiased=False) / variance.clamp(min=1e-8),
    }
