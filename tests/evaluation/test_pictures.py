import json

import pytest

from lit_rlhf.evaluation.pictures import comparison_picture, curves_picture, print_table, pyplot

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
    rows = [{"step": step, "train/reward": 0.1 * step} for step in range(4)]  # neither KL nor gold reward
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves_picture({"ppo": tmp_path / "metrics.jsonl"}, tmp_path / "training.png")
    for name in ("comparison", "training"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def drawn(monkeypatch, tmp_path, figures: dict) -> list:
    """The axes of a comparison's picture."""
    plt = pyplot()
    monkeypatch.setattr(plt, "close", lambda figure: None)
    comparison_picture(figures, ["sft", "ppo"], tmp_path / "comparison.png")
    figure = plt.gcf()
    monkeypatch.undo()
    figure.canvas.draw()
    axes = list(figure.axes)
    plt.close(figure)
    return axes


def test_labels_of_bars_can_be_read_however_small_the_bar(monkeypatch, tmp_path):
    small = result(0, 1) | {"sft": FIGURES | {"kl": 0.0}}
    for axis in drawn(monkeypatch, tmp_path, small):
        for bar, label in zip(axis.patches, axis.texts, strict=True):
            assert label.get_color() == "black"
            box = label.get_window_extent()
            assert box.y0 >= bar.get_window_extent().y1 - 1  # outside the coloured bar
            assert box.y1 <= axis.get_window_extent().y1 + 1  # inside the panel


def test_panels_say_their_units(monkeypatch, tmp_path):
    titles = [axis.get_title() for axis in drawn(monkeypatch, tmp_path, result(0, 1))]
    assert "KL to sft,\nnats per response" in titles


def test_the_screen_shows_the_gold_reward_on_every_further_source(capsys):
    gold = {"gold_reward": 0.25, "gold_reward_low": 0.125, "gold_reward_high": 0.5}
    figures = result(0, 1)
    figures["splits"] = {"unseen_topics": {"sft": FIGURES | gold, "ppo": FIGURES | gold | {"gold_reward": 0.375}}}
    print_table(figures, ["sft", "ppo"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "unseen_topics: gold reward sft 0.25 [0.12, 0.50], ppo 0.38 [0.12, 0.50]" in shown
    figures["splits"] = {"more": {"sft": FIGURES, "ppo": FIGURES}}
    print_table(figures, ["sft", "ppo"])
    assert "more: proxy reward sft 1.25" in " ".join(capsys.readouterr().out.split())


WINS = {"win_rate_vs_sft": 0.5, "wins_vs_sft": 0, "ties_vs_sft": 8, "losses_vs_sft": 0}
WON = {"win_rate_vs_sft": 0.625, "wins_vs_sft": 4, "ties_vs_sft": 2, "losses_vs_sft": 2}
REFEREE = {"name": "LLMJudge(tiny)", "answers": 1600, "unparseable": 3, "inconsistent": 0.125, "picks_first": 0.75}


def won() -> dict:
    return result(0, 1) | {"sft": FIGURES | WINS, "ppo": FIGURES | WON}


def test_wins_ties_and_losses_stand_beside_the_win_rate(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    print_table(won(), ["sft", "ppo"])
    lines = capsys.readouterr().out.splitlines()
    assert any("wins / ties / losses" in line for line in lines)
    assert [("sft" in line, "ppo" in line) for line in lines if "4 / 2 / 2" in line] == [(False, True)]
    head = next(line for line in lines if "wins / ties / losses" in line)
    assert head.index("win rate") < head.index("wins / ties") < head.index("truncated")


def test_the_screen_says_how_far_the_referee_can_be_trusted(capsys):
    print_table(won() | {"referee": REFEREE}, ["sft", "ppo"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "wins by LLMJudge(tiny), both orders: 1,600 answers" in shown
    assert "changes with the order on 12.5 % of the pairs" in shown
    assert "shown first is picked in 75.0 %" in shown
    assert "3 answers name no outcome" in shown


def test_shares_of_wins_ties_and_losses_are_stacked(monkeypatch, tmp_path):
    axis = drawn(monkeypatch, tmp_path, won())[-1]
    assert "against sft" in axis.get_title()
    assert [bar.get_height() for bar in axis.patches] == [0.5, 0.25, 0.25]
    assert [bar.get_y() for bar in axis.patches] == [0.0, 0.5, 0.75]
    titles = [each.get_title() for each in drawn(monkeypatch, tmp_path, won())]
    assert not any(title.startswith(("wins vs", "ties vs", "losses vs")) for title in titles)


def test_a_notebook_goes_on_showing_what_is_drawn_there(monkeypatch):
    used = []
    monkeypatch.setattr("matplotlib.use", used.append)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    pyplot()
    assert used == []
    monkeypatch.delenv("MPLBACKEND")
    pyplot()
    assert used == ["Agg"]
