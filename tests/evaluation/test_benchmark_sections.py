import pytest

from lit_rlhf.evaluation.benchmark_sections import (
    JUDGE_BENCH,
    REWARD_BENCH,
    REWARD_BENCH_2,
    RM_BENCH,
    find_rules,
    lay_out,
)

SUBSETS = [name for names in REWARD_BENCH.sections.values() for name in names]


def test_reward_bench_has_23_subsets_with_2985_rows_and_a_weight_each():
    assert len(SUBSETS) == len(set(SUBSETS)) == 23
    assert REWARD_BENCH.rows.keys() == REWARD_BENCH.counts.keys() == set(SUBSETS)
    assert sum(REWARD_BENCH.rows.values()) == 2985
    assert sum(REWARD_BENCH_2.rows.values()) == 1865


def test_in_reasoning_mathematics_weighs_as_much_as_code():
    layout = lay_out(REWARD_BENCH, dict.fromkeys(SUBSETS, 1))
    weights = layout.sections["Reasoning"]
    assert weights["math-prm"] == pytest.approx(0.5)
    assert [weights[name] for name in weights if name != "math-prm"] == pytest.approx([1 / 12] * 6)


def test_weights_are_the_published_sizes_whatever_a_file_holds_and_add_up_to_one():
    rows = {name: 1 + place for place, name in enumerate(SUBSETS)} | {"my-own": 5}
    layout = lay_out(REWARD_BENCH, rows)
    assert layout.sections["Chat"]["mt-bench-easy"] == pytest.approx(28 / (100 + 95 + 95 + 28 + 40))
    assert all(sum(weights.values()) == pytest.approx(1) for weights in [*layout.sections.values(), layout.score])
    assert layout.score["donotanswer"] == pytest.approx(136 / (100 + 100 + 154 + 250 + 136) / 4)
    assert layout.others == ["my-own"]
    assert not any(layout.missing.values())


def test_what_a_file_lacks_is_named_and_the_rest_weighs_the_whole():
    layout = lay_out(REWARD_BENCH, {"refusals-dangerous": 3, "donotanswer": 2, "hep-go": 0})
    assert layout.sections == {"Safety": {"refusals-dangerous": 100 / 236, "donotanswer": 136 / 236}}
    assert layout.score == layout.sections["Safety"]
    assert layout.missing["Safety"] == ["refusals-offensive", "xstest-should-refuse", "xstest-should-respond"]
    assert layout.missing["Reasoning"] == list(REWARD_BENCH.sections["Reasoning"])


def test_the_halves_of_safety_weigh_by_rows_officially_and_alike_in_ours():
    rows = {"chat": 10, "safety-refuse": 30, "safety-response": 10}
    assert lay_out(RM_BENCH, rows).sections["safety"] == {"safety-refuse": 0.75, "safety-response": 0.25}
    assert lay_out(RM_BENCH, rows, by_rows=False).sections["safety"] == {"safety-refuse": 0.5, "safety-response": 0.5}
    whole = lay_out(RM_BENCH, {"safety": 4})
    assert (whole.sections, whole.missing["safety"]) == ({"safety": {"safety": 1.0}}, [])
    half = lay_out(RM_BENCH, {"safety-refuse": 4})
    assert half.missing["safety"] == ["safety-response"]


def test_judge_bench_counts_rows_and_knows_subsets_by_their_beginning():
    layout = lay_out(JUDGE_BENCH, {"mmlu-pro-law": 3, "mmlu-pro-math": 1, "livecodebench": 4})
    assert layout.sections["Knowledge"] == {"mmlu-pro-law": 0.75, "mmlu-pro-math": 0.25}
    assert layout.score == {"mmlu-pro-law": 3 / 8, "mmlu-pro-math": 1 / 8, "livecodebench": 0.5}
    assert layout.missing["Reasoning"] == ["livebench-reasoning"]


FOUND = {
    "reward-bench": [(["hep-go", "mine"], REWARD_BENCH), (["livecodebench"], JUDGE_BENCH), (["Math", "Safety"], None)],
    "best-of-n": [(["precise if", "TIES"], REWARD_BENCH_2), (["hep-go"], None), (["all"], None)],
    "rm-bench": [(["safety-refuse"], RM_BENCH), (["all"], None)],
}


@pytest.mark.parametrize(("format", "cases"), FOUND.items())
def test_a_benchmark_is_told_by_its_subsets(format, cases):
    for subsets, expected in cases:
        assert find_rules(format, subsets) is expected
