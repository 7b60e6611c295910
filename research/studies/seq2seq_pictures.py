"""The picture of the seq2seq study: the policies of the three worlds, a bar over seeds each."""

from pathlib import Path
from typing import Any

import numpy as np

from lit_rlhf.evaluation.pictures import COLOURS, pyplot
from research.claims import Measurement
from research.studies.reward_pictures import bar
from research.study_results import verdict_picture

PANELS = [
    ("fair", "gold", "fair annotator: gold reward"),
    ("length", "length", "annotator who likes length: tokens per answer"),
    ("length", "gold", "annotator who likes length: gold reward"),
    ("refusal", "refusal_scary", "annotator who likes refusals: refusals of harmless requests"),
    ("fair", "refusal_scary", "fair annotator: refusals of harmless requests"),
]
LABELS = {"sft": "SFT", "increments": "PPO-T", "contrastive_seq2seq": "centred\nseq2seq", "unnormalised": "not\nnormed"}


def draw(measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
    """Write ``seq2seq.png`` and ``verdicts.png``."""
    plt = pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), constrained_layout=True)
    for axis, (world, what, title) in zip(axes.flat, PANELS, strict=False):
        policies = list(measurements[0][world]["policies"])
        for place, policy in enumerate(policies):
            values = [m[world]["policies"][policy]["seen"][what] for m in measurements]
            bar(axis, place, values, COLOURS[0] if policy == "sft" else COLOURS[2 if "seq2seq" in policy else 1])
        axis.set_xticks(range(len(policies)), [LABELS.get(name, name.replace("_", "\n")) for name in policies])
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    _wins(axes.flat[-1], measurements)
    figure.suptitle(f"token rewards of a rewriter, {len(measurements)} seeds, 95 % over seeds")
    figure.savefig(folder / "seq2seq.png", dpi=110)
    plt.close(figure)
    verdict_picture(summary, folder / "verdicts.png")


def _wins(axis: Any, measurements: list[Measurement]) -> None:
    rivals = ["sft", "scalar", "increments"]
    for shift, kind in ((-0.2, "seen"), (0.2, "unseen")):
        for place, rival in enumerate(rivals):
            values = [m["fair"]["policies"]["seq2seq"][kind]["wins"][rival] for m in measurements]
            bar(axis, place + shift, values, COLOURS[2 if kind == "seen" else 3], width=0.38)
        axis.bar(np.nan, np.nan, color=COLOURS[2 if kind == "seen" else 3], label=f"{kind} kinds of prompts")
    axis.axhline(0.5, color="black", linewidth=0.8)
    axis.set_xticks(range(len(rivals)), [f"against\n{LABELS.get(rival, rival)}" for rival in rivals], fontsize=8)
    axis.set_title("fair annotator: wins of PPO with the rewriter", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
