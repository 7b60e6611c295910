"""The over-optimisation panel: how a policy's optimisation goes, on one page of small pictures."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.evaluation.overoptimisation import Row, Sign
from lit_rlhf.evaluation.pictures import COLOURS

Values = NDArray[np.float64]
COLUMNS = 4
LINES = (COLOURS[1], COLOURS[2], COLOURS[3])
ALARM = "#c53030"
_GREY = COLOURS[0]
_PLACE = {"left": 0.5, "right": 0.2, "top": 0.85, "between": 0.42, "above": 0.6}  # inches
_CELL = (2.75, 1.75)


class Picture(NamedTuple):
    """One of the small pictures; metrics are named without ``train/`` and ``val/``.

    Attributes:
        unit: Stands behind the title.
        metrics: Metric and what it is called; those that were not logged are left out.
        kind: ``line`` by iteration, ``path`` over the root of KL, ``share`` (from 0 up) or ``band`` between two.
        level: A value that something means, drawn as a thin line.
    """

    unit: str
    metrics: dict[str, str]
    kind: str = "line"
    level: float | None = None


PICTURES = (
    Picture("over √KL", {"reward": "proxy reward"}, "path"),
    Picture("over √KL", {"gold_reward": "gold reward"}, "path"),
    Picture("", {"reward": "proxy reward"}),
    Picture("", {"gold_reward": "gold reward"}),
    Picture("nats per response", {"kl": "KL"}),
    Picture("nats", {"kl_max": "largest KL: response", "kl_token_max": "token"}),
    Picture("tokens", {"response_length": "length"}),
    Picture("share", {"truncated": "cut off", "refusal": "refusals", "kl_spikes": "KL spikes"}, "share"),
    Picture("share of 3-grams", {"repetition": "repetition"}, "share"),
    Picture("share", {"distinct_responses": "distinct responses"}),
    Picture("share of prompts", {"improved": "better than baselines"}, level=0.5),
    Picture("", {"reward_variance": "reward variance", "reward/centred_variance": "centred"}, "share"),
    Picture("nats per token", {"entropy": "entropy"}),
    Picture("share of tokens", {"clip_fraction": "clip fraction"}, "share"),
    Picture("", {"explained_variance": "explained variance"}, level=0.0),
    Picture("smallest to largest", {"ratio_min": "probability ratio", "ratio_max": ""}, "band", 1.0),
    Picture("", {"reward/disagreement": "disagreement of the ensemble"}),
)


def read_history(path: Path) -> list[Row]:
    """The lines of a ``metrics.jsonl``; one that was cut short, when the run was killed, is left out."""
    rows: list[Row] = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            rows += [row] if "step" in row else []
        except (ValueError, TypeError):
            continue
    return rows


def draw_panel(rows: Sequence[Row], path: Path, title: str = "", signs: Sequence[Sign] = ()) -> None:
    """Draw the panel: only what was logged, training as lines and validation as dots.

    Thin lines are the iterations, thick ones their running mean.

    Args:
        rows: As `read_history` gives them.
        path: The PNG, written whole or not at all.
        title: Names the run.
        signs: What is to be marked: the picture of its metric gets a line at the iteration, the page a footnote.
    """
    train, val = ([row for row in rows if any(name.startswith(part) for name in row)] for part in ("train/", "val/"))
    shown = [each for each in PICTURES if any(_has(train, name) for name in each.metrics)]
    notes = [line for sign in signs for line in textwrap.wrap(f"▲ iteration {sign.step}: {sign.message}", 190)]
    legend = "thin: each iteration · thick: running mean" + (" · dots: validation" if val else "")
    figure, grid = _page(max(1, -(-len(shown) // COLUMNS)), (title or "over-optimisation panel", legend), notes)
    for number, picture in enumerate(shown):
        axis = figure.add_subplot(grid[number // COLUMNS, number % COLUMNS])
        found = [sign for sign in signs if sign.metric.removeprefix("train/") in picture.metrics]
        _draw(axis, picture, train, val, found)
        if picture.kind != "path" and number + COLUMNS >= len(shown):
            axis.set_xlabel("iteration", fontsize=7.5, color=_GREY)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(partial, dpi=110, format="png")
    partial.rename(path)


def _page(lines: int, heading: tuple[str, str], notes: list[str]) -> tuple[Any, Any]:
    """A figure with heading and footnotes, and its grid: sizes in inches, so that nothing has to be measured."""
    from matplotlib.figure import Figure

    bottom = 0.5 + 0.17 * len(notes)
    width = _PLACE["left"] + _PLACE["right"] + COLUMNS * _CELL[0]
    height = _PLACE["top"] + lines * _CELL[1] + (lines - 1) * _PLACE["above"] + bottom
    figure = Figure(figsize=(width, height), facecolor="white")
    edge = 0.12 / width
    figure.text(edge, 1 - 0.28 / height, heading[0], fontsize=13, weight="bold", va="center")
    figure.text(edge, 1 - 0.5 / height, heading[1], fontsize=8, color=_GREY, va="center")
    for i, note in enumerate(reversed(notes)):
        figure.text(edge, (0.1 + 0.17 * i) / height, note, fontsize=8, color=ALARM, va="bottom")
    sides = {"left": _PLACE["left"] / width, "right": 1 - _PLACE["right"] / width}
    ends = {"bottom": bottom / height, "top": 1 - _PLACE["top"] / height}
    gaps = {"wspace": _PLACE["between"] / (_CELL[0] - _PLACE["between"]), "hspace": _PLACE["above"] / _CELL[1]}
    return figure, figure.add_gridspec(lines, COLUMNS, **sides, **ends, **gaps)


def _draw(axis: Any, picture: Picture, train: list[Row], val: list[Row], signs: list[Sign]) -> None:
    """One small picture."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#cbd5e0")
    axis.tick_params(labelsize=7, length=2, color="#cbd5e0", labelcolor=_GREY)
    axis.grid(axis="y", color="#edf2f7", linewidth=0.7)
    axis.locator_params(nbins=5)
    axis.set_axisbelow(True)
    if picture.level is not None:
        axis.axhline(picture.level, color=_GREY, linewidth=0.7, linestyle=":")
    if picture.kind == "path":
        _path(axis, next(iter(picture.metrics)), train, val)
    elif picture.kind == "band":
        low, high = picture.metrics
        _band(axis, low, high, train)
    else:
        for colour, name in zip(LINES, picture.metrics, strict=False):
            _line(axis, name, colour, train, val)
    if picture.kind == "share":
        axis.set_ylim(bottom=0)
    if "explained_variance" in picture.metrics:
        axis.set_ylim(max(-1.0, axis.get_ylim()[0]), min(1.0, axis.get_ylim()[1]))
    for sign in signs if picture.kind != "path" else ():
        axis.axvline(sign.step, color=ALARM, linewidth=1, linestyle="--")
    labels = {name: label for name, label in picture.metrics.items() if label and _has(train, name)}
    _title(axis, list(labels.values()), picture.unit, bool(signs))


def _title(axis: Any, labels: list[str], unit: str, alarm: bool) -> None:
    """Labels side by side, each in the colour of its line where there are several."""
    colours = LINES if len(labels) > 1 else ("black",)
    parts = [("▲ ", ALARM)] if alarm else []
    for i, label in enumerate(labels):
        parts += ([(" · ", _GREY)] if i else []) + [(label, colours[i])]
    style: dict[str, Any] = {"textcoords": "offset points", "va": "bottom"}
    place, start, pad = axis.transAxes, (0.0, 1.0), 4
    for text, colour in parts:
        place = axis.annotate(text, start, (0, pad), xycoords=place, color=colour, fontsize=9, weight="bold", **style)
        start, pad = (1.0, 0.0), 0  # where the one before ends
    axis.annotate(f"  {unit}", start, (0, pad), xycoords=place, color=_GREY, fontsize=7.5, **style)


def _line(axis: Any, name: str, colour: str, train: list[Row], val: list[Row]) -> None:
    """A metric by iteration."""
    x, y = _points(train, f"train/{name}")
    axis.plot(x, y, color=colour, linewidth=0.7, alpha=0.4)
    axis.plot(x, _running_mean(y), color=colour, linewidth=1.7)
    x, y = _points(val, f"val/{name}")
    axis.plot(x, y, "o", color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.8, zorder=3)


def _band(axis: Any, low: str, high: str, train: list[Row]) -> None:
    """What lies between two metrics."""
    from matplotlib.ticker import LogLocator, NullLocator

    x, lowest = _points(train, f"train/{low}")
    at, highest = _points(train, f"train/{high}")
    if len(x) == len(at):
        axis.fill_between(x, lowest, highest, color=LINES[0], alpha=0.25, linewidth=0)
    axis.plot(x, lowest, at, highest, color=LINES[0], linewidth=0.9)
    axis.set_yscale("log")
    bottom, top = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 30 * bottom else (1,), numticks=6))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def _path(axis: Any, name: str, train: list[Row], val: list[Row]) -> None:
    """A metric over the root of KL, from dark (first) to bright (last) iterations."""
    colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": max(row["step"] for row in train)}
    step, root, y = _over_root(train, "train", name)
    axis.plot(_running_mean(root), _running_mean(y), color="#a0aec0", linewidth=1.2)
    axis.scatter(root, y, c=step, s=7, linewidths=0, **colours)
    step, root, y = _over_root(val, "val", name)
    axis.plot(root, y, color="#4a5568", linewidth=0.7)
    axis.scatter(root, y, c=step, s=26, linewidths=0.9, edgecolors="black", zorder=3, **colours)
    axis.set_xlabel("√KL  (dark: first iterations, bright: last)", fontsize=7.5, color=_GREY, labelpad=1)


def _over_root(rows: list[Row], part: str, name: str) -> tuple[Values, Values, Values]:
    """Iterations, roots of KL and values of a metric, where both were logged."""
    both = [row for row in rows if f"{part}/kl" in row and f"{part}/{name}" in row]
    step, values = _points(both, f"{part}/{name}")
    return step, np.sqrt(np.clip(_points(both, f"{part}/kl")[1], 0, None)), values


def _has(rows: list[Row], name: str) -> bool:
    return len(_points(rows, f"train/{name}")[0]) > 0


def _points(rows: Sequence[Row], name: str) -> tuple[Values, Values]:
    """Iterations and values of a metric, where it was logged; what is not finite becomes a gap."""
    both = np.array([(row["step"], row[name]) for row in rows if name in row], dtype=np.float64).reshape(-1, 2)
    return both[:, 0], np.where(np.isfinite(both[:, 1]), both[:, 1], np.nan)


def _running_mean(values: Values) -> Values:
    """Mean over a window of a fifteenth of all values around each, which is cut at the edges; gaps do not count."""
    reach = len(values) // 30
    if reach == 0:
        return values
    known = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.where(known, values, 0.0), known))
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])
