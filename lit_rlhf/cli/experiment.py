"""A whole experiment: stages one after another in one process, skipping what is done and unchanged."""

import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_rlhf import __version__
from lit_rlhf.cli.commands import FUNCTIONS, LIGHTNING, call
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import write_json

REQUIRED = "???"
"""Stands in an experiment's ``variables`` for a value that the user must give."""


@dataclass
class Stage:
    """One stage of an experiment.

    Attributes:
        name: Also the name of its folder below the experiment's.
        command: A Lightning command (``fit``, ``validate``, ``test``, ``predict``) or ``world`` or ``compare``.
        config: YAML files that are merged from left to right, relative to the experiment's file.
        options: What this stage sets on top of them. ``${run}`` stands for the experiment's folder, ``${seed}`` for
            its seed, and ``${name}`` for one of the file's ``variables``.
        report: What goes into ``summary.json``: ``section: {name: metric}``, or ``all`` of what the command gives.
    """

    name: str
    command: str
    config: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    report: dict[str, dict[str, str]] | str | None = None
    directory: Path = Path()
    key: str = ""


def run_experiment(
    experiment: str,
    out: str | None = None,
    seed: int | None = None,
    only: list[str] | None = None,
    variables: dict[str, Any] | None = None,
    extra: list[str] | None = None,
) -> dict[str, Any]:
    """Run an experiment: a YAML file with a list of stages, or a folder with one YAML file per stage.

    Stages that are done and unchanged are skipped; one that was interrupted goes on from its last checkpoint; one
    whose options changed, or that builds on one that changed, runs anew (its old folder is kept beside the new).

    Args:
        experiment: The YAML file, or the folder; a folder's files run in the order of their names.
        out: Folder for everything that is written; None takes the one that the file names.
        seed: Replaces the file's seed.
        only: Names of the stages to look at; None takes all.
        variables: Replaces variables of the file, such as ``--variables.pairs my-pairs.jsonl``.
        extra: Options behind ``--`` for every Lightning stage, such as ``--trainer.logger false``.

    Returns:
        What ``summary.json`` holds.
    """
    spec = _read(Path(experiment))
    run = Path(out or spec.get("out") or f"runs/{Path(experiment).stem}")
    seed = int(spec.get("seed", 0)) if seed is None else seed
    names = _variables(spec.get("variables") or {}, variables or {}, experiment)
    names |= {"run": str(run), "seed": seed}
    stages = _stages(spec["stages"], Path(experiment), run, names, extra or [])
    unknown = set(only or []) - {stage.name for stage in stages}
    if unknown:
        known = ", ".join(stage.name for stage in stages)
        raise DataError(f"has no stage {sorted(unknown)[0]!r}", experiment, f"Its stages are: {known}.")
    for number, stage in enumerate(stages, 1):
        if not only or stage.name in only:
            _run(stage, run.name, seed, extra or [], f"{number}/{len(stages)}")
    summary = summarise(stages, seed)
    _write_json(run / "summary.json", summary)
    rank_zero_info(f"\nsummary: {run / 'summary.json'}")
    return summary


def _read(path: Path) -> dict[str, Any]:
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    try:
        contents = [yaml.safe_load(file.read_text("utf-8")) for file in files]
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"cannot be read: {error}", str(path), "Give a YAML file or a folder of them.") from None
    if path.is_dir():
        names = [re.sub(r"^\d+[-_]", "", file.stem) for file in files]
        stages = [{"name": name} | content for name, content in zip(names, contents, strict=True)]
        return {"stages": stages}
    if not isinstance(contents[0], dict) or "stages" not in contents[0]:
        raise DataError("has no list of stages", str(path), "An experiment begins with `stages:`.")
    return contents[0]


def _variables(defaults: dict[str, Any], given: dict[str, Any], experiment: str) -> dict[str, Any]:
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        known = ", ".join(defaults) or "none"
        raise DataError(f"has no variable {unknown[0]!r}", experiment, f"Its variables are: {known}.")
    missing = sorted(name for name, value in {**defaults, **given}.items() if value == REQUIRED)
    if missing:
        hint = "Give it on the command line: " + " ".join(f"--variables.{name} ..." for name in missing)
        raise DataError(f"needs a value for {', '.join(missing)}", experiment, hint)
    return {**defaults, **given}


def _stages(
    specs: list[dict[str, Any]], experiment: Path, run: Path, names: dict[str, Any], extra: list[str]
) -> list[Stage]:
    base = experiment if experiment.is_dir() else experiment.parent
    unknown = set(re.findall(r"\$\{(\w+)\}", json.dumps(specs))) - names.keys()
    if unknown:
        raise DataError(f"${{{min(unknown)}}} is no variable", str(experiment), f"Known are: {', '.join(names)}.")
    keys: dict[str, str] = {}
    stages = []
    for spec in specs:
        try:
            stage = Stage(**_substituted(spec, names))
        except TypeError as error:
            hint = "A stage has name, command, config, options and report."
            raise DataError(f"stage {spec.get('name', spec)!r}: {error}", str(experiment), hint) from None
        if stage.command not in LIGHTNING and stage.command not in FUNCTIONS:
            hint = f"Commands are: {', '.join([*LIGHTNING, *FUNCTIONS])}."
            raise DataError(f"stage {stage.name!r}: there is no command {stage.command!r}", str(experiment), hint)
        stage.config = [str((base / file).resolve()) for file in stage.config]
        if stage.name in keys:
            raise DataError(f"two stages are called {stage.name!r}", str(experiment), "Give each its own name.")
        stage.directory = run / stage.name
        text = json.dumps(_substituted(spec, {**names, "run": "${run}"}), sort_keys=True)
        # A stage builds on those whose folders it names, and on no others.
        needs = [keys[name] for name in sorted(set(re.findall(r"\$\{run\}/([\w-]+)", text))) if name in keys]
        contents = [Path(file).read_text("utf-8") for file in stage.config]
        lightning = extra if stage.command in LIGHTNING else []
        identity = json.dumps([text, contents, needs, names["seed"], lightning, __version__])
        stage.key = keys[stage.name] = hashlib.sha256(identity.encode()).hexdigest()[:16]
        stages.append(stage)
    return stages


def _substituted(value: Any, names: dict[str, Any]) -> Any:
    """Replace ``${name}`` in all strings; a string that is nothing else becomes the value itself, of whatever type."""
    if isinstance(value, dict):
        return {key: _substituted(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_substituted(each, names) for each in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$\{(\w+)\}", value)
    if whole and whole[1] in names:
        return names[whole[1]]
    return re.sub(r"\$\{(\w+)\}", lambda match: str(names.get(match[1], match[0])), value)


_write_json = rank_zero_only(write_json)


@rank_zero_only
def _make_way(stage: Stage) -> None:
    """Move the folder of a changed stage aside and mark the new one."""
    mark = stage.directory / "key"
    if stage.directory.exists() and (not mark.exists() or mark.read_text() != stage.key):
        number = 1
        while (aside := stage.directory.with_name(f"{stage.directory.name}~{number}")).exists():
            number += 1
        stage.directory.rename(aside)
        rank_zero_info(f"stage {stage.name} has changed; what it wrote before is kept in {aside}")
    stage.directory.mkdir(parents=True, exist_ok=True)
    mark.write_text(stage.key)


def _run(stage: Stage, experiment: str, seed: int, extra: list[str], number: str) -> None:
    done = stage.directory / "done.json"
    if done.exists() and json.loads(done.read_text("utf-8"))["key"] == stage.key:
        rank_zero_info(f"\n── {number} {stage.name}: done and unchanged")
        return
    rank_zero_info(f"\n── {number} {stage.name}: lit-rlhf {stage.command}")
    _make_way(stage)
    start = time.perf_counter()
    if stage.command in LIGHTNING:
        result = _run_lightning(stage, experiment, seed, extra)
    else:
        result = call(stage.command, options=stage.options, group=experiment if _tracks(extra) else "")
    seconds = round(time.perf_counter() - start, 1)
    _write_json(
        done, {"key": stage.key, "seconds": seconds, "result": result if isinstance(result, dict) else str(result)}
    )


def _tracks(extra: list[str]) -> bool:
    """Whether the stages log to W&B: commands that are no Lightning runs follow the others."""
    return "--trainer.logger=false" not in extra and ("--trainer.logger", "false") not in pairwise(extra)


def _run_lightning(stage: Stage, experiment: str, seed: int, extra: list[str]) -> dict[str, float]:
    """Run the stage just as ``lit-rlhf COMMAND -c … -c stage.yaml`` would; returns its last metrics."""
    from lit_rlhf.cli.stage import run_stage

    folder = str(stage.directory)
    logger = {"save_dir": folder, "name": f"{experiment} {stage.name}", "group": experiment, "id": stage.key}
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
    merged.write_text(yaml.dump(_merged(defaults, stage.options), Dumper=_Dumper, sort_keys=False), "utf-8")
    args = [stage.command, *(word for file in [*stage.config, str(merged)] for word in ("-c", file)), *extra]
    checkpoint = stage.directory / "checkpoints" / "last.ckpt"
    if stage.command == "fit" and checkpoint.exists():
        rank_zero_info(f"going on from {checkpoint}")
        args += ["--ckpt_path", str(checkpoint)]
    trainer = run_stage(args).trainer
    if trainer.interrupted:
        raise KeyboardInterrupt
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return _last_logged(stage.directory / "metrics.jsonl") | metrics


def _last_logged(history: Path) -> dict[str, float]:
    """Last value of each metric in a run's history: a run resumed behind its last step measures nothing new."""
    lines = history.read_text("utf-8").splitlines() if history.exists() else []
    logged: dict[str, float] = {}
    for line in lines:
        logged |= json.loads(line)
    return {name: value for name, value in logged.items() if name != "step"}


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
    """What the stages report, with seconds per stage, seed and versions."""
    summary: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for stage in stages:
        path = stage.directory / "done.json"
        if not path.exists():
            continue
        done = json.loads(path.read_text("utf-8"))
        seconds[stage.name] = done["seconds"]
        if stage.report == "all":
            summary |= done["result"]
        elif isinstance(stage.report, dict):
            for section, names in stage.report.items():
                for metric in set(names.values()) - done["result"].keys():
                    rank_zero_info(f"warning: stage {stage.name} did not measure {metric}; the summary says null")
                values = {name: done["result"].get(metric) for name, metric in names.items()}
                summary.setdefault(section, {}).update(values)
    return {**summary, "seconds": seconds, "seed": seed, "versions": _versions()}


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("torch", "lightning", "transformers", "tokenizers", "wandb", "jsonargparse")
    return {"lit_rlhf": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
