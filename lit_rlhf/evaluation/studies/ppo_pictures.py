"""The pictures of the study of policy optimisation."""

from pathlib import Path
from typing import Any

import numpy as np

from lit_rlhf.evaluation.pictures import COLOURS, pyplot
from lit_rlhf.evaluation.studies.ppo_claims import FLIPS, flip, regime, smoothed
from lit_rlhf.evaluation.studies.reward_pictures import bar
from lit_rlhf.evaluation.study import Measurement, verdict_picture

GAINS = {
    **{f"{float(rate):.0%} flipped": (flip(rate, "contrastive"), flip(rate, "ppo")) for rate in FLIPS},
    "words, ½ sd": (regime("contrastive"), regime("offset_words_half")),
    "words, 1 sd": (regime("contrastive"), regime("offset_words_one")),
    "words, 2 sd": (regime("contrastive"), regime("offset_words_two")),
    "random, 2 sd": (regime("contrastive"), regime("offset_prompt_two")),
    "family, 2 sd": (regime("contrastive"), regime("offset_family_two")),
    "fresh critic": (regime("contrastive_scratch"), regime("scratch")),
    "shifted critic": (regime("contrastive_shifted"), regime("ppo")),
    "k = 1": (regime("contrastive_k1"), regime("ppo")),
    "k = 3": (regime("contrastive_k3"), regime("ppo")),
    "k = 10": (regime("contrastive_k10"), regime("ppo")),
    "against RLOO": (regime("contrastive"), regime("rloo")),
}


def draw(measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
    """Write ``ppo.png`` and ``verdicts.png``."""
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
    axis.set_xticks(range(len(GAINS)), [name.replace(" ", "\n", 1) for name in GAINS], fontsize=8)
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
