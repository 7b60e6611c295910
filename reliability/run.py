"""``make reliability``: kills, faults, malformed files, fuzzing and pairs of processes, and their counts in one file.

Two parts run at a time, so two cores are busy. ``summary.json`` has the counts, ``summary.md`` the same for people, the
folders beside them the details. The exit status is 1 if anything did not end as it should.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from reliability.processes import ENVIRONMENT
from reliability.report import markdown

QUICK_STAGES = ("base", "sft", "reward_model", "baselines", "ppo")
QUICK_KINDS = (
    "sigterm_while_training",
    "disk_full_at_a_checkpoint",
    "folder_read_only",
    "checkpoint_truncated",
    "store_with_a_flipped_byte",
    "reward_server_gone",
    "loss_not_finite",
)


@dataclass(frozen=True)
class Part:
    """One part of the whole.

    Attributes:
        name: Of its folder and its log.
        words: Of the Python command.
        result: The file that it leaves in its folder.
    """

    name: str
    words: tuple[str, ...]
    result: str


def parts(out: Path, quick: bool) -> tuple[list[Part], list[Part]]:
    """What runs beside each other: two rows of parts, one after another each."""

    def folder(name: str) -> tuple[str, str]:
        return "--out", str(out / name)

    def tests(name: str, path: str) -> Part:
        return Part(name, ("-m", "pytest", "-q", f"--junitxml={out / name / 'junit.xml'}", path), "junit.xml")

    stages = [word for name in QUICK_STAGES for word in ("--stage", name)] if quick else []
    kinds = [word for name in QUICK_KINDS for word in ("--kind", name)] if quick else []
    fuzz = Part(
        "fuzz",
        ("-m", "reliability.fuzz", *folder("fuzz"), "--jobs", "1", "--inputs", "10000" if quick else "1000000"),
        "fuzz.json",
    )
    kills = Part(
        "kills", ("-m", "reliability.kills", *folder("kills"), "--kills", "6" if quick else "56", *stages), "kills.json"
    )
    faults = Part("faults", ("-m", "reliability.faults", *folder("faults"), *kinds), "faults.json")
    pairs, hostile = tests("pairs", "tests/distributed"), tests("hostile", "tests/hostile/test_corpus.py")
    return ([kills, pairs], [faults, hostile, fuzz]) if quick else ([kills, faults, pairs], [hostile, fuzz])


def run_part(part: Part, out: Path) -> dict[str, Any]:
    """Run one part; returns its exit code and the seconds that it took."""
    (out / part.name).mkdir(parents=True, exist_ok=True)
    (out / part.name / part.result).unlink(missing_ok=True)
    begin = time.monotonic()
    with (out / f"{part.name}.log").open("w") as log:
        code = subprocess.run([sys.executable, *part.words], stdout=log, stderr=log).returncode
    seconds = round(time.monotonic() - begin, 1)
    print(f"{part.name:8} {'as it should' if not code else f'ended with {code}'} ({seconds:.0f} s)", flush=True)
    return {"exit_code": code, "seconds": seconds}


def passed(report: Path, test: str = "") -> int:
    """Number of tests in a JUnit report that have passed, of those whose name begins like this."""
    if not report.exists():
        return 0
    cases = [case for case in ElementTree.parse(report).iter("testcase") if case.get("name", "").startswith(test)]
    return sum(all(case.find(kind) is None for kind in ("failure", "error", "skipped")) for case in cases)


def summarise(out: Path, ran: dict[str, dict[str, Any]], size: str) -> dict[str, Any]:
    """The counts of all parts.

    Args:
        out: Where they lie.
        ran: By part, as `run_part` gives it.
        size: What was asked for.
    """
    found = results(out)
    fuzzed = found["fuzz"]
    return {
        "kills_survived": found["kills"].get("kills_survived", 0),
        "fault_kinds": found["faults"].get("fault_kinds", 0),
        "inputs_fuzzed": fuzzed.get("inputs", 0),
        "malformed_files": passed(out / "hostile" / "junit.xml", "test_a_malformed_file_is_refused"),
        "rows_lost": found["kills"].get("rows_lost"),
        "two_process_checks": passed(out / "pairs" / "junit.xml"),
        "rows_compared": found["kills"].get("rows", 0),
        "fuzz_crashes": fuzzed.get("crashes"),
        "failures": {
            "kills": found["kills"].get("failures"),
            "faults": found["faults"].get("failures"),
            "fuzz": fuzzed.get("failures"),
            **{f"{name} ended with": each["exit_code"] for name, each in ran.items() if each["exit_code"]},
        },
        "size": size,
        "seconds": {name: each["seconds"] for name, each in ran.items()},
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def results(out: Path) -> dict[str, dict[str, Any]]:
    """What the parts have left, by name; empty where one has not run."""
    return {name: _json(out / name / f"{name}.json") for name in ("kills", "faults", "fuzz")}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/reliability"))
    parser.add_argument("--size", choices=("full", "quick"), default="full", help="quick takes minutes")
    parser.add_argument("--only", action="append", help="a part; may be repeated; the others' last results count")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    out = options.out.resolve()
    rows = parts(out, options.size == "quick")
    known = [part.name for row in rows for part in row]
    if unknown := sorted(set(options.only or []) - set(known)):
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(known)}")

    def run_row(row: list[Part]) -> dict[str, dict[str, Any]]:
        return {part.name: run_part(part, out) for part in row if part.name in (options.only or known)}

    with ThreadPoolExecutor(len(rows)) as pool:
        ran = {name: each for found in pool.map(run_row, rows) for name, each in found.items()}
    ran = {**_json(out / "parts.json"), **ran} if options.only else ran
    summary = summarise(out, ran, options.size)
    contents = {"parts.json": ran, "summary.json": summary}
    texts = {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in contents.items()}
    for name, text in {**texts, "summary.md": markdown(summary, results(out))}.items():
        (out / f".{name}").write_text(text, "utf-8")
        (out / f".{name}").rename(out / name)
    print(json.dumps(summary, indent=2, ensure_ascii=False))
    sys.exit(1 if any(summary["failures"].values()) or summary["rows_lost"] else 0)


if __name__ == "__main__":
    main()
