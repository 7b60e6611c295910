import random
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.functional import contrastive_reward, seq2seq_token_rewards

REDUCTIONS = ("mean", "median", "max", "quantile")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Contrastive rewards


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_reductions_equal_those_of_plain_python(k):
    reward, baselines = normal(6, seed=1), normal(6, k, seed=2)
    rows = baselines.tolist()
    for reduce, plain in {"mean": statistics.mean, "median": statistics.median, "max": max}.items():
        expected = reward - torch.tensor([plain(row) for row in rows], dtype=torch.float64)
        torch.testing.assert_close(contrastive_reward(reward, baselines, reduce), expected)


def test_quantiles_run_from_minimum_over_median_to_maximum():
    reward, baselines = normal(6, seed=1), normal(6, 4, seed=2)

    def at(q: float) -> torch.Tensor:
        return contrastive_reward(reward, baselines, "quantile", quantile=q)

    torch.testing.assert_close(at(0.0), reward - baselines.amin(dim=1))
    torch.testing.assert_close(at(1.0), contrastive_reward(reward, baselines, "max"))
    torch.testing.assert_close(at(0.5), contrastive_reward(reward, baselines, "median"))
    second, third = baselines.sort(dim=1).values[:, 1:3].T
    torch.testing.assert_close(at(0.4), reward - (second + 0.2 * (third - second)))  # 0.4 · (k − 1) = 1.2


def test_a_prompts_own_baselines_average_to_zero():
    baselines = normal(9, 5, seed=1)
    relative = torch.stack([contrastive_reward(baselines[:, j], baselines) for j in range(5)], dim=1)  # (B, k)
    torch.testing.assert_close(relative.mean(dim=1), torch.zeros(9, dtype=torch.float64))
    assert relative.abs().max() > 0.1


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_any_bias_of_the_prompt_cancels(reduce):
    reward, baselines, bias = normal(9, seed=1), normal(9, 4, seed=2), 100 * normal(9, seed=3)
    expected = contrastive_reward(reward, baselines, reduce, quantile=0.3)
    biased = contrastive_reward(reward + bias, baselines + bias[:, None], reduce, quantile=0.3)
    torch.testing.assert_close(biased, expected)


def test_label_flips_shrink_the_reward_by_one_minus_both_rates():
    flip_bad, flip_good, k, samples = 0.15, 0.25, 5, 100_000  # c0: bad read as good, c1: good read as bad
    generator = torch.Generator().manual_seed(0)

    def noisy_labels(share_good: float, *shape: int) -> torch.Tensor:
        good = torch.rand(*shape, generator=generator) < share_good
        flipped = torch.rand(*shape, generator=generator) < torch.where(good, flip_good, flip_bad)
        return (good ^ flipped).float()

    for policy, baseline in ((0.9, 0.5), (0.3, 0.6), (0.5, 0.5)):
        relative = contrastive_reward(noisy_labels(policy, samples), noisy_labels(baseline, samples, k))
        assert relative.mean().item() == pytest.approx((1 - flip_bad - flip_good) * (policy - baseline), abs=0.008)


@pytest.mark.parametrize(("between", "within", "k"), [(2.0, 1.0, 5), (0.3, 1.0, 5), (1.0, 2.0, 1)])
def test_variance_changes_by_the_predicted_ratio(between, within, k):
    prompts = 200_000
    bias = between * normal(prompts, 1, seed=1)
    reward, baselines = bias[:, 0] + within * normal(prompts, seed=2), bias + within * normal(prompts, k, seed=3)
    ratio = contrastive_reward(reward, baselines).var() / reward.var()
    assert ratio.item() == pytest.approx(within**2 * (1 + 1 / k) / (between**2 + within**2), rel=0.02)
    assert (ratio < 1) == (between**2 > within**2 / k)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_a_prompt_without_usable_baselines_is_named_in_the_error(bad, reduce):
    baselines = normal(20, 3)
    baselines[4, 1] = baselines[17] = bad
    with pytest.raises(ValueError, match="rows 4, 17"):
        contrastive_reward(normal(20), baselines, reduce)
    with pytest.raises(ValueError, match="rows 0, 1, 2, 3, 4, 5, 6, 7, …"):
        contrastive_reward(normal(20), torch.full((20, 3), bad), reduce)


# Token rewards of a sequence-to-sequence model


class TableModel:
    """Next token as a fixed pseudo-random function of the whole prefix, biased so that responses often agree."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.vocabulary, self.seed = vocabulary, seed

    def next_token(self, prefix: tuple[int, ...]) -> int:
        return random.Random(str((self.seed, prefix))).choice([0, 0, *range(self.vocabulary)])


def two_phase_rewards(model: TableModel, response: list[int], positive: float, negative: float) -> list[float]:
    """The procedure in two phases: generate freely until the response diverges, then feed the response by hand."""
    generated: tuple[int, ...] = ()
    rewards: list[float] = []
    for token in response:
        generated = (*generated, model.next_token(generated))
        if generated[-1] != token:
            break
        rewards.append(positive)
    for t in range(len(rewards), len(response)):
        rewards.append(0.0 if model.next_token(tuple(response[:t])) == response[t] else negative)
    return rewards


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.booleans(), st.integers(0, 10**6))
def test_one_teacher_forced_pass_equals_the_two_phase_procedure(rows, length, normalize, seed):
    rng, model = random.Random(seed), TableModel(3, seed)
    responses = [[rng.choice([0, 0, 1, 2]) for _ in range(rng.randint(0, length))] for _ in range(rows)]
    response, prediction = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length, dtype=torch.long)
    expected, mask = torch.zeros(rows, length), torch.zeros(rows, length, dtype=torch.bool)
    for i, tokens in enumerate(responses):
        for t, reward in enumerate(two_phase_rewards(model, tokens, 2.0, -0.5)):
            response[i, t], mask[i, t] = tokens[t], True
            prediction[i, t] = model.next_token(tuple(tokens[:t]))
            expected[i, t] = reward / len(tokens) if normalize else reward
    torch.testing.assert_close(seq2seq_token_rewards(response, prediction, mask, 2.0, -0.5, normalize), expected)


def test_a_worked_example():
    response = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]])
    prediction = torch.tensor([[5, 6, 1, 8, 2], [5, 6, 3, 3, 3]])
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    raw = seq2seq_token_rewards(response, prediction, mask, normalize=False)
    assert raw.tolist() == [[1, 1, -1, 0, -1], [1, 1, 0, 0, 0]]
    scaled = seq2seq_token_rewards(response, prediction, mask)
    torch.testing.assert_close(scaled, raw / torch.tensor([[5.0], [2.0]]))


def test_padding_is_skipped_wherever_it_stands():
    generator = torch.Generator().manual_seed(3)
    response = torch.randint(3, (20, 9), generator=generator)
    mask = torch.rand(20, 9, generator=generator) < torch.linspace(1, 0, 20)[:, None]  # the last row is empty
    agrees = torch.rand(20, 9, generator=generator) < 0.8
    prediction = torch.where(agrees & mask, response, response + 1)
    rewards = seq2seq_token_rewards(response, prediction, mask)
    for i, real in enumerate(mask):
        alone = seq2seq_token_rewards(response[i : i + 1, real], prediction[i : i + 1, real], mask[i : i + 1, real])
        assert torch.equal(rewards[i, real], alone[0])
    assert (rewards[~mask] == 0).all()
