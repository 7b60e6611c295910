"""What needs a GPU: training's use of the machine, tokens per second of rollouts, memory. Random weights, minutes.

Each row is measured in a process of its own. Writes results.json and table.md, and prints the table.

python -m benchmarks.gpu
python -m benchmarks.gpu --preset tiny --device cpu     (that it runs; the figures mean nothing)
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.meter import machine
from benchmarks.gpu.presets import PRESETS, Preset
from benchmarks.gpu.rollout import roll_out
from benchmarks.gpu.training import optimise_policy, prepare, train_reward_model
from lit_rlhf.data.store import write_json

Measure = Callable[[Path, Preset, str], dict[str, Any] | None]

ROWS: dict[str, tuple[str, Measure, str]] = {
    "training": ("a reward model, all weights", partial(train_reward_model, lora=False), "utilisation ≥ 0.45"),
    "training_lora": ("a reward model, adapters", partial(train_reward_model, lora=True), ""),
    "rollout": ("responses of full length", roll_out, "ratio ≥ 4"),
    "rollout_ends": ("responses that end", partial(roll_out, ends=True), "ratio ≥ 4"),
    "rollout_k8": ("eight responses per prompt, which end", partial(roll_out, k=8, ends=True), "ratio ≥ 4"),
    "rollout_mixed": ("as PPO samples: fp32 weights, autocast", partial(roll_out, ends=True, mixed=True), "ratio ≥ 4"),
    "ppo": ("an iteration, four networks", partial(optimise_policy, trunk=False), ""),
    "ppo_trunk": ("an iteration, one trunk", partial(optimise_policy, trunk=True), ""),
}
"""Name, what it is, how it is measured, and the goal."""


def alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process: nothing that others left behind takes memory, and a failure is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, *arguments).result()


def attempt(name: str, folder: Path, preset: Preset, device: str) -> dict[str, Any]:
    """A row's figures, or what went wrong."""
    try:
        return alone(ROWS[name][1], folder, preset, device)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def table(rows: dict[str, dict[str, Any]], where: dict[str, str | None]) -> str:
    """Rows as Markdown."""
    lines = ["| row | what | measured | goal | machine | date |", "|---|---|---|---|---|---|"]
    for name, figures in rows.items():
        shown = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in figures.items())
        lines.append(f"| {name} | {ROWS[name][0]} | {shown} | {ROWS[name][2]} | {where['machine']} | {where['date']} |")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, str) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="1b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu"))
    parser.add_argument("--scratch", type=Path, help="where the models are written (12 GB); the system's by default")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    preset, device = PRESETS[options.preset], options.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --preset tiny --device cpu shows that the rows run")
    where = machine(device)
    rows: dict[str, dict[str, Any]] = {}
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        alone(prepare, Path(folder), preset, device)
        for name in options.rows:
            rows[name] = attempt(name, Path(folder), preset, device)
            print(f"{name}: {rows[name]}", flush=True)
            write_json(options.out / "results.json", {**where, "preset": asdict(preset), "rows": rows})
    partial_table = options.out / ".table.md.partial"
    partial_table.write_text(table(rows, where), "utf-8")
    partial_table.replace(options.out / "table.md")
    print(table(rows, where))
    sys.exit(any("error" in figures for figures in rows.values()))


if __name__ == "__main__":
    main()
