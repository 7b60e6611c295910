"""How cost grows: exponents, what a point measures, and the command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def growth():
    from benchmarks import growth

    return growth


@pytest.fixture
def points():
    from benchmarks import growth_points

    return growth_points


def _law(points, function, noise, sizes=(10, 100, 1000)):
    """Points whose seconds follow a function, times a factor for each repetition."""
    return [points.Point("k", x, r, function(x) * noise[r], 1.0) for r in range(len(noise)) for x in sizes]


def test_a_power_law_has_its_exponent_whatever_the_scale_of_a_repetition(growth, points):
    found = growth.exponent(_law(points, lambda x: 0.3 * x**1.7, [1.0, 2.0, 0.5]), "k", "seconds")
    assert [found[name] for name in ("exponent", "low", "high", "at_the_end")] == pytest.approx([1.7] * 4)
    assert growth.exponent(_law(points, lambda x: 1.0, [1.0, 1.0]), "k", "mib")["exponent"] == pytest.approx(0)


def test_the_interval_is_that_of_the_repetitions_slopes(growth, points):
    slopes = [0.8, 1.0, 1.2]
    mine = [points.Point("k", x, r, x**slope, 1.0) for r, slope in enumerate(slopes) for x in (2, 20, 200)]
    found = growth.exponent(mine, "k", "seconds")
    half = 4.303 * np.std(slopes, ddof=1) / 3**0.5
    assert [found["exponent"], found["low"], found["high"]] == pytest.approx([1.0, 1 - half, 1 + half])
    assert growth.exponent(mine[:3], "k", "seconds")["low"] is None


def test_a_cost_that_begins_with_a_constant_shows_its_growth_at_the_end(growth, points):
    found = growth.exponent(_law(points, lambda x: 1e4 + x**2, [1.0, 1.0]), "k", "seconds")
    assert found["exponent"] < 1.2 < 1.6 < found["at_the_end"]


def test_a_point_tells_the_memory_and_the_time_of_its_work(points, monkeypatch):
    mib = 2**20

    def prepare(folder, size):
        return size, lambda: bytearray(np.random.default_rng(0).bytes(size * mib))  # bytes and a copy of them

    monkeypatch.setitem(points.AXES, "k", points.Axis("", prepare, (1, 40), (1, 40)))
    large = points.measure("k", Path(), 40, 1, 3)
    small = points.measure("k", Path(), 2, 1, 3)
    assert (large.axis, large.x, large.repetition) == ("k", 40, 3)
    assert large.mib == pytest.approx(80, abs=8)
    assert small.mib < 20  # the peak of an earlier measurement is forgotten
    assert large.seconds > 2 * small.seconds > 0


def test_the_world_is_served_row_by_row_and_files_share_their_beginning(points, tmp_path):
    points.write_inputs(tmp_path, [10, 600])
    short, long = ((tmp_path / f"pairs-{rows}.jsonl").read_text().splitlines() for rows in (10, 600))
    assert len(long) == 600 == len(set(long))
    assert long[:10] == short
    rows, work = points.serve_pairs(tmp_path, 600)
    data = work()
    assert rows == len(data.train_rows) == 600
    served = sorted(row.record.prompt[-1].content for row in data.train_rows)
    assert served == sorted(json.loads(line)["prompt"] for line in long)


@pytest.mark.parametrize("axis", ["length", "k", "model"])
def test_every_axis_does_its_work(points, axis, tmp_path):
    points.write_inputs(tmp_path, [])
    smallest = points.AXES[axis].quick[0]
    point = points.measure(axis, tmp_path, smallest, smallest, 0)
    assert point.seconds > 0
    assert point.x == (smallest if axis != "model" else pytest.approx(200_000, rel=0.1))


@pytest.mark.slow
def test_the_command_writes_table_figures_and_picture(tmp_path):
    words = [sys.executable, "-m", "benchmarks.growth", "--quick", "--axes", "k", "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    written = json.loads((tmp_path / "growth.json").read_text())
    assert len(written["points"]) == 4
    assert written["exponents"]["k"]["seconds"]["exponent"] == pytest.approx(
        written["exponents"]["k"]["seconds"]["at_the_end"], abs=0.5
    )
    assert written["start_up"]["cpu_seconds"] > 0
    assert (tmp_path / "growth.png").stat().st_size > 5000
    assert "| responses per prompt: sampling |" in done.stdout


@pytest.mark.slow
def test_a_command_that_ends_before_its_first_step_shows_what_it_said(points, tmp_path):
    with pytest.raises(RuntimeError, match="no such folder"):
        points.start_up(tmp_path, 0)  # there is no model
