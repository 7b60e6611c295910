"""Option parsers that take no abbreviations and whose errors say what is wrong, without a page of usage before it."""

import difflib
import re
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from lit_rlhf.cli.messages import BAD_YAML, REQUIRED, explained, misnamed_source, missing_package

STAGES = ("fit", "validate", "test", "predict")


def know_classes() -> None:
    """Import what options may name by a class's name alone: the parser knows only what has been imported."""
    for package in ("policy", "rewards", "world", "data.files", "data.texts"):
        import_module(f"lit_rlhf.{package}")


class _PlainErrors:
    """Mixed into a parser: whole option names only, short errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._words: list[str] = []

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Parse the words of a command line; they are kept for the message of an error."""
        self._words = [*(sys.argv[1:] if args is None else args)]
        parsed = super().parse_args(args, *rest, **kwargs)  # type: ignore[misc]
        for key, value in parsed.items():
            option = key.rpartition(".")[2]
            for text in value if isinstance(value, list) else [value]:
                wrong = option in ("sources", "val_sources") and isinstance(text, str)
                if wrong and (message := misnamed_source(f"data.{option}", text)):
                    self.error(message)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and where the options are listed; exit with status 2."""
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        if not parser.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]  a nested parser: the outer one will say it
        if missing_package(message):
            print(f"\nerror: {missing_package(message)}", file=sys.stderr)
            sys.exit(2)
        command = parser.prog.replace(" [options]", "")
        if command == "lit-rlhf" and self._words and self._words[0] in STAGES:
            command += f" {self._words[0]}"
        meant = _meant(message, list(parser._option_string_actions))
        if message.startswith(BAD_YAML):
            message = f"{_broken_file(self._words)}: {message}"
        if message.startswith(REQUIRED):
            message = REQUIRED + ", ".join(
                _written(name, parser) for name in message.removeprefix(REQUIRED).split(", ")
            )
        print(f"\nerror: {explained(message)}\n{meant}  All options: {command} --help", file=sys.stderr)
        sys.exit(2)


class PlainParser(_PlainErrors, ArgumentParser):
    """Parser of a command that is a plain function."""


class PlainLightningParser(_PlainErrors, LightningArgumentParser):
    """Parser of a Lightning command."""


def keep_paths(parser: LightningArgumentParser) -> None:
    """Let options that may be text, such as ``data.sources``, keep the path of a file that is there.

    The parser would put the file's content in its place: of a JSON list every row would become a source.
    """
    for action in parser._actions:
        if str in get_args(getattr(action, "_typehint", None)):
            action._enable_path = False  # pyright: ignore[reportAttributeAccessIssue]


def _written(name: str, parser: Any) -> str:
    """A required option as it stands on a command line; what takes no option is named by its place."""
    name = re.sub(rf"^({'|'.join(STAGES)})\.", "", name.removeprefix("--"))
    positional = any(action.dest == name and not action.option_strings for action in parser._actions)
    if name == "data":
        name = "data.sources"  # all that the data need
    return name.upper() if positional else f"--{name}"


def _broken_file(words: list[str]) -> str:
    """Which of the config files the YAML reader stops at."""
    joined = [word.partition("=")[2] for word in words if word.startswith(("-c=", "--config="))]
    for path in [*joined, *(path for option, path in pairwise(words) if option in ("-c", "--config"))]:
        try:
            yaml.safe_load(Path(path).read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return path
    return "a config file"


def _meant(message: str, options: list[str]) -> str:
    """A line that suggests the option that was meant, where the message is about one that there is not."""
    unknown = re.findall(r"--[\w.]+", message) if message.startswith("unrecognized arguments") else []
    near = [match for option in unknown for match in difflib.get_close_matches(option, options, n=1, cutoff=0.8)]
    return f"  Did you mean {' and '.join(near)}?\n" if near else ""
