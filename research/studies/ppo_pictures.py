"""The pictures of the study of policy optimisation."""

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from lit_rlhf.evaluation.pictures import COLOURS, pyplot
from lit_rlhf.evaluation.statistics import student_interval
from research.claims import Measurement
from research.studies.ppo_claims import FLIPS, Arm, Measure, equal_kl, flip, regime, smoothed
from research.studies.reward_pictures import bar
from research.study_results import verdict_picture

GAINS = {
    **{f"{float(rate):.0%} flipped": (flip(rate, "contrastive"), flip(rate, "ppo")) for rate in FLIPS},
    "words, ½ sd": (regime("contrastive"), regime("offset_words_half")),
    "words, 1 sd": (regime("contrastive"), regime("offset_words_one")),
    "words, 2 sd": (regime("contrastive"), regime("offset_words_two")),
    "random, 2 sd": (regime("contrastive"), regime("offset_prompt_two")),
    "family, 2 sd": (regime("contrastive"), regime("offset_family_two")),
    "fresh critic": (regime("contrastive_scratch"), regime("scratch")),
    "fresh critic, words 2 sd": (regime("contrastive_scratch"), regime("offset_words_two_scratch")),
    "fresh critic, random 2 sd": (regime("contrastive_scratch"), regime("offset_prompt_two_scratch")),
    "shifted critic": (regime("contrastive_shifted"), regime("ppo")),
    "k = 1": (regime("contrastive_k1"), regime("ppo")),
    "k = 3": (regime("contrastive_k3"), regime("ppo")),
    "k = 10": (regime("contrastive_k10"), regime("ppo")),
    "against RLOO": (regime("contrastive"), regime("rloo")),
    "against longer RLOO": (regime("contrastive"), regime("rloo_longer")),
}


def draw(measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
    """Write ``ppo.png``, ``verdicts.png``, and the map of regimes in figures, ``map.md``."""
    (folder / "map.md").write_text(map_table(measurements), "utf-8")
    plt = pyplot()
    figure = plt.figure(figsize=(15, 10), constrained_layout=True)
    grid = figure.add_gridspec(2, 3)
    _map(figure.add_subplot(grid[0, :]), measurements)
    _courses(figure.add_subplot(grid[1, 0]), measurements, "reward")
    _courses(figure.add_subplot(grid[1, 1]), measurements, "gold_reward")
    _rounds(figure.add_subplot(grid[1, 2]), measurements)
    figure.savefig(folder / "ppo.png", dpi=110)
    plt.close(figure)
    verdict_picture(summary, folder / "verdicts.png")


def map_table(measurements: list[Measurement]) -> str:
    """The map of regimes: what centring changes in each, with its interval over seeds."""

    def gold(one: Arm, other: Arm) -> Measure:
        return lambda m: one(m)["seen"]["gold"] - other(m)["seen"]["gold"]

    def wins(one: Arm, other: Arm) -> Measure:
        return lambda m: one(m)["seen"]["wins"]["sft"] - other(m)["seen"]["wins"]["sft"]

    def course(what: str) -> Callable[[Arm, Arm], Measure]:
        return lambda one, other: lambda m: _difference(one(m)[f"mean_{what}"], other(m)[f"mean_{what}"])

    columns: dict[str, Callable[[Arm, Arm], Measure]] = {
        "gold at the end": gold,
        "gold over the training": course("gold_reward"),
        "gold at equal KL": equal_kl,
        "win rate against SFT": wins,
        "variance of the reward": course("trained_reward_variance"),
        "explained variance": course("explained_variance"),
        "for scale: gold at the end of the plain arm, minus SFT": lambda _, other: gold(other, regime("sft")),
    }
    lines = [f"| regime | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, arms in GAINS.items():
        cells = [_cell(np.array([measure(*arms)(m) for m in measurements])) for measure in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    head = "# Contrastive minus plain PPO, regime by regime\n\nMean over seeds [95 % interval over seeds].\n\n"
    return head + "\n".join(lines) + "\n"


def _difference(one: float | None, other: float | None) -> float:
    return float("nan") if one is None or other is None else one - other


def _cell(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "–"
    low, high = student_interval(values)
    return f"{values.mean():+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def _map(axis: Any, measurements: list[Measurement]) -> None:
    """Gains in every regime: at the end, and over the whole training."""
    for place, (one, other) in enumerate(GAINS.values()):
        final = [one(m)["seen"]["gold"] - other(m)["seen"]["gold"] for m in measurements]
        whole = [one(m)["mean_gold_reward"] - other(m)["mean_gold_reward"] for m in measurements]
        bar(axis, place - 0.2, final, COLOURS[1], width=0.38)
        bar(axis, place + 0.2, whole, COLOURS[2], width=0.38)
    axis.bar(np.nan, np.nan, color=COLOURS[1], label="at the end, unseen prompts")
    axis.bar(np.nan, np.nan, color=COLOURS[2], label="mean over the training")
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(GAINS)), [fill(name, 9) for name in GAINS], fontsize=8)
    title = f"contrastive minus plain PPO: gold reward by regime, {len(measurements)} seeds, 95 % over seeds"
    axis.set_title(title, fontsize=11)
    axis.legend(frameon=False, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _courses(axis: Any, measurements: list[Measurement], what: str) -> None:
    """Over-optimisation: a line per seed."""
    for m in measurements:
        course = m["overoptimised"]["ppo"]["course"]
        axis.plot(np.sqrt(np.maximum(smoothed(course["kl"]), 0)), smoothed(course[what]), linewidth=1.2)
    name = "proxy reward" if what == "reward" else "gold reward"
    axis.set_title(f"over-optimisation: {name} over √KL, a line per seed", fontsize=10)
    axis.set_xlabel("√KL")
    axis.spines[["top", "right"]].set_visible(False)


def _rounds(axis: Any, measurements: list[Measurement]) -> None:
    """Win rates against SFT, round by round."""
    numbers = sorted(int(name.removeprefix("kept_")) for name in measurements[0]["rounds"] if name.startswith("kept_"))
    for shift, arm, label in ((-0.2, "kept", "the reward model stays"), (0.2, "meta", "MetaRM")):
        colour = COLOURS[1 if arm == "kept" else 2]
        for number in numbers:
            values = [m["rounds"][f"{arm}_{number}"]["seen"]["wins"]["sft"] for m in measurements]
            bar(axis, number + shift, values, colour, width=0.38)
        axis.bar(np.nan, np.nan, color=colour, label=label)
    axis.axhline(0.5, color="black", linewidth=0.8)
    axis.set_xticks(numbers, [f"round {number}" for number in numbers])
    axis.set_title("win rate against SFT, by gold reward", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
