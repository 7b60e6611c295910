"""How cost grows: CPU time and memory against pairs, length, responses per prompt and model size; and start-up.

Each point is measured in a fresh process with one thread. Its memory is the peak behind loading, over what was taken
then; its time is CPU time of the process. A line through the points on logarithmic axes gives the exponent: 1 is
linear. Every repetition has a line of its own; the interval is Student's, of their slopes. Needs Linux.

python -m benchmarks.growth            ten minutes at most
python -m benchmarks.growth --quick    half a minute
python -m benchmarks.growth --full     with a million pairs as well
"""

import argparse
import os
import platform
import statistics
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.growth_points import AXES, Point, What, alone, start_up, write_inputs
from lit_rlhf.data.store import write_json
from lit_rlhf.evaluation.pictures import COLOURS, pyplot
from lit_rlhf.evaluation.statistics import student_interval


def medians(points: list[Point], axis: str, what: What) -> dict[int, float]:
    """Median over the repetitions, by size."""
    sizes = sorted({point.x for point in points if point.axis == axis})
    mine = [[getattr(point, what) for point in points if (point.axis, point.x) == (axis, x)] for x in sizes]
    return {x: statistics.median(values) for x, values in zip(sizes, mine, strict=True)}


def exponent(points: list[Point], axis: str, what: What) -> dict[str, float | None]:
    """The mean slope of the repetitions' lines on logarithmic axes, its interval, and that of the two largest sizes."""
    mine = [point for point in points if point.axis == axis]
    slopes = []
    for repetition in sorted({point.repetition for point in mine}):
        one = [(point.x, getattr(point, what)) for point in mine if point.repetition == repetition]
        slopes.append(_slope(*zip(*one, strict=True)))
    low, high = student_interval(np.array(slopes))
    middle = medians(points, axis, what)
    end = _slope(list(middle)[-2:], list(middle.values())[-2:])
    return {"exponent": float(np.mean(slopes)), "low": low, "high": high, "at_the_end": end}


def _slope(x: Any, y: Any) -> float:
    return float(np.polyfit(np.log(x), np.log(np.maximum(y, 0.01)), 1)[0])  # less than a few pages is none


def table(points: list[Point], exponents: dict[str, Any]) -> str:
    """Medians and exponents as Markdown."""
    lines = ["| what grows | CPU seconds | MiB | exponent of time | of memory |", "|---|---|---|---|---|"]
    for axis, found in exponents.items():
        cells = [AXES[axis].title]
        for what in ("seconds", "mib"):
            cells.append("<br>".join(f"{x:,}: {value:.3g}" for x, value in medians(points, axis, what).items()))
        cells += [shown(found[what]) for what in ("seconds", "mib")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(found: dict[str, float | None]) -> str:
    """An exponent in words."""
    interval = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['exponent']:.2f}{interval}, at the end {found['at_the_end']:.2f}"


def picture(points: list[Point], exponents: dict[str, Any], path: Path) -> None:
    """Every repetition as a dot, and the fitted lines; time above, memory below."""
    plt = pyplot()
    figure, axes = plt.subplots(
        2, len(exponents), figsize=(3.4 * len(exponents), 6), layout="constrained", squeeze=False
    )
    for column, (axis, found) in enumerate(exponents.items()):
        for row, (what, name) in enumerate({"seconds": "CPU seconds", "mib": "MiB"}.items()):
            panel, mine = axes[row, column], [point for point in points if point.axis == axis]
            x, y = np.array([point.x for point in mine]), np.array([getattr(point, what) for point in mine])
            panel.loglog(x, y, ".", color=COLOURS[1], alpha=0.6)
            slope, ends = found[what]["exponent"], np.array([x.min(), x.max()])
            level = np.mean(np.log(np.maximum(y, 0.01)) - slope * np.log(x))
            panel.loglog(ends, np.exp(level) * ends**slope, color=COLOURS[2], linewidth=1)
            panel.set_title(f"{AXES[axis].title}\nexponent {shown(found[what])}", fontsize=8)
            panel.set_ylabel(name, fontsize=8)
            panel.set_xticks(sorted(set(x)), [_short(size) for size in sorted(set(x))], fontsize=7)
            panel.yaxis.set_major_formatter("{x:g}")
            panel.tick_params(axis="y", labelsize=7)
            panel.minorticks_off()
            panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _short(size: int) -> str:
    return next((f"{size / unit:.3g}{name}" for unit, name in ((10**6, "M"), (10**3, "k")) if size >= unit), str(size))


def main() -> None:
    """Measure the axes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sizes and two repetitions of each")
    parser.add_argument("--full", action="store_true", help="a million pairs as well")
    parser.add_argument("--axes", nargs="*", choices=AXES, default=list(AXES))
    parser.add_argument("--repetitions", type=int, help="of every point; 3, or 2 of a quick run")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/growth"))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    repetitions = options.repetitions or (2 if options.quick else 3)
    sizes = {
        name: AXES[name].quick if options.quick else AXES[name].sizes + (AXES[name].full if options.full else ())
        for name in options.axes
    }
    options.out.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, sorted({int(rows) for axis in ("pairs", "streamed") for rows in sizes.get(axis, ())}))
        starts = [start_up(folder, number) for number in range(1 if options.quick else repetitions)]
        for repetition in range(repetitions):
            for axis, each in sizes.items():
                for size in each:
                    points.append(alone(axis, folder, size, each[0], repetition))
                    print(points[-1], flush=True)
    exponents: dict[str, Any] = {
        axis: {what: exponent(points, axis, what) for what in ("seconds", "mib")} for axis in sizes
    }
    wall, cpu = (statistics.median(column) for column in zip(*starts, strict=True))
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "start_up": {"wall_seconds": wall, "cpu_seconds": cpu, "all": starts},
        "exponents": exponents,
        "points": [asdict(point) for point in points],
    }
    write_json(options.out / "growth.json", result)
    if exponents:
        picture(points, exponents, options.out / "growth.png")
        print(table(points, exponents))
    print(f"\nfirst step of `lit-rlhf fit` (1m): {wall:.1f} s by the clock, {cpu:.1f} CPU seconds; the goal is 10")


if __name__ == "__main__":
    main()
