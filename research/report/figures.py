"""The report's figures, computed from what the studies measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from research.claims import Measurement
from research.report.charts import Line, interval_chart, line_chart, over_seeds
from research.report.sources import Results
from research.studies.ppo_claims import Arm, smoothed
from research.studies.ppo_pictures import GAINS

PAPER_SLICES = [0.33, 0.35, 0.45, 0.56, 0.65, 0.68, 0.68, 0.68, 0.67, 0.66]
"""Accuracy by tenth of strength; read off a figure of "Secrets of RLHF II" (arXiv 2401.06080)."""
PAPER_AGREEMENT = ([1, 5.5, 10], [0.164, 0.544, 0.956])
"""Of the bottom, middle and top 500 pairs of the same paper."""
TREATMENTS = {
    "baseline": "as labelled",
    "margin": "margin",
    "flip": "flip 10 %",
    "soft_margin": "soft label + margin",
    "flip_margin": "flip + margin",
}
_VARIANTS = {"simcse_pairs": "SimCSE, pairs", "simcse_differences": "SimCSE, differences", "swav_pairs": "SwAV, pairs",
             "swav_differences": "SwAV, differences", "views_only": "two views, no loss"}  # fmt: skip
_POLICIES = {"sft": "SFT", "scalar": "PPO, scalar model", "increments": "PPO-T", "seq2seq": "PPO, rewriter"}


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        row: The row of claims that it belongs to.
        title: What it shows.
        body: The chart, HTML.
        note: What is to be known.
    """

    row: str
    title: str
    body: str
    note: str = ""


def figures_of(study: Results) -> list[Figure]:
    """The figures of one study; none where its table of figures is missing or of another version.

    Args:
        study: What it left behind.
    """
    found = []
    for make in FIGURES[study.name] if study.measurements else ():
        try:
            found.append(make(study.measurements))
        except KeyError:  # an older version measured less: the figures that it has are drawn
            continue
    return found


def agreement(measured: list[Measurement]) -> Figure:
    """Labels that are right, by tenth of strength."""
    reports = [[m["strength"] for m in measured], [m["strength"]["unseen"] for m in measured]]
    shares = [[[each["share"] for each in one["true_label"]["agreement"]] for one in some] for some in reports]
    names = ("pairs that voters were trained on", "pairs of unseen kinds")
    here = [
        over_seeds(name, range(1, len(some[0]) + 1), some, colour=colour)
        for name, some, colour in zip(names, shares, (1, 2), strict=True)
    ]
    paper = Line("paper: bottom, middle, top 500", *PAPER_AGREEMENT, colour=3, dashed=True)
    chart = line_chart([*here, paper], "tenth of strength, weakest first", "share of right labels")
    return Figure("s1", "Labels that are right, by strength", chart)


def slices(measured: list[Measurement]) -> Figure:
    """Accuracy of reward models that were trained on one tenth alone."""
    tenths = range(1, 11)
    lines = [
        over_seeds("one tenth, as labelled", tenths, [m["slices"]["accuracy"]["seen"] for m in measured]),
        over_seeds("the same, flipped", [1, 2], [m["slices"]["flipped"]["seen"] for m in measured], colour=2),
        over_seeds(
            "as labelled, unseen kinds", tenths, [m["slices"]["accuracy"]["unseen"] for m in measured], colour=4
        ),
        Line("paper", tenths, PAPER_SLICES, colour=3, dashed=True),
    ]
    chart = line_chart(lines, "tenth of strength, weakest first", "accuracy on true labels", at=0.5)
    return Figure("s2", "What one tenth of the pairs teaches", chart, "Accuracy on true labels of new prompts.")


def treatments(measured: list[Measurement], kind: str = "seen") -> Figure:
    """Accuracy over the epochs, on ``seen`` or ``unseen`` kinds of prompts."""
    lines = []
    for colour, (name, text) in enumerate(TREATMENTS.items(), 1):
        values = np.mean([m["treatments"][name][kind] for m in measured], axis=0).tolist()
        lines.append(Line(text, range(1, len(values) + 1), values, colour))
    chart = line_chart(lines, "epoch", "accuracy on true labels")
    return Figure("s4", f"Treated labels over the epochs, {kind} kinds of prompts", chart, "Means over seeds.")


def denoised(measured: list[Measurement]) -> Figure:
    """KL without a penalty, over the seeds on which it was measured."""
    measured = [m for m in measured if "denoised" in m] or measured
    lines = []
    for colour, name in enumerate(["baseline", "margin", "flip", "soft_margin"], 1):
        courses = [smoothed(m["denoised"]["policies"][name]["course"]["kl"]).tolist() for m in measured]
        lines.append(Line(TREATMENTS[name], range(1, len(courses[0]) + 1), np.mean(courses, 0).tolist(), colour))
    chart = line_chart(lines, "iteration of PPO", "KL to the SFT policy")
    return Figure("s5", "KL without a penalty, by the reward model's labels", chart,
                  f"Means over {len(measured)} seeds, running means over five iterations.")  # fmt: skip


def contrasted(measured: list[Measurement]) -> Figure:
    """What contrastive losses change."""
    rows = []
    for name, text in _VARIANTS.items():
        for colour, where in ((1, "seen"), (2, "unseen")):
            gains = [m["contrastive"][name][where] - m["contrastive"]["baseline"][where] for m in measured]
            rows.append((f"{text}: {where} kinds", gains, colour))
    return Figure("s6", "Accuracy with contrastive losses, minus the baseline's", interval_chart(rows, 0.0, "accuracy"))


def rounds(measured: list[Measurement]) -> Figure:
    """Win rates by round."""
    numbers = sorted(int(name.removeprefix("kept_")) for name in measured[0]["rounds"] if name.startswith("kept_"))
    lines = [
        over_seeds(text, numbers,
                   [[m["rounds"][f"{arm}_{n}"]["seen"]["wins"]["sft"] for n in numbers] for m in measured], colour)
        for colour, (arm, text) in enumerate([("kept", "the reward model stays"), ("meta", "MetaRM")], 1)
    ]  # fmt: skip
    chart = line_chart(lines, "round", "win rate against SFT", at=0.5)
    return Figure("s7", "Win rate against SFT over rounds", chart, "By gold reward, ties half.")


def regimes(measured: list[Measurement]) -> Figure:
    """The map: what centring changes, regime by regime."""
    rows = [(name, [_gold(one, other)(m) for m in measured], _colour(name)) for name, (one, other) in GAINS.items()]
    note = "Contrastive minus plain PPO on seen kinds of prompts; right of the line they help. Dots are seeds."
    return Figure("s8", "Map of regimes: what contrastive rewards change in gold reward", 
                  interval_chart(rows, 0.0, "gold reward, contrastive minus plain PPO"), note)  # fmt: skip


def _gold(one: Arm, other: Arm) -> Callable[[Measurement], float]:
    return lambda m: one(m)["seen"]["gold"] - other(m)["seen"]["gold"]


def _colour(regime: str) -> int:
    return 1 if "flipped" in regime else 2 if " sd" in regime else 4


def overoptimised(what: str, name: str) -> Callable[[list[Measurement]], Figure]:
    """Over-optimisation: proxy or gold reward over √KL, a line per seed."""

    def make(measured: list[Measurement]) -> Figure:
        lines = []
        for number, m in enumerate(measured):
            course = m["overoptimised"]["ppo"]["course"]
            x = np.sqrt(np.maximum(smoothed(course["kl"]), 0)).tolist()
            lines.append(Line(f"seed {number}", x, smoothed(course[what]).tolist(), number + 1, thin=True))
        chart = line_chart(lines, "√KL to the SFT policy", name)
        return Figure("over", f"Over-optimisation: {name}", chart, "Running means over five iterations.")

    return make


def world(part: str, what: str, title: str, row: str = "s9") -> Callable[[list[Measurement]], Figure]:
    """One figure of the policies of one annotator's world."""

    def make(measured: list[Measurement]) -> Figure:
        rows = [
            (text, [m[part]["policies"][name]["seen"][what] for m in measured], 2 if name == "seq2seq" else 1)
            for name, text in _POLICIES.items()
        ]
        start = float(np.mean(rows[0][1]))
        return Figure(row, title, interval_chart(rows, start, what), "The line is at the SFT policy's mean.")

    return make


FIGURES: dict[str, list[Callable[[list[Measurement]], Figure]]] = {
    "reward": [agreement, slices, treatments, partial(treatments, kind="unseen"), denoised, contrasted],
    "ppo": [regimes, overoptimised("reward", "proxy reward"), overoptimised("gold_reward", "gold reward"), rounds],
    "seq2seq": [
        world("length", "length", "Annotator who likes length: tokens per answer"),
        world("length", "gold", "Annotator who likes length: gold reward"),
        world("refusal", "refusal_scary", "Annotator who likes refusals: refusals of harmless requests"),
        world("fair", "gold", "Fair annotator: gold reward"),
    ],
}
