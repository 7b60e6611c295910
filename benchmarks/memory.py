"""Peak memory of a row's sides, each in a process of its own.

``python -m benchmarks.memory ROW ours`` prints bytes: the peak over what was held once imports, models and data were
loaded.
"""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import Bench
from benchmarks.common import Comparison, PeakBytes, ratios, row

ROOT = Path(__file__).parents[1]
CEILING, REPETITIONS = 0.7, 2  # it hardly varies


def peak(bench: Bench, id: str, side: str) -> float:
    """Peak bytes of one side in a fresh process.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.memory", id, side, "--folder", str(bench.folder.resolve())]
    command += ["--quick"] if bench.quick else []
    command += ["--hh", str(bench.hh.resolve())] if bench.hh is not None else []
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if found.returncode:
        raise RuntimeError(f"memory of {id}, {side}:\n{found.stderr[-2000:]}")
    return float(json.loads(found.stdout.strip().splitlines()[-1])["bytes"])


def measure(bench: Bench, group: list[Comparison], repetitions: int) -> list[dict[str, Any]]:
    """The rows ``memory_*`` of comparisons that share a peer."""
    repetitions = min(repetitions, REPETITIONS)
    peaks: dict[str, list[float]] = {name: [] for name in ("peer", *(each.id for each in group))}
    for _ in range(repetitions):
        peaks["peer"].append(peak(bench, group[0].id, "theirs"))
        for each in group:
            peaks[each.id].append(peak(bench, each.id, "ours"))
        print("  " + ", ".join(f"{name}: {values[-1] / 2**20:,.0f} MiB" for name, values in peaks.items()), flush=True)
    return [_row(each, peaks[each.id], peaks["peer"], repetitions) for each in group]


def _row(comparison: Comparison, own: list[float], others: list[float], repetitions: int) -> dict[str, Any]:
    what = f"peak memory over the loaded models, lower is better: {comparison.what.rpartition(', ')[0]}"
    about = Comparison(**{**vars(comparison), "id": f"memory_{comparison.id}", "what": what, "at_least": CEILING})
    facts = {"mebibytes": {"ours": [x / 2**20 for x in own], "peer": [x / 2**20 for x in others]}}
    return row(about, ratios(others, own), repetitions, None, facts)


def main() -> None:
    from benchmarks.rows import comparisons

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row")
    parser.add_argument("side", choices=("ours", "theirs"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hh", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("pyarrow.parquet", "pandas"):  # otherwise imported by the first row that is written
        importlib.import_module(name)
    [found] = [each for each in comparisons(Bench(options.folder, options.quick, options.hh)) if each.id == options.row]
    meter = PeakBytes()
    getattr(found, options.side)(meter)
    print(json.dumps({"bytes": meter.cost}))


if __name__ == "__main__":
    main()
