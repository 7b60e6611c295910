"""What a study leaves behind: the table of verdicts, a tidy table of everything measured, the picture of all claims."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lit_rlhf.evaluation.pictures import pyplot
from research.claims import Summary, verdict_text

RULE = (
    "A claim holds, or does not, where Student's 95 % interval over seeds and a bootstrap's (percentiles of 10,000 "
    "draws) both lie inside, or outside, of what its criterion asks, and the one-sided p of the sign test against the "
    "criterion's bound is .05 at most: with five seeds all five must agree (p = .031). None of the three would do "
    "alone: Student's interval takes effects for normal, a bootstrap's is too narrow for a handful of seeds (with five "
    "it covers the truth in about 83 % of the cases), and the sign test does not ask how large an effect is."
)


def markdown(summary: Summary) -> str:
    """The claims as a table to be read on its own."""
    title = f"# Study `{summary['study']}`" + (f", row {summary['row'].upper()}" if summary.get("row") else "")
    versions = summary["versions"]
    lines = [
        title,
        "",
        f"Measured until {summary['date']}, Python {versions['python']}, torch {versions['torch']}.",
        "",
        *claims_table(summary["claims"]),
        "",
        RULE,
    ]
    notes = _texts(summary, "note", lambda row: row["verdict"] != "holds")
    remarks = _texts(summary, "remark", lambda row: True)
    lines += ["", "Criteria, stated before the run unless said otherwise:", ""]
    lines += [f"- `{row['id']}`: {row['criterion']}.{_late(row)}" for row in summary["claims"]]
    lines += ["", "What did not hold, and the likely reason:", "", *notes] if notes else []
    lines += (["", "To be known beside the verdicts:", "", *remarks] if remarks else []) + [""]
    settings = json.dumps(summary["settings"], indent=2)
    return "\n".join(lines) + f"\n<details><summary>Settings</summary>\n\n```json\n{settings}\n```\n\n</details>\n"


def claims_table(rows: list[dict[str, Any]]) -> list[str]:
    """Claims as lines of a Markdown table."""
    lines = [
        "| claim | paper | measured | effect [95 % over seeds] | bootstrap | sign test | seeds | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        p = "–" if row["sign_p"] is None else f"{row['sign_p']:.3f}"
        cells = [row["claim"], row["paper"], row["measured"], effect_text(row), bootstrap_text(row), p]
        cells += [str(row["seeds"]), f"**{verdict_text(row)}**"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def effect_text(row: dict[str, Any]) -> str:
    """A claim's effect with Student's interval."""
    return f"{_number(row['effect'])} [{_number(row['ci_low'])}, {_number(row['ci_high'])}]"


def bootstrap_text(row: dict[str, Any]) -> str:
    """The bootstrap's interval of a claim's effect."""
    return f"[{_number(row['bootstrap_low'])}, {_number(row['bootstrap_high'])}]"


def print_claims(summary: Summary) -> None:
    """Print the verdicts on the screen."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"study {summary['study']}", show_lines=True)
    for column in ("claim", "paper", "measured", "effect [95 %]", "verdict"):
        table.add_column(column)
    for row in summary["claims"]:
        table.add_row(row["claim"], row["paper"], row["measured"], effect_text(row), verdict_text(row))
    Console().print(table)


def _late(row: dict[str, Any]) -> str:
    done = row["measured_before"]
    return f" **Stated after {done} part{'s' * (done > 1)} had been measured.**" if done else ""


def _texts(summary: Summary, what: str, wanted: Callable[[dict[str, Any]], bool]) -> list[str]:
    """The notes or remarks of some claims as a list, each once, behind the claims that it belongs to."""
    of: dict[str, list[str]] = {}
    for row in summary["claims"]:
        if row[what] and wanted(row):
            of.setdefault(row[what], []).append(f"`{row['id']}`")
    return [f"- {', '.join(ids)}: {text}" for text, ids in of.items()]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def write_measurements(study: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Write all figures of all parts and seeds as a tidy table: study, part, seed, figure, value.

    A figure's name is where it stands in the measurement, such as ``flips/0.1/ppo/seen/gold``; entries of lists are
    numbered from 0, and a slash within a name is ``~1`` (as in JSON pointers, RFC 6901).

    Args:
        study: The study's name.
        rows: One per part and seed, with ``part``, ``seed`` and ``found``.
        path: The file; it appears whole or not at all.
    """
    found = [(row["part"], row["seed"], *each) for row in rows for each in _figures(row["found"])]
    parts, seeds, figures, values = zip(*found, strict=True) if found else ((), (), (), ())
    table = pa.table(
        {
            "study": pa.array([study] * len(found), pa.string()).dictionary_encode(),
            "part": pa.array(parts, pa.string()).dictionary_encode(),
            "seed": pa.array(seeds, pa.int64()),
            "figure": pa.array(figures, pa.string()).dictionary_encode(),
            "value": pa.array(values, pa.float64()),
        }
    )
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def _figures(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested dicts and lists, with its place; what is not known is left out."""
    if isinstance(found, dict | list):
        entries = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in entries:
            step = str(key).replace("~", "~0").replace("/", "~1")
            yield from _figures(value, f"{name}/{step}" if name else step)
    elif isinstance(found, int | float):
        yield name, float(found)


def verdict_picture(summary: Summary, path: Path) -> None:
    """Each claim's effect with its interval, the region where it holds shaded, coloured by its verdict."""
    plt = pyplot()
    rows = summary["claims"]
    colours = {"holds": "#2f855a", "does not hold": "#c53030", "undecided": "#718096"}
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 0.42 * len(rows) + 0.6), constrained_layout=True)
    for axis, row in zip(np.atleast_1d(axes), rows, strict=True):
        ends = [row[name] for name in ("ci_low", "ci_high", "low", "high") if row[name] is not None]
        if row["effect"] is not None and ends:
            reach = max(ends) - min(ends) or 1.0
            left, right = min(ends) - 0.15 * reach, max(ends) + 0.15 * reach
            inside = (left if row["low"] is None else row["low"], right if row["high"] is None else row["high"])
            axis.axvspan(*inside, color="#2f855a", alpha=0.12, linewidth=0)
            axis.plot([row["ci_low"], row["ci_high"]], [0, 0], color=colours[row["verdict"]], linewidth=2)
            axis.plot(row["effect"], 0, "o", color=colours[row["verdict"]])
            axis.set_xlim(left, right)
        axis.set_yticks([0], [fill(row["claim"], 56)], fontsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.tick_params(axis="x", labelsize=6, pad=1)
        axis.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle("effect with its 95 % interval over seeds; shaded: where the claim holds", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
