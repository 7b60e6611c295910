import random

import numpy as np
import pytest

from lit_rlhf.data.records import Message
from lit_rlhf.evaluation.benchmark_figures import counted_figures
from lit_rlhf.evaluation.benchmark_official import official_figures
from lit_rlhf.evaluation.benchmark_sections import REWARD_BENCH
from lit_rlhf.evaluation.benchmarks import Benchmark, BenchmarkFormat, Item

ASKED = (Message("user", "Hi"),)
SUBSETS = [name for names in REWARD_BENCH.sections.values() for name in names]
PAIR, STYLED, FOUR = (1, 0), (1, 1, 1, 0, 0, 0), (1, 0, 0, 0)


def benchmark(format: BenchmarkFormat, rows: list[tuple]) -> Benchmark:
    """Rows of (subset, gold) or (subset, gold, id)."""
    items = [Item(ASKED, ("x",) * len(gold), tuple(map(float, gold)), name, "", *rest) for name, gold, *rest in rows]
    return Benchmark("test", "test.jsonl", format, items)


def coarse(generator: random.Random, n: int) -> list[float]:
    return [float(generator.randint(0, 3)) for _ in range(n)]


@pytest.fixture
def generator() -> random.Random:
    return random.Random(0)


def test_reward_bench_by_brute_force(generator):
    names = [name for name in SUBSETS for _ in range(generator.randint(1, 5))]
    scores = [coarse(generator, 2) for _ in names]
    found = counted_figures(benchmark("reward-bench", [(name, PAIR) for name in names]), scores)
    for way, tie in (("official", 0.0), ("ours", 0.5)):
        accuracy = {}
        for name in SUBSETS:
            wins = [a > b or tie * (a == b) for (a, b), of in zip(scores, names, strict=True) if of == name]
            accuracy[name] = sum(wins) / len(wins)
        sections = []
        for section, members in REWARD_BENCH.sections.items():
            sizes = [984 if name == "math-prm" else REWARD_BENCH.rows[name] for name in members]
            sections.append(np.average([accuracy[name] for name in members], weights=sizes))
            each = found[way]["sections"][section]
            assert each["score" if way == "official" else "share"] == pytest.approx(sections[-1])
        score = found[way]["score"]
        assert (score if way == "official" else score["share"]) == pytest.approx(np.mean(sections))
    assert found["official"]["score"] != pytest.approx(found["ours"]["score"]["share"])
    assert found["official"]["benchmark"] == "RewardBench"


def test_the_readme_example_of_its_authors():
    """Accuracies of a real model, and sections worked out by hand from the published weights."""
    chat = {"alpacaeval-easy": 50, "alpacaeval-hard": 67, "alpacaeval-length": 56, "mt-bench-easy": 16}
    chat["mt-bench-med"] = 29
    rows, scores = [], []
    for name, right in chat.items():
        for place in range(REWARD_BENCH.rows[name]):
            rows.append((name, PAIR))
            scores.append((1.0, 0.0) if place < right else (0.0, 1.0))
    found = official_figures(benchmark("reward-bench", rows), scores)
    assert found is not None
    assert found["subsets"]["alpacaeval-hard"]["score"] == pytest.approx(0.7052631578947368)
    assert found["sections"]["Chat"]["score"] == pytest.approx((50 + 67 + 56 + 16 + 29) / 358)
    assert found["sections"]["Chat"]["missing"] == []


def test_a_partial_benchmark_says_what_it_lacks():
    rows = [("hep-go", PAIR)] * 164 + [("donotanswer", PAIR)] * 3 + [("mine", PAIR)]
    scores = [(1.0, 0.0)] * 166 + [None, (1.0, 0.0)]
    found = official_figures(benchmark("reward-bench", rows), scores)
    assert found is not None
    assert found["partial"]
    assert len(found["missing"]) == 21
    assert "math-prm" in found["sections"]["Reasoning"]["missing"]
    assert found["sections"]["Chat"] == {"score": None, "n": 0, "missing": list(REWARD_BENCH.sections["Chat"])}
    assert found["incomplete"] == {"donotanswer": {"rows": 2, "of": 136}}
    assert (found["over_length"], found["other_subsets"]) == (1, ["mine"])
    assert found["score"] == 1.0  # of the sections that are there


def test_a_whole_benchmark_is_not_partial():
    rows = [(name, PAIR) for name, count in REWARD_BENCH.rows.items() for _ in range(count)]
    found = official_figures(benchmark("reward-bench", rows), [(1.0, 0.0)] * len(rows))
    assert found is not None
    assert (found["score"], found["partial"], found["missing"], found["incomplete"]) == (1.0, False, [], {})


def test_prior_sets_have_half_a_sections_weight():
    rows = [(names[0], PAIR) for names in REWARD_BENCH.sections.values()] + [("shp", PAIR), ("summarize", PAIR)]
    scores = [(1.0, 0.0)] * 3 + [(0.0, 1.0), (1.0, 0.0), (0.0, 1.0)]
    found = official_figures(benchmark("reward-bench", rows), scores)
    assert found is not None
    assert (found["score"], found["prior_sets"]) == (0.75, 0.5)
    assert found["score_with_prior_sets"] == pytest.approx((2 + 2 + 2 + 0 + 0.5) / 9)
    assert found["other_subsets"] == ["shp", "summarize"]


def test_rm_bench_by_brute_force(generator):
    names = ["chat"] * 7 + ["math"] * 5 + ["code"] * 3 + ["safety-refuse"] * 9 + ["safety-response"] * 2
    scores = [coarse(generator, 6) for _ in names]
    found = official_figures(benchmark("rm-bench", [(name, STYLED) for name in names]), scores)
    assert found is not None
    parts = {name: [] for name in ("easy", "normal", "hard", "score")}
    for domain in ("chat", "math", "code", "safety"):
        rows = [row for row, name in zip(scores, names, strict=True) if name.startswith(domain)]
        cells = {(i, j): np.mean([row[i] > row[3 + j] for row in rows]) for i in range(3) for j in range(3)}
        expected = {
            "easy": np.mean([cells[i, j] for i, j in cells if i > j]),
            "normal": np.mean([cells[i, i] for i in range(3)]),
            "hard": np.mean([cells[i, j] for i, j in cells if i < j]),
        }
        expected["score"] = np.mean(list(expected.values()))
        for name, value in expected.items():
            assert found["sections"][domain][name] == pytest.approx(value)
            parts[name].append(value)
    assert {name: found[name] for name in parts} == pytest.approx({n: np.mean(v) for n, v in parts.items()})
    assert (found["partial"], found["missing"]) == (False, [])


def test_best_of_four_and_ties_that_share():
    rows = [("Math", FOUR)] * 4 + [("Focus", FOUR)]
    scores = [
        (2.0, 1.0, 2.0, 0.0),
        (1.0, 1.0, 1.0, 1.0),
        (0.0, 1.0, 1.0, 0.0),
        (3.0, 1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0),
    ]
    found = official_figures(benchmark("best-of-n", rows), scores)
    assert found is not None
    assert found["subsets"]["Math"]["score"] == pytest.approx((1 / 2 + 1 / 4 + 0 + 1) / 4)
    assert found["score"] == pytest.approx((0.4375 + 1) / 2)
    assert found["missing"] == ["Factuality", "Precise IF", "Safety", "Ties"]


def test_rows_of_ties_are_not_counted_by_best_of_n():
    rows = [("Ties", (1, 0, 0), "ref:0"), ("Ties", (1, 1, 0), "tied:0"), ("Math", FOUR, "5")]
    scores = [(1.0, 0.0, 0.0), (3.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0)]
    found = counted_figures(benchmark("best-of-n", rows), scores)
    ties = found["official"]["ties"]
    assert (ties["ref_accuracy"], ties["tied_accuracy"], ties["correctness_preferred"]) == (1, 0, 0)
    assert found["official"]["sections"]["Ties"]["score"] == pytest.approx(0.3 + 0.01 * np.tanh(-1 / 3 - 1))
    assert found["official"]["score"] == pytest.approx((ties["score"] + 1) / 2)
    assert found["subsets"]["Ties"]["share"] == 0.5  # the tied one's top answer is right, but not all are
    assert found["subsets"]["Ties"]["chance"] == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_ties_without_ids_have_no_official_score_and_say_why():
    found = official_figures(benchmark("best-of-n", [("Ties", (1, 1, 0)), ("Math", FOUR)]), [(1, 1, 0), (1, 0, 0, 0)])
    assert found is not None
    assert found["subsets"]["Ties"]["score"] is None
    assert "ref:N or tied:N" in found["ties"]["reason"]
    assert found["score"] is None


def test_judge_bench_is_over_all_rows(generator):
    names = ["mmlu-pro-law"] * 5 + ["mmlu-pro-math"] * 3 + ["livebench-math"] * 9
    scores = [coarse(generator, 2) for _ in names]
    found = official_figures(benchmark("reward-bench", [(name, PAIR) for name in names]), scores)
    assert found is not None
    assert found["benchmark"] == "JudgeBench"
    assert found["score"] == pytest.approx(np.mean([a > b for a, b in scores]))
    assert found["sections"]["Knowledge"]["score"] == pytest.approx(np.mean([a > b for a, b in scores[:8]]))


def test_other_rows_have_no_official_figures():
    assert official_figures(benchmark("reward-bench", [("mine", PAIR)]), [(1.0, 0.0)]) is None
    assert official_figures(benchmark("best-of-n", [("Math", (0.5, 2, 1))]), [(1.0, 0.0, 0.0)]) is None
    assert official_figures(benchmark("best-of-n", [("all", FOUR)]), [(1.0, 0.0, 0.0, 0.0)]) is None


def test_nothing_counted_is_null_everywhere():
    found = counted_figures(benchmark("reward-bench", [("hep-go", PAIR)]), [None])
    assert (found["official"]["score"], found["ours"]["score"]["share"]) == (None, None)
    ties = counted_figures(benchmark("best-of-n", [("Ties", (1, 0), "ref:0")]), [None])
    assert ties["official"]["score"] is None
