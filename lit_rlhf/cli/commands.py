"""From command-line words to the function that does the work."""

import difflib
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_rlhf.cli.faults import INTERRUPTED, TERMINATED, UNTRACKED, Terminated, end_on_sigterm, told

LIGHTNING = ("fit", "validate", "test", "predict")
_SYNONYMS = {"train": "fit", "sft": "fit", "ppo": "fit", "eval": "evaluate", "show": "inspect"}


def dispatch(args: list[str]) -> int:
    """Run one command; returns the exit status. Errors that are the user's to mend come without a traceback."""
    command, rest = args[0], args[1:]
    former = end_on_sigterm()
    try:
        if command in LIGHTNING:
            from lit_rlhf.cli.stage import run_stage

            run_stage(args)
        elif command == "run":
            from lit_rlhf.cli.experiment import run_experiment

            parser = _parser(run_experiment, "run")
            known, extra = _split_extra(rest)
            run_experiment(**_options(parser, known), extra=extra)
        elif command in FUNCTIONS:
            found = call(command, args=rest)
            if isinstance(found, dict) and found.get("fits") is False:  # of `plan`, so that scripts can ask
                return 1
            if isinstance(found, int):  # of `inspect`, where a file is refused
                return found
        else:
            known = [*LIGHTNING, "run", *FUNCTIONS]
            near = difflib.get_close_matches(_SYNONYMS.get(command, command), known, n=1)
            meant = f"did you mean {near[0]}? All" if near else "all"
            print(f"lit-rlhf: there is no command {command!r}; {meant} are listed by lit-rlhf --help", file=sys.stderr)
            return 2
    except Terminated as stopped:
        print(f"\nended by SIGTERM{_how_to_go_on(command, stopped.args)}", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt as stopped:
        print(f"\ninterrupted{_how_to_go_on(command, stopped.args)}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit:
        raise
    except BaseException as error:  # torch's for checkpoints in parts is no Exception
        message = told(error)
        if message is None:
            raise
        print(f"\nerror: {message}", file=sys.stderr)
        return 1
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)
    tracking = sys.modules.get("lit_rlhf.cli.tracking")
    return UNTRACKED if tracking is not None and tracking.untracked() else 0


def _how_to_go_on(command: str, checkpoint: tuple[Any, ...]) -> str:
    if command == "run":
        return "; the same command goes on from here"
    return f"; the same command with --ckpt_path {checkpoint[0]} goes on from here" if checkpoint else ""


def call(
    command: str,
    args: list[str] | None = None,
    options: dict[str, Any] | None = None,
    group: str | None = None,
    name: str | None = None,
) -> Any:
    """Run one of `FUNCTIONS`, with options from the command line or as a nested dict.

    Figures and pictures of a command with a folder ``out`` also go to W&B.

    Args:
        command: Name of the function.
        args: Words of the command line.
        options: The options instead of words.
        group: W&B group of the run; an empty one keeps it out of W&B.
        name: What W&B calls the run; None takes the command's name.

    Returns:
        What the function returns.
    """
    from lit_rlhf.cli.stage import quieten
    from lit_rlhf.cli.tracking import log_report

    quieten()
    function = _function(command)
    parser = _parser(function, command)
    namespace = parser.parse_object(options) if options is not None else parser.parse_args(args)
    arguments = _call_arguments(parser.instantiate(namespace))
    start = time.time()
    result = function(**arguments)
    if isinstance(result, dict) and arguments.get("out") and group != "":
        told = namespace.clone().as_dict()
        log_report(name or command, Path(arguments["out"]), result, group, start, command, told)
    return result


def _options(parser: ArgumentParser, args: list[str]) -> dict[str, Any]:
    return _call_arguments(parser.instantiate(parser.parse_args(args)))


def _call_arguments(namespace: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(namespace).items() if name != "config"}


def _parser(function: Any, command: str) -> ArgumentParser:
    from lit_rlhf.cli.parser import PlainParser, know_classes

    know_classes()
    description = (function.__doc__ or "").split("\n\n")[0]
    if command == "run":
        description += (
            " Options behind `--` go to every Lightning stage, such as `-- --trainer.logger false`; those that only "
            "decide about the logger, the progress bar or the model summary make no stage run anew."
        )
    root = FUNCTIONS.get(command, "lit_rlhf").partition(".")[0]  # other packages may add commands to `FUNCTIONS`
    program = "lit-rlhf" if root == "lit_rlhf" else f"python -m {root}"
    parser = PlainParser(prog=f"{program} {command}", description=description)
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of the options.")
    if command == "inspect":  # any number of files
        parser.add_argument("files", nargs="+", type=str, help="Files, patterns, folders or Hub ids.")
        parser.add_function_arguments(function, as_positional=False, skip={"files"})
        return parser
    positional = command in ("run", "world", "model", "export", "sweep")
    parser.add_function_arguments(function, as_positional=positional, skip={"extra"})
    return parser


def _split_extra(args: list[str]) -> tuple[list[str], list[str]]:
    """What stands behind ``--`` goes to every Lightning stage."""
    if "--" not in args:
        return args, []
    at = args.index("--")
    return args[:at], args[at + 1 :]


FUNCTIONS = {
    "world": "lit_rlhf.world.presets.write_base_model",
    "model": "lit_rlhf.cli.model.model",
    "inspect": "lit_rlhf.cli.inspect.inspect",
    "compare": "lit_rlhf.evaluation.compare.compare",
    "rounds": "lit_rlhf.evaluation.rounds.rounds",
    "strength": "lit_rlhf.evaluation.strength.strength",
    "evaluate": "lit_rlhf.evaluation.evaluate.evaluate",
    "leaderboard": "lit_rlhf.evaluation.leaderboard.leaderboard",
    "plan": "lit_rlhf.cli.memory.plan",
    "sweep": "lit_rlhf.cli.sweep.sweep",
    "export": "lit_rlhf.cli.export.export",
}
"""Commands that are plain functions: their arguments are the options, their docstring is the help."""


def _function(command: str) -> Any:
    module, name = FUNCTIONS[command].rsplit(".", 1)
    return getattr(import_module(module), name)
