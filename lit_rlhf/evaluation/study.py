"""Studies: claims with criteria stated beforehand, measured over several seeds, and a verdict computed from them."""

import json
import logging
import math
import platform
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.processes import end_with_parent
from lit_rlhf.data.store import write_json
from lit_rlhf.evaluation.pictures import pyplot
from lit_rlhf.evaluation.statistics import student_interval

Measurement = dict[str, Any]
Job = tuple[str, int]
"""A part and a seed."""
Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A claim and the criterion by which it is judged: where its effect must lie.

    Attributes:
        id: Short name.
        claim: What is claimed, in a sentence.
        paper: What the paper found, and where.
        effect: What is measured, in words.
        measure: The effect of one seed; None where this seed says nothing.
        low: The effect must lie above this.
        high: The effect must lie below this.
        note: The likely reason, where a claim does not hold.
        remark: What is to be known whatever the verdict.
    """

    id: str
    claim: str
    paper: str
    effect: str
    measure: Callable[[Measurement], float | None]
    low: float = -math.inf
    high: float = math.inf
    note: str = ""
    remark: str = ""

    @property
    def criterion(self) -> str:
        """The rule in words."""
        where = [f"above {self.low:g}"] * (self.low > -math.inf) + [f"below {self.high:g}"] * (self.high < math.inf)
        region = " and ".join(where)
        return f"holds if the 95 % interval over seeds of [{self.effect}] lies {region}; does not if it lies outside"

    def judge(self, measurements: list[Measurement]) -> dict[str, Any]:
        """The claim's row of ``summary.json``."""
        found = [value for value in map(self.measure, measurements) if value is not None]
        values = np.array(found, dtype=float)
        low, high = student_interval(values)
        return {
            "id": self.id,
            "claim": self.claim,
            "paper": self.paper,
            "criterion": self.criterion,
            "measured": self.effect,
            "effect": float(values.mean()) if len(values) else None,
            "ci_low": low,
            "ci_high": high,
            "low": self.low if self.low > -math.inf else None,
            "high": self.high if self.high < math.inf else None,
            "seeds": len(values),
            "values": found,
            "verdict": verdict(low, high, self.low, self.high),
            "note": self.note,
            "remark": self.remark,
        }


def verdict(ci_low: float | None, ci_high: float | None, low: float, high: float) -> Verdict:
    """*holds* where the interval lies inside (low, high), *does not hold* where it lies outside, else *undecided*."""
    if ci_low is None or ci_high is None:
        return "undecided"
    if low < ci_low and ci_high < high:
        return "holds"
    return "does not hold" if ci_high <= low or ci_low >= high else "undecided"


class Study(ABC):
    """Something measured over several seeds. Construction is cheap; its arguments are the study's settings.

    Attributes:
        name: Names the study's folder and files.
        seeds: The seeds.
        parts: Names of what is measured, the longest first. Parts and seeds do not depend on each other; each is
            measured in a process of one thread.
        claims: What is judged, in the order of the report.
        first: A part that the other parts of the same seed build on; None where all are independent.
    """

    name: str
    seeds: list[int]
    parts: tuple[str, ...]
    claims: Sequence[Claim]
    first: str | None = None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that the figures depend on; a run with other settings begins anew."""

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make what all seeds share, once."""

    @abstractmethod
    def measure(self, part: str, seed: int, folder: Path) -> Measurement:
        """Measure one part of one seed; a claim sees all parts of a seed in one mapping.

        Args:
            part: One of ``parts``.
            seed: The seed.
            folder: The study's folder, with what `prepare` made.
        """

    @abstractmethod
    def draw(self, measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
        """Draw the pictures."""


def study(study: Study, out: str, processes: int = 2) -> dict[str, Any]:
    """Run a study: measure all parts of every seed, judge the claims; write ``summary.json``, a table and pictures.

    What was measured with the same settings is not measured again.

    Args:
        study: The study and its settings.
        out: Folder to write to.
        processes: Parts measured at the same time, each in a process of one thread; 1 measures in this process.

    Returns:
        What ``summary.json`` holds: ``claims``, ``settings``, ``seconds``, ``versions``.
    """
    folder = Path(out)
    start = time.perf_counter()
    _begin(study, folder)
    study.prepare(folder)
    jobs = [(part, seed) for part in study.parts for seed in study.seeds]
    pending = [job for job in jobs if not _result(folder, *job).exists()]
    rank_zero_info(f"study {study.name}: {len(jobs) - len(pending)} of {len(jobs)} parts are measured")
    stages = [[job for job in pending if (job[0] == study.first) == first] for first in (True, False)]
    finished = chain.from_iterable(_run(study, stage, folder, processes) for stage in stages if stage)
    for number, (part, seed, seconds) in enumerate(finished, len(jobs) - len(pending) + 1):
        rank_zero_info(f"study {study.name}: {number}/{len(jobs)} {part} of seed {seed}, {seconds:.0f} s")
    measured = {job: json.loads(_result(folder, *job).read_text("utf-8")) for job in jobs}
    measurements = [
        {name: value for part in study.parts for name, value in measured[part, seed]["found"].items()}
        for seed in study.seeds
    ]
    stated = json.loads((folder / "criteria.json").read_text("utf-8"))
    summary = {
        "study": study.name,
        "claims": [claim.judge(measurements) | stated[claim.id] for claim in study.claims],
        "settings": study.settings(),
        "seconds": {
            "this_run": round(time.perf_counter() - start, 1),
            "all_parts": round(sum(each["seconds"] for each in measured.values()), 1),
            "all_parts_cpu": _total([each.get("cpu_seconds") for each in measured.values()]),
        },
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_json(folder / "summary.json", summary)
    (folder / "summary.md").write_text(markdown(summary), "utf-8")
    study.draw(measurements, summary, folder)
    print_claims(summary)
    return summary


def markdown(summary: dict[str, Any]) -> str:
    """The claims as a table to be read on its own."""
    lines = [
        f"# Study `{summary['study']}`",
        "",
        "Measured until {date}, Python {python}, torch {torch}.".format(date=summary["date"], **summary["versions"]),
        "",
        "| claim | paper | measured | effect [95 % over seeds] | seeds | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary["claims"]:
        effect = f"{_number(row['effect'])} [{_number(row['ci_low'])}, {_number(row['ci_high'])}]"
        cells = [row["claim"], row["paper"], row["measured"], effect, str(row["seeds"]), f"**{row['verdict']}**"]
        lines.append("| " + " | ".join(cells) + " |")
    notes = _texts(summary, "note", lambda row: row["verdict"] != "holds")
    remarks = _texts(summary, "remark", lambda row: True)
    lines += ["", "Criteria, stated before the run unless said otherwise:", ""]
    lines += [f"- `{row['id']}`: {row['criterion']}.{_late(row)}" for row in summary["claims"]]
    lines += ["", "What did not hold, and the likely reason:", "", *notes] if notes else []
    lines += (["", "To be known beside the verdicts:", "", *remarks] if remarks else []) + [""]
    settings = json.dumps(summary["settings"], indent=2)
    return "\n".join(lines) + f"\n<details><summary>Settings</summary>\n\n```json\n{settings}\n```\n\n</details>\n"


def print_claims(summary: dict[str, Any]) -> None:
    """Print the verdicts on the screen."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"study {summary['study']}", show_lines=True)
    for column in ("claim", "paper", "measured", "effect [95 %]", "verdict"):
        table.add_column(column)
    for row in summary["claims"]:
        effect = f"{_number(row['effect'])} [{_number(row['ci_low'])}, {_number(row['ci_high'])}]"
        table.add_row(row["claim"], row["paper"], row["measured"], effect, row["verdict"])
    Console().print(table)


def _total(values: list[float | None]) -> float | None:
    """Their sum; None where one is unknown, as in parts that an older version measured."""
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None


def _late(row: dict[str, Any]) -> str:
    done = row["measured_before"]
    return f" **Stated after {done} part{'s' * (done > 1)} had been measured.**" if done else ""


def _texts(summary: dict[str, Any], what: str, wanted: Callable[[dict[str, Any]], bool]) -> list[str]:
    """The notes or remarks of some claims as a list, each once, behind the claims that it belongs to."""
    of: dict[str, list[str]] = {}
    for row in summary["claims"]:
        if row[what] and wanted(row):
            of.setdefault(row[what], []).append(f"`{row['id']}`")
    return [f"- {', '.join(ids)}: {text}" for text, ids in of.items()]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _result(folder: Path, part: str, seed: int) -> Path:
    return folder / f"seed-{seed}" / f"{part}.json"


def _begin(study: Study, folder: Path) -> None:
    """Set the measurements of other settings aside, and write down when each criterion was stated.

    Claims may change and measurements stay: the report says of a criterion how much had been measured before it.
    """
    mark, stated = folder / "settings.json", folder / "criteria.json"
    settings = json.loads(json.dumps(study.settings()))
    if folder.exists() and mark.exists() and json.loads(mark.read_text("utf-8")) != settings:
        number = 1
        while (aside := folder.with_name(f"{folder.name}~{number}")).exists():
            number += 1
        folder.rename(aside)
        rank_zero_info(f"the settings have changed; what was measured before is kept in {aside}")
    write_json(mark, settings)
    known = json.loads(stated.read_text("utf-8")) if stated.exists() else {}
    done = sum(_result(folder, part, seed).exists() for part in study.parts for seed in study.seeds)
    now = {"stated": datetime.now(UTC).isoformat(timespec="seconds"), "measured_before": done}
    for claim in study.claims:
        if known.get(claim.id, {}).get("criterion") != claim.criterion:
            known[claim.id] = {"criterion": claim.criterion, **now}
    write_json(stated, known)


def _run(study: Study, jobs: list[Job], folder: Path, processes: int) -> Iterator[tuple[str, int, float]]:
    """Measure parts of seeds, in this process or several; yields part, seed and seconds as they are finished."""
    if processes == 1:
        yield from (_measure(study, job, folder) for job in jobs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _be_quiet) as pool:
        futures = [pool.submit(_measure, study, job, folder) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:  # an error is told as soon as the parts that have begun are done
            pool.shutdown(wait=False, cancel_futures=True)


def _measure(study: Study, job: Job, folder: Path) -> tuple[str, int, float]:
    """Measure one part and write it down; returns part, seed and seconds."""
    start, work = time.perf_counter(), time.process_time()
    found = study.measure(*job, folder)
    seconds, work = time.perf_counter() - start, time.process_time() - work
    row = {"found": found, "seconds": round(seconds, 1), "cpu_seconds": round(work, 1)}
    write_json(_result(folder, *job), row)
    return *job, seconds


def _be_quiet() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def verdict_picture(summary: dict[str, Any], path: Path) -> None:
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
        axis.set_yticks([0], [row["claim"]], fontsize=8)
        axis.tick_params(axis="x", labelsize=6, pad=1)
        axis.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle("effect with its 95 % interval over seeds; shaded: where the claim holds", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
