"""The harness of the benchmarks, at toy size: both sides do equal work, and the figures are what they say."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from benchmarks import common, matrix, ppo_iteration, report, reward_training, run, sampling, scoring
from benchmarks.bench import QUICK as SIZES
from benchmarks.bench import Bench
from lit_rlhf.data.preparation import Row
from lit_rlhf.data.records import Record

with_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs the extra `bench`")


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), quick=True)


def compared(row: common.Comparison) -> tuple[common.Work, common.Work, float, dict]:
    ours, theirs = row.ours(common.Seconds()), row.theirs(common.Seconds())
    return ours, theirs, *row.parity(ours, theirs)


def test_both_sides_give_every_text_the_same_score(bench):
    ours, theirs, difference, _ = compared(scoring.comparisons(bench)[0])
    assert ours.amount == theirs.amount == SIZES.sequences
    assert difference < 1e-5
    assert np.std(ours.curve) > 1000 * difference, "scores differ between texts"


@pytest.mark.parametrize("row", [0, 1])
def test_both_sides_sample_from_one_distribution(bench, row):
    ours, theirs, ratio, _ = compared(sampling.comparisons(bench)[row])
    assert ratio == pytest.approx(1, abs=0.35), "16 or 40 answers each"
    assert ours.facts["mean_logprob"] == pytest.approx(theirs.facts["mean_logprob"], abs=0.3)


def test_answers_of_the_stopping_policy_end_like_real_ones(tmp_path):
    bench = Bench(tmp_path, quick=True)
    bench.sizes = type(SIZES)(32, 2, 512, prompts=32, new_tokens=64, longest=64)
    task = sampling.Answers(bench, 5, 32, 32)
    lengths = task.ours(common.Seconds()).facts["mean_length"]
    assert 20 < lengths < 36
    ends = [len(text.split()) for row in sampling.Store(tmp_path / "store_5").rows() for text in row["responses"]]
    assert np.mean(np.array(ends) < 8) < 0.15, "few very short ones"
    assert np.mean(np.array(ends) == 64) < 0.15, "few are cut off"


@with_trl
def test_the_loss_curves_over_identical_batches_lie_on_each_other(bench):
    ours, theirs, difference, facts = compared(reward_training.comparisons(bench)[0])
    assert len(ours.curve) == len(theirs.curve) == SIZES.pairs // reward_training.BATCH
    assert difference < 1e-4
    assert len(set(facts["curves"]["ours"])) > 1


@with_trl
@pytest.mark.parametrize("row", [0, 1])
def test_both_sides_of_ppo_generate_and_step_equally(bench, row):
    ours, theirs, ratio, _ = compared(ppo_iteration.comparisons(bench)[row])
    assert ratio == 1
    assert ours.facts == theirs.facts
    steps = ppo_iteration.EPOCHS * ppo_iteration.MINIBATCHES
    assert ours.facts == {"tokens": SIZES.rollout * SIZES.new_tokens, "steps": steps}


def test_made_up_texts_have_the_lengths_that_were_asked_for(bench):
    rows, lengths = bench.short_pairs().train_rows, bench.lengths(SIZES.pairs, 1)
    assert [len(row.prompt) + len(row.chosen) for row in rows] == lengths
    assert {len(row.prompt) for row in rows} == {1}
    assert min(lengths) >= 16
    assert max(lengths) <= SIZES.longest


def test_operations_are_those_of_a_loop_over_layers_and_tokens():
    row, hidden, layers, layer, keys_values = Row(Record(()), [1] * 3, [1] * 4, [1] * 2), 8, 3, 100, 20
    expected = 0.0
    for number in range(layers):
        for start, stop, answers in ((0, 3, False), (3, 7, True), (3, 5, True)):  # the prompt once, then each response
            for position in range(start, stop):
                expected += 6 * keys_values
                scored = answers and position + 1 == stop
                if number + 1 < layers or scored:
                    sees = position + 1
                    expected += 6 * (layer - keys_values) + 3 * (2 * sees * hidden + 2 * sees * hidden)
    assert matrix.training_flops([row], layer, keys_values, hidden, layers) == expected


def test_sides_take_turns_and_neighbours_are_compared():
    order = []

    def side(name):
        def run(meter):
            order.append(name)
            meter.cost = {"a": 2.0, "b": 6.0}[name] * (1 + len(order))
            return common.Work(2.0)

        return run

    costs, last = common.alternate({"a": side("a"), "b": side("b")}, 3)
    assert order == ["a", "b"] * 3
    assert costs["a"] == [2.0, 4.0, 6.0]
    assert last["b"].amount == 2.0
    found = common.ratios(costs["a"], costs["b"])
    assert found == pytest.approx({"ratio": 3.75, "lowest": 3.5, "highest": 4.5})


@pytest.mark.skipif(not common.STATUS.exists(), reason="memory is read from /proc")
def test_peak_memory_sees_what_was_held_in_between_and_not_before():
    before = torch.ones(30 * 2**20)
    del before
    meter = common.PeakBytes()
    meter.start()
    held = torch.ones(20 * 2**20)
    del held
    meter.stop()
    assert meter.cost == pytest.approx(80 * 2**20, rel=0.1)


def test_lower_is_better_for_memory_alone():
    row = {"ratio": 0.6, "at_least": 0.7}
    assert report.meets({**row, "better": "lower"})
    assert not report.meets({**row, "better": "higher"})


def test_rows_run_from_the_command_line_and_earlier_ones_stay(tmp_path, capsys):
    toy = ["--quick", "--repetitions", "1", "--out", str(tmp_path)]
    run.main([*toy, "--only", "scoring", "--only", "memory_scoring", "--only", "matrix_share_256"])
    run.main([*toy, "--only", "sample_one", "--only", "rm_hh", "--hh", str(tmp_path / "absent")])
    assert "rm_hh: left out, no file of HH-RLHF pairs is at hand, see --hh" in capsys.readouterr().out
    rows = json.loads((tmp_path / "quick" / "summary.json").read_text())
    assert [row["id"] for row in rows] == ["sample_one", "scoring", "memory_scoring", "matrix_share_256"]
    for row in rows:
        assert {"id", "what", "peer", "ratio", "at_least", "repetitions", "parity"} <= set(row)
        assert row["ratio"] > 0
        assert f"`{row['id']}`" in (tmp_path / "quick" / "table.md").read_text()
    assert (tmp_path / "quick" / "picture.png").stat().st_size > 10_000
