"""The picture of the reward study: five panels with a band or bar over seeds, and the verdicts."""

from pathlib import Path
from typing import Any

import numpy as np

from lit_rlhf.evaluation.pictures import COLOURS, pyplot
from lit_rlhf.evaluation.statistics import student_interval
from research.claims import Measurement
from research.study_results import verdict_picture

_LABELS = {"soft_margin": "soft label + margin", "flip_margin": "flip + margin", "views_only": "two views only"}


def draw(measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
    """Write ``reward.png`` and ``verdicts.png``."""
    plt = pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(14, 8), constrained_layout=True)
    _agreement(axes[0, 0], measurements)
    _slices(axes[0, 1], measurements)
    _treatments(axes[0, 2], measurements)
    _contrastive(axes[1, 0], measurements, "unseen", "accuracy on unseen kinds, minus the baseline's")
    _contrastive(axes[1, 1], measurements, "separation", "separation of features d′, minus the baseline's")
    _meta(axes[1, 2], measurements)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    flips = measurements[0]["flip_rate"]
    figure.suptitle(f"reward models with {flips:.0%} flipped labels, {len(measurements)} seeds, 95 % over seeds")
    figure.savefig(folder / "reward.png", dpi=110)
    plt.close(figure)
    verdict_picture(summary, folder / "verdicts.png")


def _band(axis: Any, x: Any, table: Any, **style: Any) -> None:
    """A line of means with the interval over seeds; ``table`` is (seeds, points)."""
    table = np.array(table, dtype=float)
    low, high = np.array([student_interval(column) for column in table.T], dtype=float).T
    (line,) = axis.plot(x, table.mean(0), marker="o", markersize=3, **style)
    axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _agreement(axis: Any, measurements: list[Measurement]) -> None:
    for number, name in enumerate(("pairs that voters were trained on", "pairs of unseen kinds"), 1):
        reports = [m["strength"] if number == 1 else m["strength"]["unseen"] for m in measurements]
        shares = [[share["share"] for share in report["true_label"]["agreement"]] for report in reports]
        _band(axis, range(1, len(shares[0]) + 1), shares, color=COLOURS[number], label=name)
    axis.legend(frameon=False, fontsize=8)
    axis.axhline(1 - measurements[0]["flip_rate"], color="grey", linewidth=0.8, linestyle=":")
    axis.set(title="labels that are right, by tenth of strength", xlabel="tenth, weakest first", ylim=(0, 1.02))


def _slices(axis: Any, measurements: list[Measurement]) -> None:
    _band(
        axis,
        range(1, 11),
        [m["slices"]["accuracy"]["seen"] for m in measurements],
        color=COLOURS[1],
        label="as labelled",
    )
    _band(axis, [1, 2], [m["slices"]["flipped"]["seen"] for m in measurements], color=COLOURS[2], label="flipped")
    axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axis.legend(frameon=False, fontsize=8)
    axis.set(title="true accuracy, trained on one tenth alone", xlabel="tenth of strength, weakest first")


def _treatments(axis: Any, measurements: list[Measurement]) -> None:
    for colour, name in zip(COLOURS, measurements[0]["treatments"], strict=False):
        curves = [m["treatments"][name]["seen"] for m in measurements]
        means = np.mean(curves, axis=0)
        axis.plot(range(1, len(means) + 1), means, "o-", markersize=3, color=colour, label=_LABELS.get(name, name))
    axis.legend(frameon=False, fontsize=8)
    axis.set_xticks(range(1, len(measurements[0]["treatments"]["baseline"]["seen"]) + 1))
    axis.set(title="true accuracy over the epochs (means)", xlabel="epoch")


def _contrastive(axis: Any, measurements: list[Measurement], where: str, title: str) -> None:
    names = [name for name in measurements[0]["contrastive"] if name != "baseline"]
    for place, name in enumerate(names):
        gains = [m["contrastive"][name][where] - m["contrastive"]["baseline"][where] for m in measurements]
        bar(axis, place, gains, COLOURS[0] if name == "views_only" else COLOURS[1])
    axis.set_xticks(range(len(names)), [_LABELS.get(name, name.replace("_", "\n")) for name in names], fontsize=8)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_title(title)


def _meta(axis: Any, measurements: list[Measurement]) -> None:
    for place, (model, policy) in enumerate([("reward", "sft"), ("reward", "ppo"), ("meta", "sft"), ("meta", "ppo")]):
        colour = COLOURS[1] if model == "reward" else COLOURS[2]
        bar(axis, place, [m["meta"][model][policy]["spread"] for m in measurements], colour)
    ticks = ["reward model,\nSFT samples", "reward model,\nPPO samples", "MetaRM,\nSFT samples", "MetaRM,\nPPO samples"]
    axis.set_xticks(range(4), ticks, fontsize=8)
    axis.set_title("spread of scores within a prompt")


def bar(axis: Any, place: float, values: list[float], colour: str, width: float = 0.8) -> None:
    """A bar of the mean, with the interval and a dot for each seed."""
    low, high = student_interval(np.array(values))
    mean = float(np.mean(values))
    axis.bar(place, mean, width, color=colour, alpha=0.8)
    if low is not None and high is not None:
        axis.errorbar(place, mean, [[mean - low], [high - mean]], color="black", capsize=3)
    axis.plot([place] * len(values), values, ".", color="black", alpha=0.4, markersize=4)
