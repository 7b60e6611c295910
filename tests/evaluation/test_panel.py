import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from lit_rlhf.evaluation.overoptimisation import Sign
from lit_rlhf.evaluation.panel import PICTURES, _running_mean, draw_panel, read_history

EVERYTHING = sorted({name for picture in PICTURES for name in picture.metrics})


def history(metrics: list[str], n: int = 40) -> list[dict]:
    """A run with a validation every ten iterations."""
    train = [{"step": i + 1, **{f"train/{name}": 0.5 + i / n for name in metrics}} for i in range(n)]
    val = [{"step": i, **{f"val/{name}": 0.4 + i / n for name in metrics}} for i in range(10, n + 1, 10)]
    return [*train, *val]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure of a panel; it is written to the disk where ``written``."""
    figures: list[Figure] = []
    save = Figure.savefig

    def draw(rows: list[dict], written: bool = False, **options) -> Figure:
        def kept(self, path, **kw) -> None:
            figures.append(self)
            save(self, path, **kw) if written else path.write_bytes(b"")

        monkeypatch.setattr(Figure, "savefig", kept)
        draw_panel(rows, tmp_path / "run" / "panel.png", **options)
        return figures[-1]

    return draw


def headings(figure: Figure) -> list[str]:
    return ["".join(text.get_text() for text in axis.texts) for axis in figure.axes]


def test_everything_that_was_logged_has_its_picture(drawn, tmp_path):
    figure = drawn(history(EVERYTHING), written=True)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["panel.png"]
    assert (tmp_path / "run" / "panel.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == len(PICTURES)
    for picture, heading in zip(PICTURES, headings(figure), strict=True):
        assert all(label in heading for label in picture.metrics.values())
        assert picture.unit in heading


def test_what_was_not_logged_has_none(drawn):
    shown = " ".join(headings(drawn(history(["reward", "kl", "truncated"]))))
    assert "proxy reward" in shown
    assert "cut off" in shown
    for label in ("gold", "refusals", "baselines", "entropy", "explained", "ratio"):
        assert label not in shown


def test_training_is_a_line_and_validation_are_dots(drawn):
    (axis,) = (each for each in drawn(history(["entropy"])).axes)
    thin, thick, dots = axis.get_lines()
    assert thin.get_xdata().tolist() == list(range(1, 41))
    assert thin.get_ydata()[0] == 0.5
    assert len(thick.get_ydata()) == 40
    assert (dots.get_xdata().tolist(), dots.get_linestyle()) == ([10, 20, 30, 40], "None")


def test_rewards_stand_over_the_root_of_kl_coloured_by_iteration(drawn):
    rows = [{"step": i, "train/kl": kl, "train/reward": float(i)} for i, kl in enumerate([-0.1, 4.0, 9.0], 1)]
    rows.append({"step": 2, "val/kl": 16.0, "val/reward": 1.5})
    axis = drawn(rows).axes[0]
    train, val = axis.collections
    assert train.get_offsets().tolist() == [[0, 1], [2, 2], [3, 3]]
    assert val.get_offsets().tolist() == [[4, 1.5]]
    assert train.get_array().tolist() == [1, 2, 3]
    assert train.norm.vmax == val.norm.vmax == 3  # the same colour is the same iteration


def test_a_sign_is_marked_where_it_was_seen_and_told_below(drawn):
    sign = Sign("collapsing_entropy", "train/entropy", 17, "entropy has fallen " + "very " * 60 + "far.")
    plain, marked = drawn(history(["entropy", "kl"])), drawn(history(["entropy", "kl"]), signs=[sign], title="run 7")
    entropy = next(axis for axis in marked.axes if "entropy" in headings(marked)[marked.axes.index(axis)])
    assert [line.get_xdata() for line in entropy.get_lines() if list(line.get_xdata()) == [17, 17]]
    assert [heading.startswith("▲") for heading in headings(marked)] == ["entropy" in each for each in headings(marked)]
    notes = [text.get_text() for text in marked.texts]
    assert notes[0] == "run 7"
    assert any("iteration 17: entropy has fallen" in note for note in notes)
    assert any(note.endswith("far.") for note in notes)
    assert not any("▲" in text for text in [*headings(plain), *(text.get_text() for text in plain.texts)])


@pytest.mark.parametrize("rows", [1, 2])
def test_short_runs_can_be_drawn(drawn, rows):
    assert drawn(history(EVERYTHING, rows), written=True).axes


@pytest.mark.parametrize("value", [math.nan, -math.inf, -1.0])
def test_a_run_that_has_diverged_can_be_drawn(drawn, value):
    rows = history(EVERYTHING)
    for row in rows[20:]:
        row |= {name: value for name in row if name != "step"}
    assert len(drawn(rows, written=True).axes) == len(PICTURES)


@pytest.mark.parametrize("ratios", [(0.9, 1.1), (0.2, 5.0), (1e-5, 80.0)])
def test_nothing_overlaps(drawn, ratios):
    sign = Sign("collapsing_entropy", "train/entropy", 17, "entropy has fallen. " * 20)
    rows = history(EVERYTHING)
    for row in rows[:40]:
        row["train/ratio_min"], row["train/ratio_max"] = ratios
    figure = drawn(rows, signs=[sign])
    band = next(axis for axis in figure.axes if axis.get_yscale() == "log")
    ticks = [label.get_window_extent() for label in band.get_yticklabels() if label.get_text()]
    ticks = sorted(
        (box for box in ticks if band.bbox.y0 <= (box.y0 + box.y1) / 2 <= band.bbox.y1), key=lambda box: box.y0
    )
    assert len(ticks) >= 1
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(ticks))
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y0 >= 0
        assert box.y1 <= height
        for other in boxes[:i]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            along = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, along) <= 2  # a pixel of a line's width


def test_the_running_mean_is_that_of_the_window_that_there_is():
    values = np.random.default_rng(0).standard_normal(90)
    values[40] = np.nan
    expected = [np.nanmean(values[max(0, i - 3) : i + 4]) for i in range(90)]
    np.testing.assert_allclose(_running_mean(values), expected, atol=1e-12)
    assert np.array_equal(_running_mean(values[:20]), values[:20])


def test_a_history_is_read_up_to_where_it_was_cut_short(tmp_path):
    assert read_history(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/kl": NaN}\nnull\n[1]\n{"step": 2, "tra')
    (row,) = read_history(tmp_path / "metrics.jsonl")
    assert row["step"] == 1
    assert math.isnan(row["train/kl"])
