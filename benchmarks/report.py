"""What people look at: a Markdown table, and a picture of the ratios with the loss curves laid over each other."""

from pathlib import Path
from typing import Any

from lit_rlhf.evaluation.pictures import COLOURS, pyplot


def meets(row: dict[str, Any]) -> bool:
    """Whether a row reaches what is asked for."""
    return row["ratio"] <= row["at_least"] if row["better"] == "lower" else row["ratio"] >= row["at_least"]


def table(rows: list[dict[str, Any]], about: str) -> str:
    """The rows as Markdown."""
    lines = [about, "", "| row | what | peer | ratio (lowest–highest) | asked for | repetitions | parity |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        parity = "–" if row["parity"] is None else f"{row['parity']:.3g}"
        ratio = f"{row['ratio']:.2f} ({row['lowest']:.2f}–{row['highest']:.2f})"
        asked = f"{'≤' if row['better'] == 'lower' else '≥'} {row['at_least']:g}, {'yes' if meets(row) else '**no**'}"
        cells = (f"`{row['id']}`", row["what"], row["peer"], ratio, asked, str(row["repetitions"]), parity)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Left the ratios with what is asked for, right the losses over identical batches."""
    plt = pyplot()
    curves = [row for row in rows if "curves" in row]
    shape = {"width_ratios": [1.6, *[1.0] * len(curves)]}
    figure, axes = plt.subplots(
        1, 1 + len(curves), figsize=(7 + 3.6 * len(curves), 1.2 + 0.32 * len(rows)), constrained_layout=True,
        squeeze=False, gridspec_kw=shape,
    )  # fmt: skip
    _ratios(axes[0, 0], rows)
    for axis, row in zip(axes[0, 1:], curves, strict=True):
        axis.plot(row["curves"]["peer"], color=COLOURS[2], linewidth=4, alpha=0.4, label=row["peer"])
        axis.plot(row["curves"]["ours"], color=COLOURS[1], linewidth=1, label="here")
        axis.set_title(f"{row['id']}: loss over identical batches\nlargest difference {row['parity']:.1e}", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(labelsize=8)
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _ratios(axis: Any, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        colour = COLOURS[3] if meets(row) else COLOURS[2]
        axis.plot([row["lowest"], row["highest"]], [place, place], color=colour, linewidth=2)
        axis.plot(row["ratio"], place, "o", color=colour, markersize=5)
        axis.plot(
            row["at_least"], place, marker="<" if row["better"] == "lower" else ">", color=COLOURS[0], markersize=6
        )
    axis.set_yticks(list(places), [row["id"] for row in rows], fontsize=8)
    axis.axvline(1.0, color=COLOURS[0], linewidth=0.6, linestyle=":")
    axis.set_xscale("log")
    ticks = (0.25, 0.5, 1, 2, 4, 8)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axis.minorticks_off()
    axis.set_title(
        "ratio to the peer with lowest and highest;\ntriangles: asked for, on the side they point to", fontsize=9
    )
    axis.spines[["top", "right"]].set_visible(False)
