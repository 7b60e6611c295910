"""What is measured of completions and trajectories."""

import re
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.rendering import Renderer, cut_into_tokens
from lit_rlhf.functional import masked_mean, ngram_repetition
from lit_rlhf.networks.sharding import gathered
from lit_rlhf.networks.together import columns_of_all, failing_together, from_all, listed_from_all
from lit_rlhf.policy.trajectory import Trajectory
from lit_rlhf.rewards.reward import Reward

KL_SPIKE = 5.0
"""A response's KL is a spike where it is more than so many times the mean size in its rollout."""

_REFUSAL = re.compile(
    r"\b(?:can(?:not|['’]t| not)|could not|couldn['’]t|will not|won['’]t|(?:not|un)\W?able to)\s+"
    r"(?:help|assist|provide|comply|fulfil|answer|do that|create|write|support|share|give)|\bas an AI\b|"
    r"\bI(?: am|['’]m) (?:very |so )?sorry\b|\bI must (?:decline|refuse)\b",
    re.IGNORECASE,
)


def measured(completions: Completions, reward: Reward, judge: Reward | None) -> dict[str, Tensor]:
    """`completion_metrics` of the reward's proxy, and `reward_diagnostics`; rewards that are split are gathered."""
    with gathered(reward), gathered(judge or reward):
        return completion_metrics(completions, reward.proxy, judge) | reward_diagnostics(completions, reward)


@torch.no_grad()
def completion_metrics(completions: Completions, proxy: Reward, judge: Reward | None) -> dict[str, Tensor]:
    """What the responses of all processes earn, and are like; means over the responses unless stated otherwise.

    - ``reward`` and its variance over the responses, ``reward_variance``: that of the proxy, before any centring.
    - ``gold_reward`` and its components ``gold/NAME``, where there is a judge.
    - ``response_length`` in tokens; ``truncated``, the share that was cut off at the limit.
    - ``refusal``: as the judge says; where it says nothing, the share that opens with an English phrase of refusal.
    - ``repetition``: share of a response's 3-grams that it has said before, see `ngram_repetition`.
    - ``distinct_responses``: different responses, as a share of all. It falls where the policy has a stock answer.

    Args:
        completions: Sampled responses.
        proxy: The reward without its baselines.
        judge: The true reward, where known.
    """
    sequences = completions.sequences
    with failing_together(sequences.ids.device):
        rewards = proxy(completions).sum(1)
        columns = {"reward": rewards}
        if judge is not None:
            columns |= {"gold_reward": judge(completions).sum(1), **judged_components(completions, judge)}
    if "refusal" not in columns:
        columns["refusal"] = rewards.new_tensor([opens_with_refusal(text) for text in completions.texts])
    columns |= {
        "response_length": sequences.response_length.float(),
        "truncated": completions.truncated.float(),
        "repetition": ngram_repetition(sequences.responses, sequences.response_mask),
    }
    counted = completions.counted
    columns = columns_of_all({name: column[:counted] for name, column in columns.items()})
    texts = listed_from_all(completions.texts[:counted])
    return {name: column.mean() for name, column in columns.items()} | {
        "reward_variance": columns["reward"].var(unbiased=False),
        "distinct_responses": rewards.new_tensor(len(set(texts)) / len(texts)),
    }


def opens_with_refusal(text: str) -> bool:
    """Whether a phrase of refusal stands in the first 100 characters: a rule of thumb, for English alone."""
    return _REFUSAL.search(text[:100]) is not None


@torch.no_grad()
def judged_components(completions: Completions, judge: Reward) -> dict[str, Tensor]:
    """The judge's components of each response ``(N,)``: ``gold/NAME``, and ``refusal``, which is not a reward."""
    found = judge.components(completions)
    return {name if name == "refusal" else f"gold/{name}": column for name, column in found.items()}


@torch.no_grad()
def reward_diagnostics(completions: Completions, reward: Reward) -> dict[str, Tensor]:
    """What the reward itself has to say of the responses, such as an ensemble's disagreement, as ``reward/NAME``.

    Where it has baselines, ``improved`` is the share of prompts whose responses now earn more, on average, than their
    own baselines did, judged by the proxy; 0.5 is what the policy that wrote the baselines would get, roughly.
    """
    found = {f"reward/{name}": value for name, value in reward.diagnostics(completions).items()}
    baseline = reward.baseline_mean(completions)
    if baseline is None:
        return found
    gain = from_all((reward.proxy(completions).sum(1) - baseline)[: completions.counted])
    prompts = listed_from_all([record.prompt_hash for record in completions.records[: completions.counted]])
    return found | {"improved": _improved(gain, prompts)}


def _improved(gain: Tensor, prompts: list[str]) -> Tensor:
    """Share of prompts whose mean gain is above 0; several rows ``(N,)`` may answer one prompt."""
    numbers: dict[str, int] = {}
    prompt = [numbers.setdefault(name, len(numbers)) for name in prompts]
    index = torch.tensor(prompt, device=gain.device)
    return (gain.new_zeros(len(numbers)).index_add(0, index, gain) > 0).float().mean()


@torch.no_grad()
def example_rows(
    completions: Completions,
    reward: Reward,
    judge: Reward | None,
    n: int = 4,
    trajectory: Trajectory | None = None,
    renderer: Renderer | None = None,
) -> list[dict[str, Any]]:
    """The first few completions as people read them: texts, whether cut off, proxy reward, baseline mean, true reward.

    Args:
        completions: Sampled responses; what rewards remember of them is not computed again.
        reward: What the policy is trained for.
        judge: The true reward, where known.
        n: How many.
        trajectory: With a renderer, adds lists for heat-maps, one entry per token: ``tokens``, ``special`` (whether it
            is a special token), ``token_rewards`` (what was trained on, before the KL penalty) and
            ``token_advantages``.
        renderer: Shows responses with their special tokens, the end of the turn among them.
    """
    columns = {"proxy_reward": reward.proxy(completions).sum(1), "baseline_mean": reward.baseline_mean(completions)}
    if judge is not None:
        columns["gold_reward"] = judge(completions).sum(1)
    lists: dict[str, list[Any]] = {"truncated": completions.truncated[:n].tolist()}
    lists |= {name: [None] * n if x is None else x[:n].tolist() for name, x in columns.items()}
    texts = completions.texts[:n]
    if renderer is not None:
        tokens = token_texts(completions, renderer, n)
        texts = ["".join(row) for row in tokens]
        if trajectory is not None and trajectory.advantages is not None:
            lists |= {"tokens": tokens, "special": special_tokens(completions, renderer, n)}
            for name, values in (("token_rewards", trajectory.rewards), ("token_advantages", trajectory.advantages)):
                rows = zip(values[:n].tolist(), tokens, strict=True)
                lists[name] = [[round(value, 6) for value in row[: len(cells)]] for row, cells in rows]
    return [
        {"prompt": record.prompt[-1].content, "response": text, **{name: each[i] for name, each in lists.items()}}
        for i, (record, text) in enumerate(zip(completions.records[:n], texts, strict=True))
    ]


def token_texts(completions: Completions, renderer: Renderer, n: int | None = None) -> list[list[str]]:
    """The text that each token adds to its response; special tokens, such as the one that ends a turn, are their names.

    Without these, and what stands behind the end, a row's entries join to that response. All but the last of the
    tokens that make up one character have no text of their own.

    Args:
        completions: Sampled responses.
        renderer: The way from their ids to text.
        n: How many rows; None takes all.
    """
    rows, special = [], _special_ids(renderer)
    for ids in completions.sequences[:n].response_lists():
        ended = accumulate((token in renderer.end_ids for token in ids), max)
        named = [token in special or over for token, over in zip(ids, ended, strict=True)]
        cells = zip(ids, cut_into_tokens(ids, renderer), named, strict=True)
        rows.append([text + renderer.tokenizer.decode([token]) if name else text for token, text, name in cells])
    return rows


def special_tokens(completions: Completions, renderer: Renderer, n: int | None = None) -> list[list[bool]]:
    """Whether each token of each response is a special one, which no text of a response contains.

    Args:
        completions: Sampled responses.
        renderer: The way from their ids to text.
        n: How many rows; None takes all.
    """
    special = _special_ids(renderer)
    return [[token in special for token in ids] for ids in completions.sequences[:n].response_lists()]


def _special_ids(renderer: Renderer) -> set[int]:
    """Tokens that decoding leaves out, and those that end a response."""
    tokenizer = renderer.tokenizer
    added = {token for token, what in tokenizer.added_tokens_decoder.items() if what.special}
    return added.union(tokenizer.all_special_ids, renderer.end_ids)


@torch.no_grad()
def trajectory_metrics(trajectory: Trajectory) -> dict[str, Tensor]:
    """KL to the reference, entropy, spread of the trained reward, and how good the critic is, where there is one.

    - ``kl``: mean over the responses, in nats per response, and its root ``sqrt_kl``, the axis on which rewards are
      compared (Gao et al. 2023, arXiv 2210.10760; Bai et al. 2022, arXiv 2204.05862).
    - ``kl_max`` and ``kl_token_max``: the largest of a response and of a token.
    - ``kl_spikes``: share of responses whose KL is more than `KL_SPIKE` times the mean size of a response's.
    - ``trained_reward`` with standard deviation and variance over the responses: after all wrappers, before the KL
      penalty.
    - ``token_reward_abs``: mean size of a token's reward.
    - ``advantage_std``: standard deviation of the tokens' advantages before whitening, which would make it 1. Without a
      critic it is that of the returns, which leaves out what is compared with.
    - ``value_mean`` and ``explained_variance``: 1 for a perfect critic, 0 for one that says the same of every state.
    """
    mask, total, kl = trajectory.mask, trajectory.rewards.sum(1), trajectory.kl
    assert trajectory.returns is not None
    per_response, returns = kl.sum(1), trajectory.returns[mask]
    metrics = {
        "kl": per_response.mean(),
        "sqrt_kl": per_response.mean().clamp(min=0).sqrt(),
        "kl_max": per_response.max(),
        "kl_token_max": kl[mask].max(),
        "kl_spikes": (per_response > KL_SPIKE * per_response.abs().mean()).float().mean(),
        "entropy": -masked_mean(trajectory.logprobs, mask),
        "trained_reward": total.mean(),
        "trained_reward_std": total.std(unbiased=False),
        "trained_reward_variance": total.var(unbiased=False),
        "token_reward_abs": masked_mean(trajectory.rewards.abs(), mask),
    }
    if trajectory.values is None:
        return metrics | {"advantage_std": returns.std(unbiased=False)}
    values = trajectory.values[mask]
    missed, variance = (returns - values).var(unbiased=False), returns.var(unbiased=False)
    return metrics | {
        "advantage_std": missed.sqrt(),
        "value_mean": values.mean(),
        "explained_variance": 1 - missed / variance.clamp(min=1e-8),
    }
