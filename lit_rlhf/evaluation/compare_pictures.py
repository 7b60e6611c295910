"""What people look at of a comparison beyond its first table and picture: all pairs of policies, and best of n."""

import math
from pathlib import Path
from typing import Any

from lit_rlhf.evaluation.pictures import COLOURS, pyplot

Curves = dict[str, list[dict[str, float]]]

_REWARDS = {"gold_reward": "gold reward", "proxy_reward": "proxy reward"}


def print_best_of_n(curves: Curves) -> None:
    """Print what the best of n samples by the proxy is worth, for each policy and n."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the best of n samples by the proxy (unbiased, 95 % interval over prompts)")
    table.add_column("policy")
    for column in ("n", "KL to it, at most", *_REWARDS.values()):
        table.add_column(column, justify="right")
    for name, rows in curves.items():
        for row in rows:
            worth = [f"{row[key]:.2f} [{row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f}]" for key in _REWARDS]
            table.add_row(name if row is rows[0] else "", f"{row['n']}", f"{row['kl']:.2f}", *worth)
        table.add_section()
    Console().print(table)


def best_of_n_picture(curves: Curves, path: Path) -> None:
    """Gold and proxy reward of the best of n against n; the KL divergence that it costs stands below n."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), constrained_layout=True)
    for axis, (key, title) in zip(axes, _REWARDS.items(), strict=True):
        for place, (name, rows) in enumerate(curves.items()):
            n, colour = [row["n"] for row in rows], COLOURS[place % len(COLOURS)]
            axis.plot(n, [row[key] for row in rows], marker="o", markersize=4, color=colour, label=name)
            low, high = ([row[f"{key}_{end}"] for row in rows] for end in ("low", "high"))
            axis.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
        ticks = [(row["n"], f"{row['n']}\n{row['kl']:.2f}") for row in next(iter(curves.values()))]
        axis.set_xscale("log", base=2)
        axis.set_xticks([n for n, _ in ticks], [label for _, label in ticks], fontsize=8)
        axis.minorticks_off()
        axis.set_title(f"{title} of the best by the proxy", fontsize=10)
        axis.set_xlabel("n, and below it the KL to the policy itself (at most), nats per response", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def win_rates_picture(matrix: dict[str, dict[str, Any]], path: Path) -> None:
    """Win rate of every policy (row) against every other one (column), with its interval."""
    plt = pyplot()
    names = list(matrix)
    size = 1.6 + 1.1 * len(names)
    rates = [[matrix[row][column]["win_rate"] if row != column else math.nan for column in names] for row in names]
    figure, axis = plt.subplots(figsize=(size + 0.6, size), constrained_layout=True)
    axis.set_facecolor("#e2e8f0")  # of the diagonal
    axis.imshow(rates, vmin=0, vmax=1, cmap="RdYlGn", alpha=0.7)
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            if row != column:
                cell = matrix[row][column]
                text = f"{cell['win_rate']:.2f}\n[{cell['low']:.2f}, {cell['high']:.2f}]"
                axis.text(j, i, text, ha="center", va="center", fontsize=8)
    labels = [name.replace("_", "\n") for name in names]
    axis.set_xticks(range(len(names)), labels, fontsize=8)
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    axis.set_title("win rate of the row against the column\n(ties count half)", fontsize=10)
    axis.set_xlabel("against", fontsize=9)
    axis.spines[:].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
