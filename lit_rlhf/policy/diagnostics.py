"""What is measured of completions and trajectories."""

from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.rendering import Renderer, cut_into_tokens
from lit_rlhf.functional import masked_mean
from lit_rlhf.policy.trajectory import Trajectory
from lit_rlhf.rewards.reward import Reward


@torch.no_grad()
def completion_metrics(completions: Completions, proxy: Reward, judge: Reward | None) -> dict[str, Tensor]:
    """Means over the responses: reward, true reward and its components where there is a judge, length, share cut off.

    Args:
        completions: Sampled responses.
        proxy: The reward without its baselines.
        judge: The true reward, where known.
    """
    metrics = {"reward": proxy(completions).sum(1).mean()}
    if judge is not None:
        metrics["gold_reward"] = judge(completions).sum(1).mean()
        metrics |= {name: column.mean() for name, column in judged_components(completions, judge).items()}
    return metrics | {
        "response_length": completions.sequences.response_length.float().mean(),
        "truncated": completions.truncated.float().mean(),
    }


@torch.no_grad()
def judged_components(completions: Completions, judge: Reward) -> dict[str, Tensor]:
    """The judge's components of each response ``(N,)``: ``gold/NAME``, and ``refusal``, which is not a reward."""
    found = judge.components(completions)
    return {name if name == "refusal" else f"gold/{name}": column for name, column in found.items()}


@torch.no_grad()
def reward_diagnostics(completions: Completions, reward: Reward) -> dict[str, Tensor]:
    """What the reward itself has to say of the responses, such as an ensemble's disagreement."""
    return {f"reward/{name}": value for name, value in reward.diagnostics(completions).items()}


@torch.no_grad()
def example_rows(
    completions: Completions,
    reward: Reward,
    judge: Reward | None,
    n: int = 4,
    trajectory: Trajectory | None = None,
    renderer: Renderer | None = None,
) -> list[dict[str, Any]]:
    """The first few completions as people read them: texts, proxy reward, baseline mean, true reward.

    Args:
        completions: Sampled responses; what rewards remember of them is not computed again.
        reward: What the policy is trained for.
        judge: The true reward, where known.
        n: How many.
        trajectory: With a renderer, adds lists for heat-maps, one entry per token: ``tokens``, ``token_rewards``
            (what was trained on, before the KL penalty) and ``token_advantages``.
        renderer: Turns tokens into text.
    """
    columns = {"proxy_reward": reward.proxy(completions).sum(1), "baseline_mean": reward.baseline_mean(completions)}
    if judge is not None:
        columns["gold_reward"] = judge(completions).sum(1)
    lists: dict[str, list[Any]] = {name: [None] * n if x is None else x[:n].tolist() for name, x in columns.items()}
    if trajectory is not None and renderer is not None and trajectory.advantages is not None:
        lists["tokens"] = tokens = token_texts(completions, renderer, n)
        for name, values in (("token_rewards", trajectory.rewards), ("token_advantages", trajectory.advantages)):
            rows = zip(values[:n].tolist(), tokens, strict=True)
            lists[name] = [[round(value, 6) for value in row[: len(texts)]] for row, texts in rows]
    return [
        {"prompt": record.prompt[-1].content, "response": text, **{name: each[i] for name, each in lists.items()}}
        for i, (record, text) in enumerate(zip(completions.records[:n], completions.texts[:n], strict=True))
    ]


def token_texts(completions: Completions, renderer: Renderer, n: int | None = None) -> list[list[str]]:
    """The text that each token adds to its response; a row's entries join to that response.

    Tokens without text of their own give an empty one: the end of the sequence, and all but the last of the tokens
    that make up one character.

    Args:
        completions: Sampled responses.
        renderer: The way from their ids to text.
        n: How many rows; None takes all.
    """
    return [cut_into_tokens(ids, renderer) for ids in completions.sequences[:n].response_lists()]


@torch.no_grad()
def trajectory_metrics(trajectory: Trajectory) -> dict[str, Tensor]:
    """KL to the reference per response, entropy, spread of the trained reward, and how good the critic is.

    ``token_reward_abs`` is the mean size of a token's reward, ``advantage_std`` the standard deviation of the tokens'
    advantages before whitening, which would make it 1.
    """
    mask, total = trajectory.mask, trajectory.rewards.sum(1)
    assert trajectory.returns is not None
    returns, values = trajectory.returns[mask], trajectory.values[mask]
    variance = returns.var(unbiased=False)
    return {
        "kl": trajectory.kl.sum(1).mean(),
        "entropy": -masked_mean(trajectory.logprobs, mask),
        "trained_reward": total.mean(),
        "trained_reward_std": total.std(unbiased=False),
        "token_reward_abs": masked_mean(trajectory.rewards.abs(), mask),
        "advantage_std": (returns - values).std(unbiased=False),
        "value_mean": values.mean(),
        "explained_variance": 1 - (returns - values).var(unbiased=False) / variance.clamp(min=1e-8),
    }
