"""Studies: claims with criteria stated beforehand, measured over several seeds, and a verdict computed from them."""

import json
import logging
import os
import platform
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.processes import end_with_parent
from lit_rlhf.data.store import write_json
from research.claims import Claim, Measurement, Summary
from research.study_results import markdown, print_claims, verdict_picture, write_measurements

Job = tuple[str, int]
"""A part and a seed."""
PACKAGES = ("lit-rlhf", "torch", "lightning", "transformers", "numpy")


class Study(ABC):
    """Something measured over several seeds. Construction is cheap; its arguments are the study's settings.

    Attributes:
        name: Names the study's folder and files.
        seeds: The seeds.
        parts: Names of what is measured, the longest first. Seeds do not depend on each other, nor do parts but
            those named in ``after``; each is measured in a process of one thread.
        claims: What is judged, in the order of the report.
        after: Of a part that builds on another part of the same seed, that other part; this one builds on none.
        rows: The parts that the claims of each row need, by the row's name: ``s1`` to ``s10``.
    """

    name: str
    seeds: list[int]
    parts: tuple[str, ...]
    claims: Sequence[Claim]
    after: ClassVar[Mapping[str, str]] = {}
    rows: ClassVar[Mapping[str, tuple[str, ...]]] = {}

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
    def draw(self, measurements: list[Measurement], summary: Summary, folder: Path) -> None:
        """Draw the pictures."""


def study(study: Study, out: str, processes: int | None = None, only: str | None = None) -> Summary:
    """Run a study: measure all parts of every seed, judge the claims; write ``summary.json``, a table and pictures.

    What was measured with the same settings is not measured again. All figures of all seeds are also written as one
    tidy table, ``measurements.parquet``: study, part, seed, figure, value.

    Args:
        study: The study and its settings.
        out: Folder to write to.
        processes: Parts measured at the same time, each in a process of one thread; 1 measures in this process. None
            takes as many as there are cores for this process.
        only: A row of the list of studies, such as ``s1``: measures the parts that its claims need, judges these, and
            writes ``summary_s1.json``. The whole study takes over what was measured so, and the other way round.

    Returns:
        What ``summary.json`` holds: ``claims``, ``settings``, ``seconds``, ``parts``, ``versions``, ``machine``.

    Raises:
        DataError: If the study has no such row.
    """
    folder, start = Path(out), time.perf_counter()
    parts, claims = _selection(study, only)
    _begin(study, folder)
    study.prepare(folder)
    jobs = [(part, seed) for part in parts for seed in study.seeds]
    for number, (part, seed, seconds) in _measured(study, jobs, folder, processes or _cores()):
        rank_zero_info(f"study {study.name}: {number}/{len(jobs)} {part} of seed {seed}, {seconds:.0f} s")
    rows = [_row(folder, *job) for job in jobs]
    measurements = [
        {name: value for row in rows if row["seed"] == seed for name, value in row["found"].items()}
        for seed in study.seeds
    ]
    stated = json.loads((folder / "criteria.json").read_text("utf-8"))
    summary = {
        "study": study.name,
        "row": only,
        "claims": [claim.judge(measurements) | stated[claim.id] for claim in claims],
        "seeds": study.seeds,
        "class": f"{type(study).__module__}.{type(study).__qualname__}",
        "settings": study.settings(),
        "seconds": {
            "this_run": round(time.perf_counter() - start, 1),
            "all_parts": round(sum(row["seconds"] for row in rows), 1),
            "all_parts_cpu": _total([row["cpu_seconds"] for row in rows]),
        },
        "parts": [{name: value for name, value in row.items() if name != "found"} for row in rows],
        "date": max(row["date"] for row in rows),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    ending = f"_{only}" if only else ""
    write_json(folder / f"summary{ending}.json", summary)
    (folder / f"summary{ending}.md").write_text(markdown(summary), "utf-8")
    write_measurements(study.name, rows, folder / f"measurements{ending}.parquet")
    if only:
        verdict_picture(summary, folder / f"verdicts{ending}.png")
    else:
        study.draw(measurements, summary, folder)
    print_claims(summary)
    return summary


def _selection(study: Study, only: str | None) -> tuple[list[str], list[Claim]]:
    """The parts to be measured and the claims to be judged."""
    if only is None:
        return list(study.parts), list(study.claims)
    if only not in study.rows:
        hint = f"Its rows are {', '.join(study.rows)}."
        raise DataError(f"the study {study.name} has no row {only!r}", "option only", hint)
    wanted = {*study.rows[only], *(study.after[part] for part in study.rows[only] if part in study.after)}
    return [part for part in study.parts if part in wanted], [each for each in study.claims if only in each.rows]


def _measured(study: Study, jobs: list[Job], folder: Path, processes: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Measure what has not been; yields how many are done, with part, seed and seconds, as they are finished."""
    pending = [job for job in jobs if not _result(folder, *job).exists()]
    done = len(jobs) - len(pending)
    rank_zero_info(f"study {study.name}: {done} of {len(jobs)} parts are measured")
    stages = [[job for job in pending if (job[0] in study.after) == later] for later in (False, True)]
    finished = chain.from_iterable(_run(study, stage, folder, processes) for stage in stages if stage)
    yield from enumerate(finished, done + 1)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of a source tree that is not installed
            found[name] = "unknown"
    return found | {"torch": str(torch.__version__)}


def _row(folder: Path, part: str, seed: int) -> dict[str, Any]:
    """What was measured in one part of one seed, with how long it took and when."""
    path = _result(folder, part, seed)
    date = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
    return {"part": part, "seed": seed, "cpu_seconds": None, "date": date, **json.loads(path.read_text("utf-8"))}


def _total(values: list[float | None]) -> float | None:
    """Their sum; None where one is unknown, as in parts that an older version measured."""
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None


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
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for claim in study.claims:
        if known.get(claim.id, {}).get("criterion") != claim.criterion:
            parts = study.rows.get(claim.row, study.parts)
            done = sum(_result(folder, part, seed).exists() for part in parts for seed in study.seeds)
            known[claim.id] = {"criterion": claim.criterion, "stated": now, "measured_before": done}
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
    date = datetime.now(UTC).date().isoformat()
    row = {"found": found, "seconds": round(seconds, 1), "cpu_seconds": round(work, 1), "date": date}
    write_json(_result(folder, *job), row)
    return *job, seconds


def _be_quiet() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
