import random
from dataclasses import replace

import numpy as np
import pytest

from lit_rlhf.data.records import Message
from lit_rlhf.evaluation.benchmark_figures import benchmark_figures
from lit_rlhf.evaluation.benchmarks import Benchmark, BenchmarkFormat, Item
from lit_rlhf.rewards.metrics import wilson_interval

ASKED = (Message("user", "Hi"),)
SIZES = {"small": 7, "large": 40, "middle": 13}


def benchmark(format: BenchmarkFormat, golds, subsets=None) -> Benchmark:
    names = subsets or [name for name, size in SIZES.items() for _ in range(size)]
    items = [
        Item(ASKED, tuple(map(str, range(len(gold)))), tuple(gold), name)
        for gold, name in zip(golds, names, strict=True)
    ]
    return Benchmark("test", "test.jsonl", format, items)


def coarse(generator: random.Random, n: int) -> list[float]:
    """Scores of which many are equal."""
    return [float(generator.randint(0, 3)) for _ in range(n)]


@pytest.fixture
def generator() -> random.Random:
    return random.Random(0)


def check(share: dict, successes: float, total: int) -> None:
    low, high = wilson_interval(successes, total)
    assert share["n"] == total
    assert [share[name] for name in ("share", "low", "high")] == pytest.approx([successes / total, low, high])


def test_pairs_by_subset_and_over_all_rows(generator):
    scores = [coarse(generator, 2) for _ in range(60)]
    figures = benchmark_figures(benchmark("reward-bench", [(1, 0)] * 60), scores)
    right = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in scores]
    assert 0.5 in right
    parts = {"small": right[:7], "large": right[7:47], "middle": right[47:]}
    assert list(figures["subsets"]) == list(parts)
    for name, part in parts.items():
        check(figures["subsets"][name], sum(part), len(part))
    check(figures["overall"], sum(right), 60)
    mean = figures["mean_over_subsets"]
    assert mean["share"] == pytest.approx(np.mean([np.mean(part) for part in parts.values()]))
    assert mean["share"] != pytest.approx(figures["overall"]["share"])
    assert (mean["n"], figures["rows"], figures["over_length"]) == (60, 60, 0)


def test_the_interval_of_the_mean_is_wilsons_at_the_effective_number_of_rows(generator):
    scores = [[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10 + [[1.0, 0.0]] * 80
    equal = benchmark_figures(benchmark("reward-bench", [(1, 0)] * 100, ["a", "b"] * 50), scores)
    check(equal["mean_over_subsets"], 90, 100)  # of equal sizes: as many as there are
    unequal = benchmark_figures(benchmark("reward-bench", [(1, 0)] * 100, ["a"] * 20 + ["b"] * 80), scores)
    mean = unequal["mean_over_subsets"]
    assert mean["share"] == 0.75
    assert (mean["low"], mean["high"]) == pytest.approx(wilson_interval(0.75 * 64, 64))  # 4 / (1/20 + 1/80)


def test_style_matrix_by_brute_force(generator):
    scores = [coarse(generator, 6) for _ in range(60)]
    figures = benchmark_figures(benchmark("rm-bench", [(1, 1, 1, 0, 0, 0)] * 60), scores)
    for name, rows in (("overall", scores), ("large", scores[7:47])):
        found = figures["overall"] if name == "overall" else figures["subsets"][name]
        matrix = np.zeros((3, 3))
        for row in rows:
            for i in range(3):
                for j in range(3):
                    matrix[i, j] += 1.0 if row[i] > row[3 + j] else 0.5 if row[i] == row[3 + j] else 0.0
        for i in range(3):
            for j in range(3):
                check(found["matrix"][i][j], matrix[i, j], len(rows))
        easy, hard = matrix[1, 0] + matrix[2, 0] + matrix[2, 1], matrix[0, 1] + matrix[0, 2] + matrix[1, 2]
        check(found["easy"], easy / 3, len(rows))
        check(found["normal"], np.trace(matrix) / 3, len(rows))
        check(found["hard"], hard / 3, len(rows))
        check(found, matrix.sum() / 9, len(rows))
    cells = [each["matrix"][2][0]["share"] for each in figures["subsets"].values()]
    assert figures["mean_over_subsets"]["matrix"][2][0]["share"] == pytest.approx(np.mean(cells))


def test_the_two_halves_of_safety_count_as_one_domain():
    win, loss = [1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3
    names = ["chat", "safety-refuse", "safety-response", "math"]
    figures = benchmark_figures(benchmark("rm-bench", [(1, 1, 1, 0, 0, 0)] * 4, names), [win, loss, win, win])
    assert figures["mean_over_subsets"]["share"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert figures["mean_over_subsets"]["hard"]["share"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert figures["overall"]["share"] == pytest.approx(3 / 4)


def test_best_of_n_by_brute_force(generator):
    sizes = [generator.randint(2, 6) for _ in range(60)]
    golds, scores = [coarse(generator, n) for n in sizes], [coarse(generator, n) for n in sizes]
    found = benchmark_figures(benchmark("best-of-n", golds), scores)["overall"]
    right = picked = mean = oracle = chance = 0.0
    for gold, given in zip(golds, scores, strict=True):
        top = [i for i, score in enumerate(given) if score == max(given)]
        right += sum(gold[i] == max(gold) for i in top) / len(top)
        picked += sum(gold[i] for i in top) / len(top)
        mean += sum(gold) / len(gold)
        oracle += max(gold)
        chance += gold.count(max(gold)) / len(gold)
    check(found, right, 60)
    names = ("picked", "mean", "oracle", "chance")
    assert [found[name] for name in names] == pytest.approx([each / 60 for each in (picked, mean, oracle, chance)])


def test_with_chosen_and_rejected_lists_ties_at_the_top_share():
    golds = [(1, 0, 0, 0), (1, 1, 0), (1, 0, 0)]
    scores = [(2.0, 1.0, 2.0, 0.0), (0.0, 3.0, 1.0), (0.0, 0.0, 0.0)]
    found = benchmark_figures(benchmark("best-of-n", golds, ["a"] * 3), scores)["overall"]
    check(found, 1 / 2 + 1 + 1 / 3, 3)
    assert found["chance"] == pytest.approx((1 / 4 + 2 / 3 + 1 / 3) / 3)
    assert "picked" not in found  # would only repeat the share


def test_rows_that_are_too_long_are_counted_and_left_out():
    scores = [(1.0, 0.0), None, (0.0, 1.0), None, None]
    figures = benchmark_figures(benchmark("reward-bench", [(1, 0)] * 5, ["a", "a", "a", "b", "b"]), scores)
    assert (figures["rows"], figures["over_length"]) == (5, 3)
    check(figures["overall"], 1, 2)
    assert [each["over_length"] for each in figures["subsets"].values()] == [1, 2]
    assert figures["subsets"]["b"] == {"share": None, "low": None, "high": None, "n": 0, "over_length": 2}
    check(figures["mean_over_subsets"], 1, 2)  # a subset without rows has no share
    nothing = benchmark_figures(benchmark("rm-bench", [(1, 1, 1, 0, 0, 0)], ["a"]), [None])
    assert nothing["overall"]["share"] is None
    assert nothing["mean_over_subsets"]["n"] == 0


def test_the_longest_and_the_shortest_answer_are_counted_as_the_model_is(generator):
    texts = [["x" * generator.randint(0, 3) for _ in range(6)] for _ in range(60)]
    styled = benchmark("rm-bench", [(1, 1, 1, 0, 0, 0)] * 60)
    items = [replace(item, responses=tuple(each)) for item, each in zip(styled.items, texts, strict=True)]
    scores = [coarse(generator, 6) if place % 7 else None for place in range(60)]
    found = benchmark_figures(replace(styled, items=items), scores)["baselines"]
    for name, sign in (("longest", 1.0), ("shortest", -1.0)):
        lengths = [given and [sign * len(text) for text in each] for given, each in zip(scores, texts, strict=True)]
        expected = benchmark_figures(styled, lengths)
        for key in ("overall", "mean_over_subsets", "subsets", "ours", "official"):
            assert found[name][key] == expected[key]
    assert found["longest"]["overall"]["share"] + found["shortest"]["overall"]["share"] == pytest.approx(1)
    assert found["longest"]["overall"]["n"] == 60 - 9
    assert "characters" in found["rule"]


def test_both_ways_of_counting_are_named(generator):
    figures = benchmark_figures(benchmark("reward-bench", [(1, 0)] * 2, ["donotanswer"] * 2), [(1, 1), (1, 0)])
    assert "half" in figures["ours"]["rule"]
    assert "wrong if both score alike" in figures["official"]["rule"]
    assert (figures["subsets"]["donotanswer"]["share"], figures["official"]["score"]) == (0.75, 0.5)
    plain = benchmark_figures(benchmark("reward-bench", [(1, 0)] * 60), [(1, 0)] * 60)
    assert (plain["official"], plain["ours"]) == (None, {"rule": figures["ours"]["rule"]})
