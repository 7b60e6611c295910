import numpy as np
import pytest
import torch

from lit_rlhf.evaluation.reward_pictures import (
    benchmark_picture,
    features_picture,
    pairs_picture,
    print_benchmark,
    print_pairs,
    projection,
)

SHARE = {"share": 0.75, "low": 0.5, "high": 0.875, "n": 12}
NOTHING = {"share": None, "low": None, "high": None, "n": 0}
PNG = b"\x89PNG"


def clouds(gap: float, pairs: int = 200, width: int = 30, seed: int = 0) -> list[np.ndarray]:
    """Chosen and rejected features that differ by so much along the third axis, among a wider fifth one."""
    generator = np.random.default_rng(seed)
    both = generator.normal(size=(2, pairs, width))
    both[0, :, 2] += gap
    both[:, :, 4] *= 5
    return list(both)


def apart(points: tuple[np.ndarray, np.ndarray], axis: int) -> float:
    spread = np.sqrt((points[0][:, axis].var() + points[1][:, axis].var()) / 2)
    return (points[0][:, axis].mean() - points[1][:, axis].mean()) / spread


def test_the_first_axis_separates_and_the_second_is_the_widest_of_the_rest():
    chosen, rejected = clouds(gap=6.0)
    points = projection(chosen, rejected)
    assert points[0].shape == points[1].shape == (200, 2)
    assert apart(points, 0) > 3
    assert abs(apart(points, 1)) < 1
    wide = np.concatenate([chosen, rejected])[:, 4]
    assert abs(np.corrcoef(wide, np.concatenate(points)[:, 1])[0, 1]) > 0.9


def test_classes_that_do_not_differ_are_not_torn_apart_by_their_own_noise():
    few = clouds(gap=0.0, pairs=20, width=200)
    direction = few[0].mean(0) - few[1].mean(0)
    assert apart(tuple(each[:, None] @ direction for each in few), 0) > 1.5  # along its own direction, anything is
    assert abs(apart(projection(*few), 0)) < 0.8


def test_equal_features_are_a_point():
    same = np.ones((10, 4))
    assert not np.concatenate(projection(same, same)).any()


def figures(format: str, **subsets) -> dict:
    rows = {"rows": 12, "over_length": 1, "file": "x", "format": format, "overall": SHARE, "mean_over_subsets": SHARE}
    if format == "rm-bench":
        styles = {"easy": SHARE, "normal": SHARE, "hard": SHARE, "matrix": [[SHARE] * 3] * 3}
        subsets = {name: each | styles if each["n"] else each for name, each in subsets.items()}
        rows |= {"overall": SHARE | styles, "mean_over_subsets": SHARE | styles}
    return rows | {"subsets": {name: each | {"over_length": 0} for name, each in subsets.items()}}


@pytest.mark.parametrize("format", ["reward-bench", "rm-bench", "best-of-n"])
def test_benchmarks_are_shown_with_what_was_left_out(tmp_path, capsys, format):
    found = figures(format, one=SHARE, two=NOTHING, three=SHARE)
    benchmark_picture("test", found, tmp_path / "test.png")
    assert (tmp_path / "test.png").read_bytes().startswith(PNG)
    print_benchmark("test", found)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("0.750 [0.500, 0.875]") == 4  # two subsets, their mean, all rows
    assert "1 left out as too long" in shown
    assert ("hard" in shown) == (format == "rm-bench")


def test_figures_are_not_broken_over_lines_on_a_narrow_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_benchmark("test", figures("rm-bench", **{"a domain with a long name": SHARE}))
    assert "0.750 [0.500, 0.875]" in capsys.readouterr().out


def test_baselines_are_drawn(tmp_path):
    found = figures("reward-bench", one=SHARE, two=SHARE)
    lengths = {"longest": figures("reward-bench", one=SHARE, two=SHARE), "rule": "characters"}
    benchmark_picture("test", found, tmp_path / "plain.png")
    benchmark_picture("test", found | {"baselines": lengths}, tmp_path / "with.png")
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


def test_one_subset_needs_no_mean(capsys):
    print_benchmark("test", figures("reward-bench", one=SHARE))
    shown = capsys.readouterr().out
    assert shown.count("0.750 [") == 1
    assert "mean over subsets" not in shown


def test_nothing_is_drawn_of_nothing(tmp_path):
    empty = figures("rm-bench", one=NOTHING) | {"overall": NOTHING, "mean_over_subsets": NOTHING}
    benchmark_picture("test", empty, tmp_path / "test.png")
    features_picture(torch.zeros(7, 3), torch.zeros(7, 3), None, tmp_path / "features.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("known", [True, False])
def test_pairs_are_shown_with_and_without_strength(tmp_path, capsys, known):
    row = {"value": 1.0, **SHARE}
    tables = {"by_strength": [row] * 5 if known else [], "by_length_gap": [row] * 3, "reliability": []}
    tables["reliability"] = [{"confidence": 0.6, **SHARE}, {"confidence": 0.9, "share": 1.0, "low": 0.9, "high": 1.0}]
    found = {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.875, "score_std": 2.0}
    pairs = {"figures": found, "tables": tables, "counts": {"kept": 1234, "over_length": 5, "tie": 0}}
    pairs_picture(pairs, tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").read_bytes().startswith(PNG)
    print_pairs(pairs)
    shown = " ".join(capsys.readouterr().out.split())
    assert "0.750 [0.500, 0.875]" in shown
    assert "1,234 validation pairs (left out: 5 over length)" in shown
    assert "low" not in shown


def test_pictures_replace_older_ones_whole(tmp_path):
    target = tmp_path / "features.png"
    target.write_text("an older one")
    features_picture(*(torch.tensor(each) for each in clouds(2.0, pairs=20)), 1.5, target)
    assert target.read_bytes().startswith(PNG)
    assert list(tmp_path.iterdir()) == [target]
