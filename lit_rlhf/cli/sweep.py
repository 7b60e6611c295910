"""``lit-rlhf sweep``: the trials of a W&B sweep file one after another on this machine, without an account."""

import json
import math
import os
import subprocess
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import write_json

Parameters = dict[str, Any]


def sweep(file: str, out: str | None = None, trials: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Run the trials of a file that ``wandb sweep`` takes as well, and say which was best.

    Each trial is the file's command with ``${args}`` replaced, in a process of its own, with ``WANDB_RUN_ID`` set to
    the trial's name and ``WANDB_RUN_GROUP`` to the sweep's. What it measured is read from ``metrics.jsonl`` in the
    folder of that name below ``out``, where the command is to write it. Called again, it skips trials that are done.

    Args:
        file: The sweep's YAML file, with method ``grid`` or ``random``.
        out: Folder of the trials and of ``sweep.json``; None takes ``runs/sweeps/NAME``.
        trials: Most trials; None takes the file's ``run_cap``, which a random search must have.
        seed: Of a random search.

    Returns:
        ``trials``, the best first, each with its name, parameters, metric and exit status; and ``best``.

    Raises:
        DataError: If the file cannot be read, asks for what is not done here, or no trial gives the metric.
    """
    spec = read_sweep(Path(file))
    name = str(spec.get("name") or Path(file).stem)
    folder = Path(out or f"runs/sweeps/{name}")
    limit = trials or spec.get("run_cap")
    found = []
    for number, parameters in enumerate(islice(draw(spec, limit, seed, file), limit)):
        trial = {"name": f"trial-{number:03d}", "parameters": parameters}
        found.append(_run(trial, spec, folder, f"sweep {name}"))
    measured = [each for each in found if each["metric"] is not None]
    if not measured:
        hint = f"Look at what the trials printed, and whether they wrote {folder}/trial-000/metrics.jsonl."
        raise DataError(f"no trial gave {spec['metric']['name']}", file, hint)
    down = spec["metric"].get("goal", "minimize") == "minimize"
    measured.sort(key=lambda each: each["metric"] if down else -each["metric"])
    result = {"best": measured[0], "trials": measured + [each for each in found if each["metric"] is None]}
    write_json(folder / "sweep.json", result)
    for each in result["trials"]:
        shown = " ".join(f"{key}={value}" for key, value in each["parameters"].items() if _varies(spec, key))
        rank_zero_info(f"{each['name']}: {spec['metric']['name']} {each['metric']}  {shown}")
    return result


def read_sweep(path: Path) -> dict[str, Any]:
    """The content of a sweep's file.

    Raises:
        DataError: If it cannot be read or lacks parameters, metric or command.
    """
    try:
        spec = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(
            f"cannot be read: {error}", str(path), "Give a file such as configs/sweeps/reward.yaml."
        ) from None
    lacking = [name for name in ("parameters", "metric", "command") if not (isinstance(spec, dict) and spec.get(name))]
    if lacking:
        raise DataError(f"has no {lacking[0]}", str(path), "See configs/sweeps/reward.yaml.")
    return spec


def draw(spec: dict[str, Any], limit: int | None, seed: int, file: str) -> Any:
    """Yield the parameters of each trial: all combinations of a grid, or random ones without end.

    Raises:
        DataError: For another method, a random search without an end, or an entry that is not understood.
    """
    method, entries = spec.get("method"), spec["parameters"]
    if method == "grid":
        choices = [_choices(name, entry, file) for name, entry in entries.items()]
        return (dict(zip(entries, each, strict=True)) for each in product(*choices))
    if method != "random":
        hint = "Take grid or random; others need W&B's server: wandb sweep, wandb agent."
        raise DataError(f"method {method!r} is not done without a server", file, hint)
    if limit is None:
        raise DataError("a random search has no end", file, "Give run_cap in the file, or --trials.")
    rng = Random(seed)
    return iter([{name: _drawn(name, each, rng, file) for name, each in entries.items()} for _ in range(limit)])


def _choices(name: str, entry: dict[str, Any], file: str) -> list[Any]:
    if "value" in entry:
        return [entry["value"]]
    if "values" in entry:
        return list(entry["values"])
    raise DataError(f"parameter {name} has neither value nor values", file, "A grid needs one; or take method: random.")


def _drawn(name: str, entry: dict[str, Any], rng: Random, file: str) -> Any:
    if "value" in entry or "values" in entry:
        return rng.choice(_choices(name, entry, file))
    if not {"min", "max"} <= entry.keys():
        raise DataError(f"parameter {name} has neither values nor min and max", file)
    low, high = entry["min"], entry["max"]
    whole = isinstance(low, int) and isinstance(high, int)
    kind = entry.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "int_uniform":
        return rng.randint(low, high)
    if kind == "uniform":
        return rng.uniform(low, high)
    if kind == "log_uniform_values":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    raise DataError(
        f"parameter {name}: distribution {kind!r}", file, "Take int_uniform, uniform or log_uniform_values."
    )


def _varies(spec: dict[str, Any], name: str) -> bool:
    return "value" not in spec["parameters"][name]


def _run(trial: dict[str, Any], spec: dict[str, Any], folder: Path, group: str) -> dict[str, Any]:
    """Run one trial unless it is done; returns it with exit status and metric."""
    place = folder / trial["name"]
    note = place / "trial.json"
    known = json.loads(note.read_text("utf-8")) if note.exists() else {}
    if known.get("parameters") == trial["parameters"] and known["status"] == 0:
        rank_zero_info(f"{trial['name']}: done")
        return known
    words = [f"--{name}={_text(value)}" for name, value in trial["parameters"].items()]
    command = [part for each in spec["command"] for part in (words if each == "${args}" else [str(each)])]
    rank_zero_info(f"── {trial['name']}")
    environment = {**os.environ, "WANDB_RUN_ID": trial["name"], "WANDB_RUN_GROUP": group}
    status = subprocess.run(command, env=environment, check=False).returncode
    metric = _last(place / "metrics.jsonl", spec["metric"]["name"]) if status == 0 else None
    found = {**trial, "metric": metric, "status": status}
    write_json(note, found)
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _last(history: Path, name: str) -> float | None:
    """A metric's last value in a run's history."""
    rows = [json.loads(line) for line in history.read_text("utf-8").splitlines()] if history.exists() else []
    return next((row[name] for row in reversed(rows) if name in row), None)
