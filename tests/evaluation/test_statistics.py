import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.evaluation.statistics import area_under_roc, bootstrap_interval


def test_the_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truth, hits, runs = 1.0, 0, 400
    for _ in range(runs):
        low, high = bootstrap_interval(generator.exponential(truth, 100), draws=400)
        assert low < high
        hits += low <= truth <= high
    assert 0.91 <= hits / runs <= 0.975


def test_the_bootstrap_interval_narrows_with_the_root_of_the_number():
    generator = np.random.default_rng(1)
    few, many = (np.subtract(*bootstrap_interval(generator.normal(size=n))[::-1]) for n in (100, 1600))
    assert few / many == pytest.approx(4, rel=0.2)
    assert few == pytest.approx(2 * 1.96 / 10, rel=0.15)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_under_the_curve_is_the_share_of_ordered_couples(entries):
    good = [score for score, positive in entries if positive]
    bad = [score for score, positive in entries if not positive]
    found = area_under_roc(np.array([s for s, _ in entries], dtype=float), np.array([p for _, p in entries]))
    if not good or not bad:
        assert np.isnan(found)
    else:
        couples = [(a > b) + 0.5 * (a == b) for a in good for b in bad]
        assert found == pytest.approx(np.mean(couples))
