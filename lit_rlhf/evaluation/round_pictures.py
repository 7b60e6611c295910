"""The table and the picture of rounds."""

from pathlib import Path
from typing import Any

from lit_rlhf.evaluation.pictures import COLOURS, pyplot

Arms = dict[str, dict[str, dict[str, float]]]
"""Figures by arm and round; round 0 is the SFT policy."""

_PANELS = {  # title: the figures drawn in it; where two are drawn, those are before and after MetaRM
    "gold reward": ("gold_reward",),
    "proxy gain over SFT,\nstd of the round's reward model": ("proxy_gain",),
    "win rate against SFT": ("win_rate",),
    "KL to SFT,\nnats per response": ("kl",),
    "response length, tokens": ("response_length",),
    "spread of scores on one prompt's\nsamples, before (●) and after (○)": ("spread_before", "spread_after"),
    "preference accuracy,\nbefore (●) and after (○)": ("accuracy_before", "accuracy_after"),
    "accuracy on true labels,\nbefore (●) and after (○)": ("true_accuracy_before", "true_accuracy_after"),
}
_COLUMNS = {  # of the table
    "gold": ("gold_reward",),
    "proxy\ngain": ("proxy_gain",),
    "win\nrate": ("win_rate",),
    "KL": ("kl",),
    "length": ("response_length",),
    "spread": ("spread_before", "spread_after"),
    "accuracy": ("accuracy_before", "accuracy_after"),
    "true\nlabels": ("true_accuracy_before", "true_accuracy_after"),
}


def print_rounds(arms: Arms) -> None:
    """Print one row per arm and round, with what was measured, and one for the SFT policy."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    title = "round by round; spread of scores and accuracy before → after MetaRM"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    shown = {title: names for title, names in _COLUMNS.items() if _measured(arms, names[0])}
    for heading in ("arm", "round"):
        table.add_column(heading)
    for heading in shown:
        table.add_column(heading, justify="right")
    first = next(iter(arms))
    for arm, rounds in arms.items():
        for number, figures in rounds.items():
            cells = ["→".join(f"{figures[name]:.2f}" for name in names if name in figures) for names in shown.values()]
            if number != "0" or arm == first:
                table.add_row(*(("SFT", "") if number == "0" else (arm, number)), *cells)
    Console().print(table)


def rounds_picture(arms: Arms, path: Path) -> None:
    """Each figure by round, a line for each arm, with intervals where they are known."""
    plt = pyplot()
    panels = {title: names for title, names in _PANELS.items() if _measured(arms, names[0])}
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    size = (3.1 * columns, 2.9 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for place, (arm, rounds) in enumerate(arms.items()):
            colour = COLOURS[1 + place % (len(COLOURS) - 1)]
            for name, after in zip(names, (False, True), strict=False):
                _line(axis, rounds, name, colour, 0.06 * place, after, None if after else arm)
        axis.set_title(title, fontsize=9)
        axis.set_xticks(sorted({int(number) for rounds in arms.values() for number in rounds}))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("round (0: the SFT policy)", fontsize=8)
    if len(arms) > 1:
        axes.flat[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _line(
    axis: Any,
    rounds: dict[str, dict[str, float]],
    name: str,
    colour: str,
    shift: float,
    after: bool,
    label: str | None,
) -> None:
    """One figure of one arm; a small shift keeps the intervals of arms apart."""
    found = {int(number) + shift: figures for number, figures in rounds.items() if name in figures}
    values = [figures[name] for figures in found.values()]
    style: dict[str, Any] = {"linestyle": ":", "markerfacecolor": "white"} if after else {}
    axis.plot(list(found), values, marker="o", markersize=5, color=colour, label=label, **style)
    bounded = {place: figures for place, figures in found.items() if f"{name}_low" in figures}
    ends = [[figures[f"{name}_{end}"] for figures in bounded.values()] for end in ("low", "high")]
    axis.vlines(list(bounded), *ends, color=colour, linewidth=1)


def _measured(arms: Arms, name: str) -> bool:
    return any(name in figures for rounds in arms.values() for figures in rounds.values())
