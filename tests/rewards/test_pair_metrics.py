import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.batches import PairBatch, stack_sequences
from lit_rlhf.data.records import Message, Record
from lit_rlhf.rewards.metrics import FeatureSeparation, binned_accuracy, calibration, wilson_interval
from lit_rlhf.rewards.pair_metrics import PairMetrics

DIFFERENCES = st.lists(st.integers(-6, 6).map(lambda x: x / 2), min_size=1, max_size=40)


def win(difference):
    return (difference > 0) + 0.5 * (difference == 0)


# ---------------------------------------------------------------------- single metrics


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-3, 3) | st.none()), min_size=1, max_size=40))
def test_binned_accuracy_equals_a_loop(pairs):
    edges = [-1.0, 0.5, 2.0]
    differences, values = zip(*pairs, strict=True)
    known = np.array([math.nan if value is None else float(value) for value in values])
    rows = binned_accuracy(np.array(differences, dtype=float), known, edges)
    expected = []
    for low, high in zip([-math.inf, *edges], [*edges, math.inf], strict=True):
        inside = [(d, v) for d, v in pairs if v is not None and low <= v < high]
        if inside:
            correct = sum(win(d) for d, _ in inside)
            bounds = wilson_interval(correct, len(inside))
            expected.append((np.mean([v for _, v in inside]), correct / len(inside), *bounds, len(inside)))
    found = [(row["value"], row["share"], row["low"], row["high"], row["n"]) for row in rows]
    np.testing.assert_allclose(np.array(found).reshape(-1, 5), np.array(expected).reshape(-1, 5), atol=1e-12)


@given(DIFFERENCES)
def test_the_calibration_error_equals_a_loop(differences):
    bins = {}
    for difference in differences:
        confidence = 1 / (1 + math.exp(-abs(difference)))
        place = min(int((confidence - 0.5) * 2 * 4), 3)
        bins.setdefault(place, []).append((confidence, win(difference)))
    gaps = [abs(sum(right - sure for sure, right in rows)) for rows in bins.values()]
    found = calibration(np.array(differences), bins=4)
    assert found["error"] == pytest.approx(sum(gaps) / len(differences), abs=1e-6)
    assert sum(row["n"] for row in found["bins"]) == len(differences)


def test_scores_that_are_log_odds_are_calibrated_and_inflated_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    odds = 2 * torch.randn(40_000, generator=generator)
    right = torch.rand(40_000, generator=generator) < odds.abs().sigmoid()
    truthful = torch.where(right, odds.abs(), -odds.abs())
    errors = []
    for factor in (1.0, 3.0):
        errors.append(calibration((factor * truthful).double().numpy())["error"])
    assert errors[0] < 0.01 < 0.05 < errors[1]


def test_separation_is_about_zero_for_alike_features_and_d_prime_for_shifted_ones():
    generator = torch.Generator().manual_seed(1)

    def d_prime(shift):
        metric = FeatureSeparation(limit=2000)
        noise = [torch.randn(2000, 16, generator=generator) for _ in range(2)]
        noise[0][:, 0] += shift
        for good, bad in zip(noise[0].split(300), noise[1].split(300), strict=True):
            metric.update(good, bad)
        return metric.compute()

    assert abs(d_prime(0.0)) < 0.1
    assert d_prime(2.0) == pytest.approx(2.0, abs=0.15)
    few = FeatureSeparation()
    assert math.isnan(few.compute())
    few.update(torch.randn(3, 4), torch.randn(3, 4))
    assert math.isnan(few.compute())


def test_separation_keeps_no_more_than_its_limit():
    metric = FeatureSeparation(limit=5)
    for _ in range(3):
        metric.update(torch.ones(4, 2), torch.zeros(4, 2))
    assert [len(each) for each in metric.features()] == [5, 5]


# ---------------------------------------------------------------------- all of them together


def make_batch(rows):
    """Rows of (source, truth, strength, chosen length, rejected length)."""
    sources, truths, strengths, good, bad = zip(*rows, strict=True)
    prompts = [[1, 2]] * len(rows)
    zeros, none = torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool)
    return PairBatch(
        stack_sequences(prompts, [[3] * n for n in good], 0),
        stack_sequences(prompts, [[3] * n for n in bad], 0),
        torch.tensor(truths),
        none,
        zeros,
        zeros + 1,
        torch.tensor(strengths),
        [Record((Message("user", "?"),), "a", "b", source="ab"[source]) for source in sources],
    )


def random_rows(n, seed):
    generator = np.random.default_rng(seed)
    return [
        (
            int(generator.integers(0, 2)),
            int(generator.integers(-1, 2)),
            float(generator.normal()) if generator.random() < 0.8 else math.nan,
            int(generator.integers(1, 9)),
            int(generator.integers(1, 9)),
        )
        for _ in range(n)
    ]


def measured(rows, scores, metrics, size):
    for i in range(0, len(rows), size):
        part = torch.tensor(scores[i : i + size])
        metrics.update(part[:, 0], part[:, 1], make_batch(rows[i : i + size]))
    return metrics


def scores_of(n, seed):
    return np.random.default_rng(seed + 100).normal(size=(n, 2)).round(1).tolist()


@settings(max_examples=15, deadline=None)
@given(st.integers(12, 60), st.integers(0, 1000), st.integers(1, 13))
def test_figures_equal_a_loop_over_pairs_whatever_the_batches(n, seed, size):
    rows, scores = random_rows(n, seed), scores_of(n, seed)
    found = measured(rows, scores, PairMetrics(), size).figures()
    gaps = [good - bad for good, bad in np.float32(scores)]
    for source, suffix in ((None, ""), (0, "/a"), (1, "/b")):
        mine = [i for i in range(n) if source is None or rows[i][0] == source]
        if mine:
            assert found[f"accuracy{suffix}"] == pytest.approx(np.mean([win(gaps[i]) for i in mine]))
            assert found[f"longer_wins{suffix}"] == pytest.approx(np.mean([win(rows[i][3] - rows[i][4]) for i in mine]))
        known = [i for i in mine if rows[i][1] >= 0]
        name = f"true_accuracy{suffix}"
        if known:
            right = [win(gaps[i] if rows[i][1] else -gaps[i]) for i in known]
            assert found[name] == pytest.approx(np.mean(right))
            assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(
                wilson_interval(sum(right), len(known))
            )
        else:
            assert name not in found
    everything = np.array(scores).T.reshape(-1)
    lengths = np.array([row[3] for row in rows] + [row[4] for row in rows])
    assert found["score_mean"] == pytest.approx(everything.mean(), abs=1e-5)
    assert found["score_std"] == pytest.approx(everything.std(), abs=1e-5)
    assert found["score_length_correlation"] == pytest.approx(np.corrcoef(everything, lengths)[0, 1], abs=1e-4)


def test_tables_have_a_row_for_each_fifth():
    rows, scores = random_rows(200, 3), scores_of(200, 3)
    metrics = measured(rows, scores, PairMetrics(), 32)
    tables = metrics.tables()
    assert len(tables["by_strength"]) == 5
    assert sum(row["n"] for row in tables["by_strength"]) == sum(not math.isnan(row[2]) for row in rows)
    assert max(row["n"] for row in tables["by_strength"]) - min(row["n"] for row in tables["by_strength"]) <= 1
    assert sum(row["n"] for row in tables["by_length_gap"]) == 200
    metrics.reset()
    assert measured(rows[:50], scores[:50], metrics, 50).figures()["accuracy"] == pytest.approx(
        np.mean([win(good - bad) for good, bad in np.float32(scores[:50])])
    )


WORKER = """
import json, sys, torch, torch.distributed as dist
sys.path.insert(0, {here!r})
from test_pair_metrics import measured, random_rows, scores_of
from lit_rlhf.rewards.pair_metrics import PairMetrics
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
rows, scores = random_rows(41, 5), scores_of(41, 5)
mine = slice(0, 13) if rank == 0 else slice(13, 41)
metrics = measured(rows[mine], scores[mine], PairMetrics(), 6)
print(json.dumps(metrics.figures()))
"""


@pytest.mark.slow
def test_two_processes_with_ragged_shares_log_what_one_would(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(here=str(Path(__file__).parent)))
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in started]
    rows, scores = random_rows(41, 5), scores_of(41, 5)
    alone = measured(rows, scores, PairMetrics(), 41).figures()
    for each in found:
        assert each == pytest.approx(alone, abs=1e-5)
