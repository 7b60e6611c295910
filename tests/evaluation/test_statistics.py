import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.evaluation.statistics import area_under_roc, bootstrap_interval, sign_test, student_interval


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


def test_with_five_seeds_the_bootstrap_covers_far_less_than_it_says_and_students_interval_does_not():
    """Why a bootstrap's interval alone decides nothing."""
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(1500, 5))
    boot = [bootstrap_interval(values, draws=1000) for values in samples]
    student = [student_interval(values) for values in samples]
    assert 0.80 < np.mean([low <= 0 <= high for low, high in boot]) < 0.87
    assert 0.935 < np.mean([low <= 0 <= high for low, high in student]) < 0.965


def test_the_sign_test_is_that_of_fair_coins():
    generator = np.random.default_rng(2)
    heads = generator.integers(0, 2, (40_000, 7)).sum(1)
    for n in range(8):
        values = np.array([1.0] * n + [-1.0] * (7 - n))
        assert sign_test(values, low=0.0) == pytest.approx(np.mean(heads >= n), abs=0.01)
        assert sign_test(values, low=0.0, inside=False) == pytest.approx(np.mean(heads <= n), abs=0.01)
        assert sign_test(values, high=0.0) == sign_test(-values, low=0.0)
    assert sign_test(np.ones(5), low=0.0) == pytest.approx(1 / 32)


def test_the_sign_test_leaves_out_values_at_the_bound():
    values = np.array([0.1, 0.2, 0.3, 0.0])
    assert sign_test(values, low=0.0) == sign_test(values[:3], low=0.0) == 0.125


def test_of_two_bounds_both_must_be_kept_inside_and_one_be_passed_outside():
    values = np.array([0.1, 0.2, 0.3, 0.25, -0.2])
    kept, passed = sign_test(values, low=-0.1, high=0.15), sign_test(values, low=-0.1, high=0.15, inside=False)
    assert kept == max(sign_test(values, low=-0.1), sign_test(values, high=0.15))
    assert passed == min(sign_test(values, low=-0.1, inside=False), sign_test(values, high=0.15, inside=False))
    assert passed < kept
    none = sign_test(values, low=-np.inf, high=0.15)
    assert none == sign_test(values, high=0.15)
    assert sign_test(values) is None
    assert sign_test(np.zeros(3), low=0.0) is None
    assert sign_test(np.array([]), low=0.0) is None
