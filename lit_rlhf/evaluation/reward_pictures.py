"""What people look at of a reward model's evaluation: tables on the screen, pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_rlhf.evaluation.benchmarks import STYLES
from lit_rlhf.evaluation.pictures import COLOURS, pyplot

Points = NDArray[np.float64]
Figures = dict[str, Any]

# ---------------------------------------------------------------------- on the screen


def print_pairs(pairs: Figures) -> None:
    """Print every figure on preference pairs, with its interval where it has one."""
    from rich.console import Console
    from rich.table import Table

    figures, counts = pairs["figures"], pairs["counts"]
    left_out = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items() if n and name != "kept")
    table = Table(title=f"{counts['kept']:,} validation pairs" + (f" (left out: {left_out})" if left_out else ""))
    table.add_column("figure")
    table.add_column("value [95 %]", justify="right")
    for name, value in figures.items():
        if not name.endswith(("_low", "_high")):
            bounds = (figures.get(f"{name}_low"), figures.get(f"{name}_high"))
            table.add_row(name.replace("_", " "), _interval(value, *bounds))
    Console().print(table)


def print_benchmark(name: str, figures: Figures) -> None:
    """Print a benchmark's shares by subset and section beside the official figures and what lengths alone reach."""
    from rich.table import Table

    long = figures["over_length"]
    left_out = f", {long:,} left out as too long" if long else ""
    title = f"{name}, {figures['format']}: share right [95 %], {figures['rows']:,} rows{left_out}"
    official, baselines = figures.get("official"), figures.get("baselines") or {}
    shown = {"longest": "longest wins", "shortest": "shortest wins"}
    known = [each for each in shown if each in baselines]
    further = [each for each in figures["overall"] if each not in ("share", "low", "high", "n", "matrix")]
    table = Table(title=title)
    table.add_column("subset")
    columns = ["rows", "share, ours" if official else "share", *(["official"] if official else [])]
    for column in (*columns, *(shown[each] for each in known), *further):
        table.add_column(column, justify="right")
    for group in _groups(figures).values():
        for subset, (row, theirs, lengths) in group.items():
            share = _interval(row["share"], row["low"], row["high"])
            beside = [_cell(theirs)] if official else []
            further_cells = [_cell(row.get(each)) for each in further]
            table.add_row(
                subset, f"{row['n']:,}", share, *beside, *(_cell(lengths.get(e)) for e in known), *further_cells
            )
        table.add_section()
    wide_print(table)
    if official:
        wide_print(_told(official))
        wide_print(f"ours: {figures['ours']['rule']}")
    if known:
        wide_print(f"longest and shortest: {baselines['rule']}")


def _groups(figures: Figures) -> dict[str, dict[str, tuple[Figures, Any, Figures]]]:
    """Subsets, sections, and means: of each row our figures, the official one, and those of the baselines."""
    official: Figures = figures.get("official") or {"subsets": {}, "sections": {}, "score": None}
    baselines = {name: each for name, each in (figures.get("baselines") or {}).items() if name != "rule"}
    ours = figures.get("ours") or {}

    def row(theirs: Any, *place: str) -> tuple[Figures, Any, Figures]:
        return _at(figures, place), theirs, {name: _at(each, place) for name, each in baselines.items()}

    subsets = {
        name: row(official["subsets"].get(name, {}).get("score"), "subsets", name) for name in figures["subsets"]
    }
    sections = {
        name: row(official["sections"].get(name, {}).get("score"), "ours", "sections", name)
        for name in ours.get("sections", {})
        if name not in subsets
    }
    means = {"score": row(official["score"], "ours", "score")} if "score" in ours else {}
    if len(subsets) > 1:
        means |= {"mean over subsets": row(None, "mean_over_subsets"), "all rows": row(None, "overall")}
    return {"subsets": subsets, "sections": sections, "means": means}


def _at(figures: Figures, place: tuple[str, ...]) -> Figures:
    for step in place:
        figures = figures[step]
    return figures


def _told(official: Figures) -> str:
    """The official figures in words: what they are of, what they lack, and the rule."""
    lines = [f"official: {official['benchmark']}, score {_cell(official['score'])}; {official['rule']}"]
    if official["partial"]:
        lacking = [f"no rows of {', '.join(official['missing'])}"] if official["missing"] else []
        sizes = (f"{name} {each['rows']:,} of {each['of']:,}" for name, each in official["incomplete"].items())
        lacking += [f"not all published rows: {', '.join(sizes)}"] if official["incomplete"] else []
        lacking += [f"rows left out as too long: {official['over_length']:,}"] if official["over_length"] else []
        lines.append(f"  partial, not to be set beside published scores: {'; '.join(lacking)}")
    if official["other_subsets"]:
        lines.append(f"  not part of it: {', '.join(official['other_subsets'])}")
    if "hard" in official:
        parts = (f"{name} {_cell(official[name])}" for name in ("easy", "normal", "hard"))
        lines.append(f"  {', '.join(parts)}")
    if "ties" in official:
        parts = (
            f"{name} {each if isinstance(each, int | str) else _cell(each)}" for name, each in official["ties"].items()
        )
        lines.append(f"  Ties: {', '.join(parts)}")
    if "prior_sets" in official:
        prior, score = (_cell(official[name]) for name in ("prior_sets", "score_with_prior_sets"))
        lines.append(f"  with prior sets ({prior}) at half a section's weight: {score}")
    return "\n".join(lines)


def wide_print(shown: Any) -> None:
    """Print a table, or a text as it stands, in one piece: figures are not broken over lines on a narrow screen."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    if isinstance(shown, str):
        console.print(shown, highlight=False, markup=False, soft_wrap=True)
        return
    wide = console.options.update(width=10_000)
    console.width = max(console.width, Measurement.get(console, wide, shown).maximum)
    console.print(shown)


def _rows(figures: Figures) -> dict[str, Figures]:
    """The subsets, and where they are several their mean and all rows."""
    overall = {"mean over subsets": figures["mean_over_subsets"], "all rows": figures["overall"]}
    return figures["subsets"] | (overall if len(figures["subsets"]) > 1 else {})


def _cell(value: Any) -> str:
    """A number, or a share without its interval: the table has to fit the screen."""
    value = value["share"] if isinstance(value, dict) else value
    return "–" if value is None else f"{value:.3f}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


# ---------------------------------------------------------------------- pairs


def pairs_picture(pairs: Figures, path: Path) -> None:
    """Reliability diagram, and accuracy by the fifths of strength and of length gap."""
    tables, figures = pairs["tables"], pairs["figures"]
    plt = pyplot()
    fifths = [
        ("by_strength", "accuracy by fifth of strength", "mean strength of the fifth"),
        ("by_length_gap", "accuracy by fifth of length gap", "mean length gap, chosen − rejected, tokens"),
    ]
    shown = [each for each in fifths if tables[each[0]]]
    figure, axes = plt.subplots(1, 1 + len(shown), figsize=(4.2 * (1 + len(shown)), 3.8), constrained_layout=True)
    axes = np.atleast_1d(axes)
    axes[0].plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8, linestyle="--", label="perfectly calibrated")
    _errorbars(axes[0], [row["confidence"] for row in tables["reliability"]], tables["reliability"])
    axes[0].set_title(f"reliability (calibration error {figures.get('calibration_error', np.nan):.3f})", fontsize=10)
    axes[0].set_xlabel("confidence σ(|Δ|)", fontsize=9)
    axes[0].set_ylabel("share right", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    for axis, (name, title, label) in zip(axes[1:], shown, strict=True):
        rows = tables[name]
        _errorbars(axis, list(range(1, len(rows) + 1)), rows)
        axis.axhline(figures["accuracy"], color="grey", linewidth=0.8, linestyle="--")
        axis.set_xticks(range(1, len(rows) + 1), [f"{row['value']:.3g}\nn = {row['n']:,}" for row in rows], fontsize=8)
        axis.set_xlim(0.5, len(rows) + 0.5)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label, fontsize=9)
    for axis in axes:
        axis.set_ylim(-0.03, 1.03)
    _save(plt, figure, path)


def _errorbars(axis: Any, x: list[Any], rows: list[Figures]) -> None:
    shares, bars = _bars(rows)
    axis.errorbar(x, shares, bars, fmt="o-", color=COLOURS[1], capsize=3, markersize=4)


def _bars(rows: list[Figures]) -> tuple[list[float], list[list[float]]]:
    """Shares, and how far their intervals reach below and above."""
    low = [max(0.0, row["share"] - row["low"]) for row in rows]
    high = [max(0.0, row["high"] - row["share"]) for row in rows]
    return [row["share"] for row in rows], [low, high]


def projection(chosen: Points, rejected: Points) -> tuple[Points, Points]:
    """Features ``(N, H)`` of both classes in two dimensions, each ``(N, 2)``.

    First the direction between the class means, then the first principal component of what is left. As in
    `FeatureSeparation`, each half of the pairs is projected on the other half's direction: along its own, many
    dimensions would separate any two sets.
    """
    both = np.stack([chosen, rejected])  # (2, N, H)
    placed = np.zeros((*both.shape[:2], 2))
    rest = np.zeros_like(both)
    for half in range(2):
        mine, other = both[:, half::2], both[:, 1 - half :: 2]
        direction = other[0].mean(0) - other[1].mean(0)
        direction = direction / max(float(np.linalg.norm(direction)), 1e-12)
        centred = mine - other.mean((0, 1))
        along = centred @ direction
        placed[:, half::2, 0] = along
        rest[:, half::2] = centred - along[..., None] * direction
    flat = rest.reshape(-1, both.shape[2])
    flat = flat - flat.mean(0)
    placed[..., 1] = (flat @ np.linalg.svd(flat, full_matrices=False)[2][0]).reshape(both.shape[:2])
    return placed[0], placed[1]


def features_picture(chosen: Tensor, rejected: Tensor, separation: float | None, path: Path) -> None:
    """The features of chosen and rejected responses in two dimensions; nothing is drawn of fewer than eight pairs."""
    if len(chosen) < 8:
        return
    plt = pyplot()
    groups = projection(chosen.double().cpu().numpy(), rejected.double().cpu().numpy())
    size = {"figsize": (6, 6.4), "height_ratios": [1, 3]}
    figure, (top, axis) = plt.subplots(2, 1, sharex=True, constrained_layout=True, **size)
    both = np.concatenate(groups)[:, 0]
    edges = np.linspace(both.min(), both.max(), 40)
    for name, points, colour in zip(("chosen", "rejected"), groups, (COLOURS[1], COLOURS[2]), strict=True):
        axis.scatter(*points.T, s=8, alpha=0.45, color=colour, linewidths=0, label=name)
        top.hist(points[:, 0], edges.tolist(), color=colour, alpha=0.5)
    known = "" if separation is None else f", d′ = {separation:.2f}"
    top.set_title(f"features of {len(chosen):,} pairs{known}", fontsize=10)
    top.set_yticks([])
    axis.set_xlabel("along the direction that separates the other half of the pairs", fontsize=9)
    axis.set_ylabel("first principal component of the rest", fontsize=9)
    axis.legend(frameon=False, fontsize=9, markerscale=2)
    _save(plt, figure, path)


# ---------------------------------------------------------------------- benchmarks


def benchmark_picture(name: str, figures: Figures, path: Path) -> None:
    """RM-Bench: a matrix of styles per domain; other formats: the share of each subset with its interval."""
    if not figures["overall"]["n"]:
        return
    draw = _matrices if figures["format"] == "rm-bench" else _subset_bars
    draw(name, figures, path)


def _subset_bars(name: str, figures: Figures, path: Path) -> None:
    plt = pyplot()
    rows = {label: row for label, row in _rows(figures).items() if row["n"]}
    places = np.arange(len(rows))[::-1]
    shares, bars = _bars(list(rows.values()))
    figure, axis = plt.subplots(figsize=(7, 1.6 + 0.3 * len(rows)), constrained_layout=True)
    colours = [COLOURS[1 if label in figures["subsets"] else 0] for label in rows]
    axis.barh(places, shares, color=colours, height=0.7)
    axis.errorbar(shares, places, xerr=bars, fmt="none", ecolor="black", capsize=2, linewidth=1)
    for place, row in zip(places, rows.values(), strict=True):
        axis.text(1.02, place, f"{row['share']:.2f}", va="center", fontsize=8)
    chances = [row.get("chance", 0.5) for row in rows.values()]
    axis.vlines(chances, places - 0.4, places + 0.4, color=COLOURS[2], linewidth=2, label="a response picked at random")
    for marker, (baseline, known) in zip("><", _baseline_shares(figures, list(rows)).items(), strict=False):
        style = {"marker": marker, "s": 26, "color": "white", "edgecolors": "black", "zorder": 3}
        axis.scatter(known, places, label=f"the {baseline} wins", **style)
    figure.legend(frameon=False, fontsize=8, loc="outside lower right", ncols=3)
    axis.set_yticks(places, [f"{label} ({row['n']:,})" for label, row in rows.items()], fontsize=8)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share right by our counting, with 95 % interval", fontsize=9)
    axis.set_title(f"{name} ({figures['format']})", fontsize=10)
    _save(plt, figure, path)


def _baseline_shares(figures: Figures, labels: list[str]) -> dict[str, list[float]]:
    """What the longest and the shortest response reach in each of these rows."""
    known = {name: _rows(each) for name, each in (figures.get("baselines") or {}).items() if name != "rule"}
    return {name: [rows[label]["share"] for label in labels] for name, rows in known.items()}


def _matrices(name: str, figures: Figures, path: Path) -> None:
    plt = pyplot()
    groups = {label: group for label, group in _rows(figures).items() if group["n"] and label != "all rows"}
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    size = (3.6 * columns + 0.8, 3.6 * lines + 0.5)
    figure, axes = plt.subplots(lines, columns, figsize=size, constrained_layout=True, squeeze=False)
    picture = None
    for axis, (label, group) in zip(axes.flat, groups.items(), strict=False):
        shares = np.array([[cell["share"] for cell in row] for row in group["matrix"]])
        picture = axis.imshow(shares, vmin=0, vmax=1, cmap="RdYlBu")
        for (i, j), share in np.ndenumerate(shares):
            axis.text(j, i, f"{share:.2f}", ha="center", va="center", color="black" if 0.2 < share < 0.8 else "white")
        parts = ", ".join(f"{part} {group[part]['share']:.2f}" for part in ("easy", "normal", "hard"))
        axis.set_title(f"{label} (n = {group['n']:,})\n{parts}", fontsize=9)
        axis.set_xticks(range(3), STYLES, fontsize=8)
        axis.set_yticks(range(3), STYLES, fontsize=8, rotation=90, va="center")
        axis.set_xlabel("rejected", fontsize=8)
        axis.set_ylabel("chosen", fontsize=8)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share right")
    figure.suptitle(f"{name}: chosen style against rejected style", fontsize=11)
    _save(plt, figure, path, frame=True)


def _save(plt: Any, figure: Any, path: Path, frame: bool = False) -> None:
    """Write a picture whole or not at all."""
    for axis in figure.axes:
        if not frame:
            axis.spines[["top", "right"]].set_visible(False)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=130, format="png")
    partial.rename(path)
    plt.close(figure)
