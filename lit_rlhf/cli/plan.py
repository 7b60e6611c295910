"""An experiment's file, read: its variables put in their places, its stages and what each depends on."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lit_rlhf import __version__
from lit_rlhf.cli.commands import FUNCTIONS, LIGHTNING
from lit_rlhf.cli.keys import input_files, key_of, without_quiet_options
from lit_rlhf.cli.repeat import substituted, unrolled
from lit_rlhf.data.errors import DataError

REQUIRED = "???"
"""Stands in an experiment's ``variables`` for a value that the user must give."""

_NAME = r"[\w-]+"


@dataclass
class Stage:
    """One stage of an experiment.

    Attributes:
        name: Also the name of its folder below the experiment's.
        command: A Lightning command (``fit``, ``validate``, ``test``, ``predict``) or ``world`` or ``compare``.
        config: YAML files that are merged from left to right, relative to the experiment's file.
        options: What this stage sets on top of them. ``${run}`` stands for the experiment's folder, ``${seed}`` for
            its seed, and ``${name}`` for one of the file's ``variables`` or of its group's, see `Repeat`.
        report: What goes into ``summary.json``: ``section: {name: metric}``, or ``all`` of what the command gives.
    """

    name: str
    command: str
    config: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    report: dict[str, dict[str, str]] | str | None = None
    directory: Path = Path()
    portable: dict[str, Any] = field(default_factory=dict)
    key: str = ""


def read_experiment(path: Path) -> dict[str, Any]:
    """The content of an experiment's file, or of a folder with one file per stage.

    Raises:
        DataError: If it cannot be read, or lists no stages.
    """
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


def fill_variables(defaults: dict[str, Any], given: dict[str, Any], experiment: str) -> dict[str, Any]:
    """The file's variables with the values that the user gave; one may stand for another: ``b: ${a}``.

    Raises:
        DataError: If one is given that the file does not have, or is missing.
    """
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        known = ", ".join(defaults) or "none"
        raise DataError(f"has no variable {unknown[0]!r}", experiment, f"Its variables are: {known}.")
    missing = sorted(name for name, value in {**defaults, **given}.items() if value == REQUIRED)
    if missing:
        hint = "Give it on the command line: " + " ".join(f"--variables.{name} ..." for name in missing)
        raise DataError(f"needs a value for {', '.join(missing)}", experiment, hint)
    return substituted({**defaults, **given}, {**defaults, **given})


def plan_stages(specs: list[dict[str, Any]], experiment: Path, run: Path, names: dict[str, Any]) -> list[Stage]:
    """The stages with all variables replaced, in their order.

    Args:
        specs: As the file has them; groups that repeat are written out.
        experiment: The file or folder; config files are relative to it.
        run: Folder of the run; each stage gets one below it.
        names: Values of ``${name}``.

    Raises:
        DataError: For an unknown variable, option or command, a name that cannot be, or a group that lacks something.
    """
    base = experiment if experiment.is_dir() else experiment.parent
    specs = unrolled(specs, names, str(experiment))
    unknown = set(re.findall(r"\$\{(\w+)\}", json.dumps(specs))) - names.keys()
    if unknown:
        raise DataError(f"${{{min(unknown)}}} is no variable", str(experiment), f"Known are: {', '.join(names)}.")
    stages: list[Stage] = []
    for spec in specs:
        try:
            stage = Stage(**substituted(spec, names))
        except TypeError as error:
            hint = "A stage has name, command, config, options and report."
            raise DataError(f"stage {spec.get('name', spec)!r}: {error}", str(experiment), hint) from None
        if not re.fullmatch(_NAME, stage.name):
            hint = "Take letters, digits, _ and -: other stages are to recognise it in ${run}/NAME."
            raise DataError(f"a stage cannot be called {stage.name!r}", str(experiment), hint)
        if stage.command not in LIGHTNING and stage.command not in FUNCTIONS:
            hint = f"Commands are: {', '.join([*LIGHTNING, *FUNCTIONS])}."
            raise DataError(f"stage {stage.name!r}: there is no command {stage.command!r}", str(experiment), hint)
        if any(stage.name == earlier.name for earlier in stages):
            raise DataError(f"two stages are called {stage.name!r}", str(experiment), "Give each its own name.")
        stage.config = [str((base / file).resolve()) for file in stage.config]
        stage.directory = run / stage.name
        stage.portable = substituted(spec, {**names, "run": "${run}"})
        stages.append(stage)
    return stages


def stage_key(stage: Stage, earlier: list[Stage], seed: int, extra: list[str]) -> str:
    """Names the stage's options, the files that they name, and the stages that it builds on.

    A stage builds on those whose folders it names, and on no others. The key is taken when the stage's turn comes: an
    earlier one may have written a file outside the run's folder.
    """
    text = json.dumps(stage.portable, sort_keys=True)
    keys = {each.name: each.key for each in earlier}
    needs = [keys[name] for name in sorted(set(re.findall(rf"\$\{{run\}}/({_NAME})", text))) if name in keys]
    contents = [_config_text(stage, file) for file in stage.config]
    words = without_quiet_options(extra) if stage.command in LIGHTNING else []
    configs = [yaml.safe_load(content) for content in contents]
    files = input_files([stage.portable, *configs, words], stage.directory.parent, stage.command)
    return key_of(text, contents, needs, seed, words, files, __version__)


def _config_text(stage: Stage, file: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"a config of stage {stage.name!r} cannot be read: {error}", file) from None
