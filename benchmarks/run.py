"""Speed and memory against other libraries on the same work; writes summary.json, table.md and picture.png.

python -m benchmarks.run                          every row
python -m benchmarks.run --only rm_short          one row; rows that were measured before stay in the table
python -m benchmarks.run --quick --repetitions 1  toy sizes, to try the harness

One thread and CPU time: other work on the machine disturbs little. See benchmarks/README.md for the rows.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import matrix, memory, report
from benchmarks.bench import Bench
from benchmarks.common import STATUS, Comparison, alternate, ratios, row
from benchmarks.rows import ALL, MATRIX, MEMORY, SPEED, comparisons, groups
from lit_rlhf.data.store import write_json

ROOT = Path(__file__).parents[1]


def speed(group: list[Comparison], repetitions: int) -> list[dict[str, Any]]:
    """The rows of comparisons that share a peer."""
    sides = {"peer": group[0].theirs, **{each.id: each.ours for each in group}}
    costs, work = alternate(sides, repetitions)
    found = []
    for each in group:
        parity, facts = each.parity(work[each.id], work["peer"])
        rates = {name: [1 / cost for cost in costs[side]] for name, side in (("ours", each.id), ("peer", "peer"))}
        if "peer_rate_same_batches" in facts:
            facts["ratio_same_batches"] = statistics.median(rates["ours"]) / facts["peer_rate_same_batches"]
        found.append(row(each, ratios(costs[each.id], costs["peer"]), repetitions, parity, {"rates": rates, **facts}))
    return found


def measure(bench: Bench, ids: list[str], repetitions: int) -> list[dict[str, Any]]:
    """Measure rows, and say which cannot be."""
    known = comparisons(bench)
    missing = {id: "no file of HH-RLHF pairs is at hand, see --hh" for id in set(SPEED) - {each.id for each in known}}
    missing |= {
        each.id: f"{each.needs} is not installed, see the extra `bench`" for each in known if not each.is_possible
    }
    missing |= {f"memory_{id}": why for id, why in missing.items()}
    if not STATUS.exists():
        missing |= {id: "memory is read from /proc, which this system does not have" for id in MEMORY}
    for id in ids:
        if id in missing:
            print(f"{id}: left out, {missing[id]}")
    wanted, found = [id for id in ids if id not in missing], []
    for prefix in ("", "memory_"):
        for group in groups([each for each in known if f"{prefix}{each.id}" in wanted]):
            print(", ".join(prefix + each.id for each in group), flush=True)
            found += memory.measure(bench, group, repetitions) if prefix else speed(group, repetitions)
    for id in [id for id in wanted if id in MATRIX]:
        print(id, flush=True)
        found.append(matrix.measure(bench, MATRIX[id], repetitions))
    return found


def write(folder: Path, found: list[dict[str, Any]], about: str) -> None:
    """Write summary, table and picture; rows of earlier runs that were not measured again stay."""
    summary = folder / "summary.json"
    rows = {each["id"]: each for each in json.loads(summary.read_text("utf-8"))} if summary.exists() else {}
    rows |= {each["id"]: each for each in found}
    ordered = [rows[id] for id in ALL if id in rows]
    write_json(summary, ordered)
    partial = folder / "table.md.partial"
    partial.write_text(report.table(ordered, about), "utf-8")
    partial.rename(folder / "table.md")
    if ordered:
        report.picture(ordered, folder / "picture.png")


def main(args: list[str] | None = None) -> None:
    """Measure; ``args`` are the words behind the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = Path(os.environ.get("LIT_RLHF_REAL_DATA", ROOT / "../shared/data")) / "preference"
    parser.add_argument("--only", choices=ALL, action="append", help="a row; may be given several times")
    parser.add_argument(
        "--repetitions", type=int, default=5, help=f"of each side, in turn; memory at most {memory.REPETITIONS}"
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes: the figures mean nothing")
    parser.add_argument("--hh", type=Path, default=real, help="file or folder with HH-RLHF pairs")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    options = parser.parse_args(args)
    if options.repetitions < 1:
        parser.error("--repetitions must be 1 or more")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    folder = options.out / "quick" if options.quick else options.out
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(Bench(folder, options.quick, options.hh), options.only or list(ALL), options.repetitions)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    about = f"{date.today():%d %B %Y}, {platform.machine()}, one thread, fp32, {versions}."
    write(folder, found, about)
    print((folder / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
