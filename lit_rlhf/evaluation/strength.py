"""The ``strength`` command: voters, their table, and how far the table can be believed."""

from pathlib import Path
from typing import Any

import numpy as np

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import write_json
from lit_rlhf.data.strength import own_differences, table_rows
from lit_rlhf.evaluation.pictures import COLOURS, pyplot
from lit_rlhf.evaluation.statistics import area_under_roc
from lit_rlhf.networks.together import rank
from lit_rlhf.rewards.metrics import share_with_interval
from lit_rlhf.rewards.scalar_module import ScalarRewardModule
from lit_rlhf.rewards.voters import Voting, vote, write_table

_BINS = 10
Rows = list[dict[str, Any]]
TEN_VOTERS = Voting()


def strength(
    data: PreferenceDataModule,
    out: str,
    voter: ScalarRewardModule | None = None,
    voting: Voting = TEN_VOTERS,
) -> dict[str, Any]:
    """Measure how strongly pairs are preferred: train voters, write the strength table, report on it.

    The table in ``out/table`` is what ``data.strength`` of a later run names. The report goes by ten bins of equal
    size, the weakest first, and looks at training pairs only, as the treatments do.

    Args:
        data: The preference pairs.
        out: Folder for the ``table``, the voters' parts, ``strength.json`` and the picture.
        voter: The reward model that every voter is, such as ``ScalarRewardModule``. None takes the scores that came
            with the pairs instead of voters.
        voting: How many voters, and how they are trained.

    Returns:
        ``pairs``, ``mean``, ``share_negative``, ``bins``, and for each second label that is known (``true_label`` of a
        synthetic world, ``judge_label``) the ``agreement`` per bin and the area under the ROC curve for finding the
        labels that it contradicts.
    """
    folder = Path(out)
    if voter is not None:
        vote(voter, data, folder, voting)
    else:
        data.load("pairs")
        scores = {row.record.pair_hash: own_differences(row.record) or [] for row in [*data.train_rows, *data.val_rows]}
        counts = {len(each) for each in scores.values()}
        if len(counts) > 1:
            raise DataError(f"pairs come with different numbers of scores: {sorted(counts)}", "option data.sources")
        votes = [{name: each[m] for name, each in scores.items()} for m in range(counts.pop())]
        write_table(folder / "table", data, votes, {"pairs": data.fingerprint, "voters": len(votes)})
    rows = [row for row in table_rows(folder / "table") if row["part"] == "train"]
    report = strength_report(rows)
    if rank() == 0:  # voters may have been trained by several processes, each of which comes here
        write_json(folder / "strength.json", report)
        write_json(folder / "data.json", data.report())
        strength_picture(rows, report, folder / "strength.png")
        print_strength(report)
    return report


def strength_report(rows: Rows) -> dict[str, Any]:
    """What a strength table says, in bins of equal size.

    Args:
        rows: Of the table.
    """
    means, stds = (np.array([row[name] for row in rows]) for name in ("mean", "std"))
    parts = np.array_split(np.argsort(means, kind="stable"), min(_BINS, len(rows)))
    report: dict[str, Any] = {
        "pairs": len(rows),
        "voters": len(rows[0]["differences"]),
        "mean": float(means.mean()),
        "share_negative": float((means < 0).mean()),
        "bins": [
            {"mean": float(means[part].mean()), "std": float(stds[part].mean()), "n": len(part)} for part in parts
        ],
    }
    for second in ("true_label", "judge_label"):
        known = np.array([row[second] is not None for row in rows])
        if not known.any():
            continue
        agrees = np.array([bool(row[second]) for row in rows])
        inside = [part[known[part]] for part in parts]
        report[second] = {
            "agreement": [share_with_interval(float(agrees[part].sum()), len(part)) for part in inside],
            "share_wrong": float((~agrees[known]).mean()),
            "area_under_roc": area_under_roc(-means[known], ~agrees[known]),
        }
    return report


def print_strength(report: dict[str, Any]) -> None:
    """Print the bins on the screen."""
    from rich.console import Console
    from rich.table import Table

    seconds = [name for name in ("true_label", "judge_label") if name in report]
    table = Table(title=f"preference strength of {report['pairs']:,} pairs, {report['voters']} voters, weakest first")
    for column in ("pairs", "mean", "std", *(f"agrees with the {name.replace('_', ' ')}" for name in seconds)):
        table.add_column(column, justify="right")
    for number, each in enumerate(report["bins"]):
        shares = [report[name]["agreement"][number] for name in seconds]
        agreement = [f"{share['share']:.2f} [{share['low']:.2f}, {share['high']:.2f}]" for share in shares]
        table.add_row(str(each["n"]), f"{each['mean']:+.2f}", f"{each['std']:.2f}", *agreement)
    console = Console()
    console.print(table)
    console.print(f"{report['share_negative']:.1%} of the labels are contradicted by most voters (mean below 0)")
    for name in seconds:
        found = report[name]
        console.print(
            f"{found['share_wrong']:.1%} differ from the {name.replace('_', ' ')}; strength finds them with an area "
            f"under the ROC curve of {found['area_under_roc']:.3f}"
        )


def strength_picture(rows: Rows, report: dict[str, Any], path: Path) -> None:
    """Histogram of strengths, their spread, and the agreement with a second label."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    means = np.array([row["mean"] for row in rows])
    second = next((name for name in ("true_label", "judge_label") if name in report), None)
    edges = np.linspace(np.quantile(means, 0.001), np.quantile(means, 0.999), 50).tolist()
    if second is None:
        axes[0].hist(means, edges, color=COLOURS[1])
    else:
        wrong = np.array([row[second] is False for row in rows])
        kinds = [means[~wrong], means[wrong]]
        names = ["label agrees" if second == "true_label" else "judge agrees", "label differs"]
        axes[0].hist(kinds, edges, stacked=True, color=[COLOURS[1], COLOURS[2]], label=names)
        axes[0].legend(frameon=False, fontsize=8)
    axes[0].axvline(0, color="black", linewidth=0.8)
    axes[0].set_title(f"strength of {len(rows):,} pairs", fontsize=10)
    middle = [each["mean"] for each in report["bins"]]
    axes[1].plot(middle, [each["std"] for each in report["bins"]], "o-", color=COLOURS[1])
    axes[1].set_title("how much voters differ (std)", fontsize=10)
    axes[1].set_ylim(bottom=0)
    for colour, name in zip(COLOURS[1:], ("true_label", "judge_label"), strict=False):
        if name in report:
            shares = report[name]["agreement"]
            bars = [[each["share"] - each["low"] for each in shares], [each["high"] - each["share"] for each in shares]]
            label = name.replace("_", " ")
            axes[2].errorbar(middle, [each["share"] for each in shares], bars, fmt="o-", color=colour, label=label)
            axes[2].legend(frameon=False, fontsize=8)
    axes[2].set_title("labels that agree with a second label" if second else "no second label is known", fontsize=10)
    axes[2].set_ylim(0, 1)
    for axis in axes:
        axis.set_xlabel("mean strength μ", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
