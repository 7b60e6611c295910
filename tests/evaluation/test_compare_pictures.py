import pytest

from lit_rlhf.evaluation.compare_pictures import best_of_n_picture, print_best_of_n, win_rates_picture
from lit_rlhf.evaluation.pictures import pyplot


def curve(shift: float) -> list[dict[str, float]]:
    rows = []
    for n in (1, 2, 4):
        row = {"n": n, "kl": 0.1 * n}
        for name in ("gold_reward", "proxy_reward"):
            row |= {name: shift + n, f"{name}_low": shift + n - 0.25, f"{name}_high": shift + n + 0.25}
        rows.append(row)
    return rows


CURVES = {"sft": curve(0.0), "ppo": curve(0.5)}
CELL = {"win_rate": 0.625, "low": 0.5, "high": 0.75, "wins": 5, "ties": 0, "losses": 3}
MATRIX = {"sft": {"ppo": {**CELL, "win_rate": 0.375, "low": 0.25, "high": 0.5}}, "ppo": {"sft": CELL}}


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """The axes of a picture, which must also lie in its file."""

    def drawn(picture, figures) -> list:
        plt = pyplot()
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", lambda figure: None)
            picture(figures, tmp_path / "picture.png")
        figure = plt.gcf()
        plt.close(figure)
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        return list(figure.axes)

    return drawn


def test_the_table_of_best_of_n_has_a_line_for_each_policy_and_n(capsys):
    print_best_of_n(CURVES)
    shown = capsys.readouterr().out
    for text in ("4.50 [4.25, 4.75]", "1.00 [0.75, 1.25]", "0.40"):
        assert text in shown
    assert sum(line.strip("│ ").split(" ")[0] in CURVES for line in shown.splitlines()) == len(CURVES)


def test_best_of_n_is_drawn_by_policy_for_both_rewards(draw):
    axes = draw(best_of_n_picture, CURVES)
    assert ["gold" in axes[0].get_title(), "proxy" in axes[1].get_title()] == [True, True]
    for axis in axes:
        drawn = {line.get_label(): [list(line.get_xdata()), list(line.get_ydata())] for line in axis.get_lines()}
        assert drawn == {"sft": [[1, 2, 4], [1, 2, 4]], "ppo": [[1, 2, 4], [1.5, 2.5, 4.5]]}
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1\n0.10", "2\n0.20", "4\n0.40"]


def test_the_matrix_shows_rows_against_columns(draw):
    (axis,) = draw(win_rates_picture, MATRIX)
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts == {(1, 0): "0.38\n[0.25, 0.50]", (0, 1): "0.62\n[0.50, 0.75]"}  # x is the column, y the row
    assert axis.images[0].get_array().tolist() == [[None, 0.375], [0.625, None]]  # nobody against himself
    assert [label.get_text() for label in axis.get_yticklabels()] == ["sft", "ppo"]
