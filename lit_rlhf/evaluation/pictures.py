"""What people look at: the table on the screen and the pictures."""

import json
import os
from pathlib import Path
from typing import Any

COLOURS = ("#4c566a", "#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280")

OUTCOMES = ("wins", "ties", "losses")

_TITLES = {"kl": "KL to {first},\nnats per response", "response_length": "response length,\ntokens"}


def print_table(result: dict[str, Any], policies: list[str]) -> None:
    """Print each policy's headline figures, the gold reward on further sources, then the paired differences."""
    from rich.console import Console
    from rich.table import Table

    columns = shown_columns(result, policies)
    order = ["gold_reward", "proxy_reward", "kl", *(name for name in columns if name.startswith("win_rate"))]
    columns = [name for name in order if name in columns] + [name for name in columns if name not in order]
    wins = f"wins_vs_{policies[0]}"
    if wins in result[policies[0]]:
        columns.insert(columns.index(f"win_rate_vs_{policies[0]}") + 1, wins)
    table = Table(title="the same prompts, answered by each policy (95 % interval over prompts)")
    table.add_column("policy")
    for column in columns:
        table.add_column(" / ".join(OUTCOMES) if column == wins else column.replace("_", " "), justify="right")
    for name in policies:
        table.add_row(name, *(_cell(result[name], column) for column in columns))
    console = Console()
    console.print(table)
    if "referee" in result:
        console.print(_trust(result["referee"]), highlight=False, markup=False)
    for source, figures in result["splits"].items():
        column = next((name for name in order[:2] if name in figures[policies[0]]), None)
        if column is not None:
            rewards = ", ".join(f"{name} {_cell(figures[name], column)}" for name in policies)
            console.print(f"{source}: {column.replace('_', ' ')} {rewards}", highlight=False, markup=False)
    for pair, values in result["differences"].items():
        metric = next(iter(values))
        verdict = "not distinguishable" if values["low"] <= 0 <= values["high"] else "distinguishable"
        console.print(
            f"{pair}: {metric.replace('_', ' ')} {values[metric]:+.3f} [{values['low']:+.3f}, {values['high']:+.3f}], "
            f"{verdict} from zero on these prompts; other training seeds may well say otherwise"
        )


def shown_columns(result: dict[str, Any], policies: list[str]) -> list[str]:
    """The figures with a column or panel of their own: no ends of intervals, no counts of wins, ties and losses."""
    ends = ("_low", "_high", *(f"{name}_vs_{policies[0]}" for name in OUTCOMES))
    return [name for name in result[policies[0]] if not name.endswith(ends)]


def _trust(referee: dict[str, Any]) -> str:
    """How far the referee can be trusted, in a sentence."""
    text = f"wins by {referee['name']}, both orders: {referee['answers']:,} answers"
    if "inconsistent" in referee:
        text += f"; the verdict changes with the order on {100 * referee['inconsistent']:.1f} % of the pairs (ties)"
    if "picks_first" in referee:
        text += f"; what is shown first is picked in {100 * referee['picks_first']:.1f} %"
    return text + f"; {referee['unparseable']:,} answers name no outcome (ties)"


def _cell(figures: dict[str, float], column: str) -> str:
    if column.startswith("wins_vs_"):
        return " / ".join(f"{figures[column.replace('wins', outcome, 1)]:,}" for outcome in OUTCOMES)
    text = f"{figures[column]:.2f}"
    if f"{column}_low" in figures:
        text += f" [{figures[f'{column}_low']:.2f}, {figures[f'{column}_high']:.2f}]"
    return text


def comparison_picture(result: dict[str, Any], policies: list[str], path: Path) -> None:
    """Bars with intervals: what policies are judged by, and what it cost in KL and length."""
    plt = pyplot()
    shown = [name for name in shown_columns(result, policies) if name != "truncated"]
    counted = len(policies) > 1 and f"wins_vs_{policies[0]}" in result[policies[0]]
    panels = len(shown) + counted
    figure, axes = plt.subplots(1, panels, figsize=(2.6 * panels, 3.4), constrained_layout=True, squeeze=False)
    if counted:
        _outcomes_panel(axes.flat[-1], result, policies)
    for axis, column in zip(axes.flat, shown, strict=False):
        values = [result[name][column] for name in policies]
        spread = None
        if f"{column}_low" in result[policies[0]]:
            low = [value - result[name][f"{column}_low"] for name, value in zip(policies, values, strict=True)]
            high = [result[name][f"{column}_high"] - value for name, value in zip(policies, values, strict=True)]
            spread = [low, high]
        bars = axis.bar(range(len(policies)), values, yerr=spread, capsize=3, color=COLOURS[: len(policies)])
        axis.bar_label(bars, fmt="%.2f", label_type="edge", padding=2, fontsize=8)  # beyond bar and interval
        axis.margins(y=0.12)
        title = _TITLES[column] if column in _TITLES else column.replace("_", " ")
        axis.set_title(title.format(first=policies[0]), fontsize=10)
        axis.set_xticks(range(len(policies)), [name.replace("_", "\n") for name in policies], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _outcomes_panel(axis: Any, result: dict[str, Any], policies: list[str]) -> None:
    """Shares of wins, ties and losses of every other policy against the first one, stacked."""
    first, others = policies[0], policies[1:]
    counts = [[result[name][f"{outcome}_vs_{first}"] for outcome in OUTCOMES] for name in others]
    for place, row in enumerate(counts):
        bottom = 0.0
        for outcome, colour, count in zip(OUTCOMES, ("#319795", "#e2e8f0", "#b7791f"), row, strict=True):
            share = count / sum(row)
            axis.bar(place, share, bottom=bottom, color=colour, label=outcome if place == 0 else None)
            if share > 0.06:
                light = "black" if outcome == "ties" else "white"
                axis.text(place, bottom + share / 2, f"{share:.2f}", ha="center", va="center", color=light, fontsize=8)
            bottom += share
    axis.set_title(f"wins, ties, losses\nagainst {first}", fontsize=10)
    axis.set_xticks(range(len(others)), [name.replace("_", "\n") for name in others], fontsize=8)
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, handlelength=1)
    axis.spines[["top", "right"]].set_visible(False)


def curves_picture(histories: dict[str, Path], path: Path) -> None:
    """Training curves of several runs: rewards, KL and length by iteration, and reward against KL."""
    plt = pyplot()
    panels = [
        ("step", "train/gold_reward", "gold reward"),
        ("step", "train/reward", "proxy reward"),
        ("step", "train/kl", "KL to the SFT policy, nats per response"),
        ("step", "train/response_length", "response length, tokens"),
        ("step", "train/explained_variance", "explained variance of the critic"),
        ("train/kl", "train/gold_reward", "gold reward against KL"),
    ]
    rows = {name: _training_rows(history) for name, history in histories.items()}
    panels = [panel for panel in panels if any(panel[1] in row for table in rows.values() for row in table)]
    figure, axes = plt.subplots(2, -(-len(panels) // 2), figsize=(11, 6), constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (x, y, title) in zip(axes.flat, panels, strict=False):
        for colour, (name, table) in zip(COLOURS[1:], rows.items(), strict=False):
            points = [(row[x], row[y]) for row in table if x in row and y in row]
            style = {"marker": ".", "linestyle": "none"} if x != "step" else {}
            axis.plot([p[0] for p in points], [p[1] for p in points], color=colour, label=name, **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("PPO iteration" if x == "step" else "KL, nats per response", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _training_rows(history: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    return [row for row in rows if any(name.startswith("train/") for name in row)]


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files; in a notebook, what is drawn there goes on being shown."""
    import matplotlib

    if "inline" not in os.environ.get("MPLBACKEND", ""):
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
