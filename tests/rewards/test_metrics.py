import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.rewards.metrics import Moments, PairwiseAccuracy, wilson_interval

values = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), min_size=1, max_size=30)
cuts = st.lists(st.integers(0, 30), max_size=4)


def ragged(numbers: list[float], cuts: list[int]) -> list[torch.Tensor]:
    """The numbers in batches of different sizes, some of them empty."""
    bounds = [0, *sorted(min(cut, len(numbers)) for cut in cuts), len(numbers)]
    return [torch.tensor(numbers[a:b]) for a, b in pairwise(bounds)]


@given(values, cuts)
def test_accuracy_over_ragged_batches_is_the_share_over_all_pairs(differences, cuts):
    metric = PairwiseAccuracy()
    for batch in ragged(differences, cuts):
        metric.update(batch)
    wins = sum(1.0 if each > 0 else 0.5 if each == 0 else 0.0 for each in differences)
    assert metric.compute()["share"] == pytest.approx(wins / len(differences))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@given(values, cuts)
def test_states_of_several_processes_add_up(differences, cuts):
    whole, spread = PairwiseAccuracy(), Moments()
    whole.update(torch.tensor(differences))
    spread.update(torch.tensor(differences))
    merged, merged_spread = PairwiseAccuracy(), Moments()
    for batch in ragged(differences, cuts):
        rank, rank_spread = PairwiseAccuracy(), Moments()
        rank.update(batch)
        rank_spread.update(batch)
        merged.merge_state(rank)
        merged_spread.merge_state(rank_spread)
    assert merged.compute() == whole.compute()
    for name, value in spread.compute().items():
        assert merged_spread.compute()[name].item() == pytest.approx(value.item(), abs=1e-12)


def test_accuracy_counts_millions_of_pairs_exactly():
    metric = PairwiseAccuracy()
    for _ in range(3):
        metric.update(torch.ones(2**23 + 1))
    assert float(metric.correct) == 3 * (2**23 + 1)  # float32 counts by twos up there


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_counted_is_nan_and_not_zero():
    empty = PairwiseAccuracy().compute()
    assert empty["n"] == 0
    assert all(math.isnan(empty[name]) for name in ("share", "low", "high"))


def test_reset_forgets_everything():
    metric = PairwiseAccuracy()
    metric.update(torch.ones(3))
    metric.reset()
    metric.update(-torch.ones(1))
    assert metric.compute()["share"] == 0


@given(st.integers(1, 400), st.floats(0, 1))
def test_wilson_bounds_are_where_the_score_test_just_rejects(total, share):
    successes = round(share * total)
    z = 1.959964
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total + 1e-12
    assert successes / total - 1e-12 <= high <= 1
    for p in (low, high):
        # (p̂ − p)² = z² p (1 − p) / n; at the very edges the bound is cut to [0, 1] and the test is 0 = 0.
        assert (successes / total - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / total, abs=1e-9)


def test_wilson_covers_the_true_share_nearly_always():
    n = 60
    shares = [i / 200 for i in range(10, 191)]
    covered = []
    for p in shares:
        chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        inside = [low <= p <= high for low, high in (wilson_interval(k, n) for k in range(n + 1))]
        covered.append(sum(chance for chance, hit in zip(chances, inside, strict=True) if hit))
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.90


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), cuts)
def test_moments_equal_those_of_all_values_together(numbers, cuts):
    metric = Moments()
    for batch in ragged(numbers, cuts):
        metric.update(batch)
    moments, together = metric.compute(), torch.tensor(numbers, dtype=torch.float64)
    assert moments["mean"].item() == pytest.approx(together.mean().item(), abs=1e-9)
    assert moments["std"].item() == pytest.approx(together.std(unbiased=False).item(), abs=1e-4)
    assert moments["n"] == len(numbers)


def test_moments_take_values_of_any_shape_and_precision():
    metric = Moments()
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    metric.update(scores)
    assert metric.compute()["std"].item() == pytest.approx(scores.double().std(unbiased=False).item(), abs=1e-9)
    assert metric.compute()["n"] == 20
