"""What people look at: the table on the screen and the pictures."""

import json
from pathlib import Path
from typing import Any

COLOURS = ("#4c566a", "#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280")

_TITLES = {"kl": "KL to {first},\nnats per response", "response_length": "response length,\ntokens"}


def print_table(result: dict[str, Any], policies: list[str]) -> None:
    """Print each policy's headline figures, the gold reward on further sources, then the paired differences."""
    from rich.console import Console
    from rich.table import Table

    columns = [name for name in result[policies[0]] if not name.endswith(("_low", "_high"))]
    order = ["gold_reward", "proxy_reward", "kl", *(name for name in columns if name.startswith("win_rate"))]
    columns = [name for name in order if name in columns] + [name for name in columns if name not in order]
    table = Table(title="the same prompts, answered by each policy (95 % interval over prompts)")
    table.add_column("policy")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name in policies:
        table.add_row(name, *(_cell(result[name], column) for column in columns))
    console = Console()
    console.print(table)
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
            f"{verdict} from zero on these prompts with this one training seed"
        )


def _cell(figures: dict[str, float], column: str) -> str:
    text = f"{figures[column]:.2f}"
    if f"{column}_low" in figures:
        text += f" [{figures[f'{column}_low']:.2f}, {figures[f'{column}_high']:.2f}]"
    return text


def comparison_picture(result: dict[str, Any], policies: list[str], path: Path) -> None:
    """Bars with intervals: what policies are judged by, and what it cost in KL and length."""
    plt = pyplot()
    shown = [name for name in result[policies[0]] if not name.endswith(("_low", "_high")) and name != "truncated"]
    figure, axes = plt.subplots(1, len(shown), figsize=(2.6 * len(shown), 3.4), constrained_layout=True, squeeze=False)
    for axis, column in zip(axes.flat, shown, strict=True):
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
    """Matplotlib's pyplot, drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
