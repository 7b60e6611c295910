import itertools
import random
from math import comb

import numpy as np
import pytest

from lit_rlhf.evaluation.benchmark_comparison import comparison_targets, holm, paired_difference
from lit_rlhf.evaluation.benchmark_sections import REWARD_BENCH


def by_all_signs(terms: list[float]) -> float:
    """Two-sided p of a sum of terms by trying every combination of signs."""
    reached = abs(sum(terms)) - 1e-9
    signs = list(itertools.product((-1, 1), repeat=len(terms)))
    return sum(abs(sum(s * t for s, t in zip(each, terms, strict=True))) >= reached for each in signs) / len(signs)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_counts_and_difference():
    found = paired_difference({"a": column(1, 1, 0, 0.5)}, {"a": column(0, 1, 1, 0)}, {"a": 1.0})
    assert found["difference"] == pytest.approx(0.125)
    assert [found[name] for name in ("n", "first_better", "second_better", "equal")] == [4, 2, 1, 1]


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (6, 0), (3, 3), (9, 2), (2, 9)])
def test_rows_that_are_right_or_wrong_get_mcnemars_exact_test(better, worse):
    first = column(*[1] * better, *[0] * worse, *[1] * 5)
    second = column(*[0] * better, *[1] * worse, *[1] * 5)
    found = paired_difference({"a": first}, {"a": second}, {"a": 1.0})
    n, k = better + worse, max(better, worse)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k, n + 1)) / 2**n)
    assert (found["p"], found["test"]) == (pytest.approx(expected), "exact McNemar")
    assert found["p"] == pytest.approx(by_all_signs([1.0] * better + [-1.0] * worse))


@pytest.mark.parametrize("seed", range(5))
def test_other_rows_and_weighted_subsets_get_random_signs(seed):
    generator = random.Random(seed)
    draw = lambda n: column(*(generator.choice([0, 0.5, 1]) for _ in range(n)))  # noqa: E731
    first, second = ({"a": draw(6), "b": draw(4), "c": draw(2)} for _ in range(2))
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    terms = [t for n, w in weights.items() for t in w / len(first[n]) * (first[n] - second[n])]
    found = paired_difference(first, second, weights)
    assert found["difference"] == pytest.approx(sum(terms))
    assert found["p"] == pytest.approx(by_all_signs([t for t in terms if t]), abs=0.01)
    assert paired_difference(first, second, weights) == found  # the same draws


def test_the_interval_is_the_paired_bootstraps():
    generator = np.random.default_rng(0)
    first = {name: generator.integers(0, 2, n) / 1.0 for name, n in (("a", 300), ("b", 150))}
    second = {name: generator.integers(0, 2, len(each)) / 1.0 for name, each in first.items()}
    weights = {"a": 0.25, "b": 0.75}
    found = paired_difference(first, second, weights)
    drawn = []
    for _ in range(2000):
        total = 0.0
        for name, weight in weights.items():
            places = generator.integers(0, len(first[name]), len(first[name]))
            total += weight * (first[name][places].mean() - second[name][places].mean())
        drawn.append(total)
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)
    swapped = paired_difference(second, first, weights)
    assert [swapped["difference"], swapped["p"]] == pytest.approx([-found["difference"], found["p"]])


def test_without_a_difference_p_is_even():
    """Two models that are as good as one another have p < .05 in at most about one of twenty tests."""
    generator = np.random.default_rng(1)
    ps = [
        paired_difference(
            {"a": generator.integers(0, 2, 80) / 1.0}, {"a": generator.integers(0, 2, 80) / 1.0}, {"a": 1.0}
        )["p"]
        for _ in range(300)
    ]
    assert np.mean(np.array(ps) < 0.05) < 0.08
    assert 0.4 < np.mean(ps) < 0.65


def test_holm_by_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_each_figure_is_compared_once():
    names = lambda format, rows: [(each.name, each.kind) for each in comparison_targets(format, rows)]  # noqa: E731
    assert names("reward-bench", {"all": 7}) == [("all rows", "all rows")]
    assert names("reward-bench", {"x": 7, "y": 1}) == [("all rows", "all rows"), ("x", "subset"), ("y", "subset")]
    found = names("rm-bench", {"chat": 5, "safety-refuse": 2, "safety-response": 3})
    assert found == [
        ("score", "score"), ("all rows", "all rows"), ("chat", "section"), ("safety", "section"),
        ("safety-refuse", "subset"), ("safety-response", "subset"),
    ]  # fmt: skip
    every = comparison_targets("reward-bench", REWARD_BENCH.rows)
    assert len(every) == 1 + 1 + 4 + 23
    assert all(sum(each.weights.values()) == pytest.approx(1) for each in every)
