import json

import pytest

from lit_rlhf.evaluation.pictures import comparison_picture, curves_picture, print_table

FIGURES = {"proxy_reward": 1.25, "proxy_reward_low": 1.0, "proxy_reward_high": 1.5, "kl": 0.5, "truncated": 0.0}


def result(low: float, high: float) -> dict:
    difference = {"proxy_reward": (low + high) / 2, "low": low, "high": high}
    return {"sft": FIGURES, "ppo": FIGURES | {"kl": 2.5}, "splits": {}, "differences": {"b - a": difference}}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.1, 0.3, "not distinguishable"), (0.1, 0.3, ", distinguishable"), (-0.3, -0.1, ", distinguishable")],
)
def test_the_table_says_whether_a_difference_can_be_told_from_zero(capsys, low, high, verdict):
    print_table(result(low, high), ["sft", "ppo"])
    shown = " ".join(capsys.readouterr().out.split())
    assert verdict in shown
    assert f"{low:+.3f}, {high:+.3f}" in shown
    assert ("not distinguishable" in shown) == (low < 0 < high)


def test_the_table_shows_every_policy_with_its_interval(capsys):
    print_table(result(0, 1), ["sft", "ppo"])
    shown = capsys.readouterr().out
    assert shown.count("1.25") == 2
    assert "2.50" in shown
    assert "1.00" in shown
    assert "1.50" in shown


def test_pictures_are_drawn_from_whatever_was_measured(tmp_path):
    comparison_picture(result(0, 1), ["sft", "ppo"], tmp_path / "comparison.png")
    rows = [{"step": step, "train/reward": 0.1 * step} for step in range(4)]  # neither KL nor true reward
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves_picture({"ppo": tmp_path / "metrics.jsonl"}, tmp_path / "training.png")
    for name in ("comparison", "training"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
