"""A whole experiment: stages one after another in one process, skipping what is done and unchanged."""

import ctypes
import gc
import json
import os
import re
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_rlhf import __version__
from lit_rlhf.cli.commands import LIGHTNING, call
from lit_rlhf.cli.folders import done, number_of_process, own_folder
from lit_rlhf.cli.plan import Stage, fill_variables, plan_stages, read_experiment, stage_key
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import write_json
from lit_rlhf.networks.together import listed_from_all, processes, rank


def run_experiment(
    experiment: str,
    out: str | None = None,
    seed: int | None = None,
    only: str | list[str] | None = None,
    variables: dict[str, Any] | None = None,
    extra: list[str] | None = None,
) -> dict[str, Any]:
    """Run an experiment: a YAML file with a list of stages, or a folder with one YAML file per stage.

    Stages may stand in groups that are repeated: see `lit_rlhf.cli.repeat.Repeat`.

    Stages that are done and unchanged are skipped; one that was interrupted goes on from its last checkpoint; one
    whose options or input files changed, or that builds on one that changed, runs anew (its old folder is kept beside
    the new, and comes back with the old options).

    Args:
        experiment: The YAML file, or the folder; a folder's files run in the order of their names.
        out: Folder for everything that is written; None takes the one that the file names.
        seed: Replaces the file's seed.
        only: Names of the stages to look at, joined by commas; None takes all.
        variables: Replaces variables of the file, such as ``--variables.pairs my-pairs.jsonl``.
        extra: Options behind ``--`` for every Lightning stage, such as ``-- --trainer.logger false``.

    Returns:
        What ``summary.json`` holds.
    """
    spec = read_experiment(Path(experiment))
    run = Path(out or spec.get("out") or f"runs/{Path(experiment).stem}")
    seed = int(spec.get("seed", 0)) if seed is None else seed
    names = fill_variables(spec.get("variables") or {}, variables or {}, experiment)
    stages = plan_stages(spec["stages"], Path(experiment), run, names | {"run": str(run), "seed": seed})
    chosen = _chosen(only, [stage.name for stage in stages], experiment)
    for number, stage in enumerate(stages):
        stage.key = stage_key(stage, stages[:number], seed, extra or [])
        if stage.name in chosen:
            _run(stage, run.name, seed, extra or [], f"{number + 1}/{len(stages)}")
    summary = summarise(stages, seed)
    _write_json(run / "summary.json", summary)
    rank_zero_info(f"\nsummary: {run / 'summary.json'}")
    return summary


def _chosen(only: str | list[str] | None, known: list[str], experiment: str) -> list[str]:
    """Names of the stages to look at; several may be joined by commas."""
    names = known if not only else ",".join([only] if isinstance(only, str) else only).split(",")
    unknown = sorted({name.strip() for name in names} - set(known))
    if unknown:
        hint = f"Its stages are: {', '.join(known)}. Several are joined by commas: --only a,b."
        raise DataError(f"has no stage {unknown[0]!r}", experiment, hint)
    return [name.strip() for name in names]


_write_json = rank_zero_only(write_json)

_ALONE = ("world", "model", "inspect", "evaluate", "leaderboard", "plan", "export")
"""Commands that are no work for several processes: the first one runs them, the others wait."""


def _run(stage: Stage, experiment: str, seed: int, extra: list[str], number: str) -> None:
    if not _is_done(stage):
        with own_folder(stage):
            if not _is_done(stage):
                rank_zero_info(f"\n── {number} {stage.name}: lit-rlhf {stage.command}")
                _run_now(stage, experiment, seed, extra)
                return
    rank_zero_info(f"\n── {number} {stage.name}: done and unchanged")


def _is_done(stage: Stage) -> bool:
    """Whether the first process finds a stage done: the others come once its folder is as it left it."""
    return listed_from_all([done(stage) is not None])[0]


def _run_now(stage: Stage, experiment: str, seed: int, extra: list[str]) -> None:
    start = time.perf_counter()
    _forget_peak()
    alone = stage.command in _ALONE or (stage.command == "compare" and processes() == 1)  # they have not met yet
    if alone and number_of_process():
        return _wait_for(stage)
    if stage.command in LIGHTNING:
        result = _run_lightning(stage, experiment, seed, extra)
    else:
        group = experiment if _tracks(extra) and not rank() else ""
        result = call(stage.command, options=stage.options, group=group, name=stage.name)
    found = result if isinstance(result, dict) else str(result)
    seconds = round(time.perf_counter() - start, 1)
    peak = _peak_memory() if alone else sum(listed_from_all([_peak_memory()]))
    facts = {"seconds": seconds, "peak_memory": round(peak, 2)}
    _write_json(stage.directory / "done.json", {"key": stage.key, **facts, "result": found})


def _wait_for(stage: Stage) -> None:
    """Wait until the first process has run a stage that is no work for several."""
    parent = os.getppid()
    while done(stage) is None:
        if os.getppid() != parent:
            sys.exit(f"{stage.name} was given up by the process that ran it")
        time.sleep(1)


def _peak_memory() -> float:
    """Most memory that this process has held in the stage, in GiB; where it cannot be forgotten, since its start."""
    import resource

    with suppress(OSError):  # what getrusage says, a process inherits from the one that started it
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _forget_peak() -> None:
    """Give back the memory of the stage before, and measure anew."""
    gc.collect()  # modules and trainers know each other: they go when somebody looks
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _tracks(extra: list[str]) -> bool:
    """Whether the stages log to W&B: commands that are no Lightning runs follow the others."""
    return "--trainer.logger=false" not in extra and ("--trainer.logger", "false") not in pairwise(extra)


def _run_lightning(stage: Stage, experiment: str, seed: int, extra: list[str]) -> dict[str, float]:
    """Run the stage just as ``lit-rlhf COMMAND -c … -c stage.yaml`` would; returns its last metrics."""
    from lit_rlhf.cli.callbacks import SaveConfig
    from lit_rlhf.cli.checkpoints import put_back
    from lit_rlhf.cli.stage import let_go, run_stage

    folder = str(stage.directory)
    logger = {"name": f"{experiment} {stage.name}", "group": experiment, "id": stage.key}
    defaults = {
        "seed_everything": seed,
        "trainer": {
            "default_root_dir": folder,
            "logger": {"class_path": "lit_rlhf.cli.tracking.Wandb", "init_args": logger},
        },
        "checkpoint": {"dirpath": f"{folder}/checkpoints"},
        "export": {"directory": f"{folder}/model" if stage.command == "fit" else None},
    }
    merged = stage.directory / "stage.yaml"
    partial = stage.directory / f".stage.yaml.{os.getpid()}"  # of several processes each writes it
    partial.write_text(yaml.dump(_merged(defaults, stage.options), Dumper=_Dumper, sort_keys=False), "utf-8")
    partial.replace(merged)
    args = [stage.command, *(word for file in [*stage.config, str(merged)] for word in ("-c", file)), *extra]
    checkpoint = stage.directory / "checkpoints" / "last.ckpt"
    put_back(checkpoint)
    if stage.command == "fit" and checkpoint.exists():
        rank_zero_info(f"going on from {checkpoint}")
        args += ["--ckpt_path", str(checkpoint)]
    cli = run_stage(args)
    trainer = cli.trainer
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if _is_result(name)}
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    saved = [] if metrics else [each for each in callbacks if isinstance(each, SaveConfig)]
    resumed = {name: value for each in saved for name, value in each.facts(trainer)["metrics"].items()}
    let_go(cli)
    return _last_logged(stage.directory / "metrics.jsonl") | resumed | metrics


def _last_logged(history: Path) -> dict[str, float]:
    """Last value of each metric in a run's history: a run resumed behind its last step measures nothing new."""
    lines = history.read_text("utf-8").splitlines() if history.exists() else []
    logged: dict[str, float] = {}
    for line in lines:
        logged |= json.loads(line)
    return {name: value for name, value in logged.items() if _is_result(name)}


def _is_result(metric: str) -> bool:
    """Whether a metric is one that an equal run would have too: how fast it was is none."""
    from lit_rlhf.cli.throughput import PREFIX

    return "/" in metric and not metric.startswith(PREFIX)


class _Dumper(yaml.SafeDumper):
    """Puts strings such as 1e5 into quotes too: YAML 1.1 takes them for strings, the option parser for numbers."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of nested dicts; the second wins."""
    both = {key: (first[key], second[key]) for key in first.keys() & second.keys()}
    deep = {key: _merged(a, b) if isinstance(a, dict) and isinstance(b, dict) else b for key, (a, b) in both.items()}
    return {**first, **second, **deep}


def summarise(stages: list[Stage], seed: int) -> dict[str, Any]:
    """What the stages report, with seconds per stage, the peak of memory in GiB, seed and versions."""
    summary: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for stage in stages:
        content = done(stage)
        if content is None:
            if (stage.directory / "done.json").exists():
                rank_zero_info(f"stage {stage.name} is not in the summary: its folder is one of other options")
            continue
        seconds[stage.name] = content["seconds"]
        if stage.report == "all":
            summary |= content["result"]
        elif isinstance(stage.report, dict):
            for section, names in stage.report.items():
                for metric in set(names.values()) - content["result"].keys():
                    rank_zero_info(f"warning: stage {stage.name} did not measure {metric}; the summary says null")
                values = {name: content["result"].get(metric) for name, metric in names.items()}
                summary.setdefault(section, {}).update(values)
    peak = max((done(stage) or {}).get("peak_memory", 0.0) for stage in stages)
    return {**summary, "seconds": seconds, "peak_memory": peak, "seed": seed, "versions": _versions()}


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("torch", "lightning", "transformers", "tokenizers", "wandb", "jsonargparse")
    return {"lit_rlhf": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
