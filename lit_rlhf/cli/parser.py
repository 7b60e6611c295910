"""Option parsers that take no abbreviations and whose errors say what is wrong, without a page of usage before it."""

import difflib
import inspect
import re
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

_NOISE = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value|"
    r"Expected a <class 'NoneType'>|Expected a path but .* either not accessible or invalid|$)"
)
_REQUIRED, _BAD_YAML = "the following arguments are required: ", "Problems parsing config"
_NO_OPTION = re.compile(r"class_path '(lit_rlhf[\w.]+)':\s+(?:- )?Option '(\w+)' is not accepted")
_NO_CLASS = re.compile(r"Expected a dot import path string: ([\w.]+)")
_KINDS = {  # of classes, and the options that take one
    "lit_rlhf.data.records.Source": ("sources", "val_sources"),
    "lit_rlhf.rewards.reward.Reward": ("reward", "judge", "inner"),
    "lightning.LightningModule": ("model", "model.help", "voter"),
    "lit_rlhf.policy.advantages.Advantages": ("advantages",),
    "lit_rlhf.policy.samplers.Sampler": ("engine",),
    "lit_rlhf.evaluation.judges.Referee": ("referee",),
}


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
        return super().parse_args(args, *rest, **kwargs)  # type: ignore[misc]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and where the options are listed; exit with status 2."""
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        if not parser.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]  a nested parser: the outer one will say it
        command = parser.prog.replace(" [options]", "")
        stage = re.match(r"the following arguments are required: (fit|validate|test|predict)\.", message)
        command += f" {stage[1]}" if stage and command == "lit-rlhf" else ""
        meant = _meant(message, list(parser._option_string_actions))
        if message.startswith(_BAD_YAML):
            message = f"{_broken_file(self._words)}: {message}"
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


def explained(message: str) -> str:
    """The parser's message without what only its authors need; for a class that is not there, the names that are."""
    lines = [line for line in message.splitlines() if not _NOISE.match(line)] or message.splitlines()
    text = "\n".join(lines)
    if text.startswith(_REQUIRED):
        names = re.sub(r"\b(fit|validate|test|predict)\.", "", text.removeprefix(_REQUIRED)).split(", ")
        text = _REQUIRED + ", ".join(f"--{name}" for name in names)
    if text.endswith("expected one argument"):
        text += "\n  A value that begins with - is joined to its option: --model.init_args.x=-1e-3"
    if _BAD_YAML in text:
        text = text.replace('in "<unicode string>", ', "in ") + f"\n  {_yaml_hint(text)}"
    for name, unknown in _NO_OPTION.findall(text):
        text += f"\n  {_class_options(name, unknown)}"
    for name in dict.fromkeys(_NO_CLASS.findall(text)):
        keys = re.findall(r'(?:Parser key "|--)([\w.]+)', text)
        text = text.replace(f"Expected a dot import path string: {name}", f"there is no class {name!r}")
        text += f"\n  {_known_classes(name, keys[-1] if keys else '')}"
    return text


def _broken_file(words: list[str]) -> str:
    """Which of the config files the YAML reader stops at."""
    joined = [word.partition("=")[2] for word in words if word.startswith(("-c=", "--config="))]
    for path in [*joined, *(path for option, path in pairwise(words) if option in ("-c", "--config"))]:
        try:
            yaml.safe_load(Path(path).read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return path
    return "a config file"


def _yaml_hint(text: str) -> str:
    if "cannot start any token" in text:
        return "YAML is indented with spaces; a tab there is an error, too."
    return "Is the indentation right? An option stands two spaces further in than the one it belongs to."


def _class_options(name: str, unknown: str) -> str:
    """Suggests an option of a class, and says where all of them are listed."""
    module, _, short = name.rpartition(".")
    known = list(inspect.signature(getattr(import_module(module), short)).parameters)
    near = difflib.get_close_matches(unknown, known, n=1)
    return f"{f'Did you mean {near[0]}? ' if near else ''}{short} has: {', '.join(known)}."


def _meant(message: str, options: list[str]) -> str:
    """A line that suggests the option that was meant, where the message is about one that there is not."""
    unknown = re.findall(r"--[\w.]+", message) if message.startswith("unrecognized arguments") else []
    near = [match for option in unknown for match in difflib.get_close_matches(option, options, n=1, cutoff=0.8)]
    return f"  Did you mean {' and '.join(near)}?\n" if near else ""


def _known_classes(name: str, key: str) -> str:
    kinds = {base: _names(base) for base in _KINDS}
    option = key.split(".init_args.")[-1]
    kind = next((base for base, options in _KINDS.items() if option in options or key.endswith(options[0])), None)
    near = difflib.get_close_matches(
        name, kinds[kind] if kind else [each for all in kinds.values() for each in all], n=1
    )
    meant = f"Did you mean {near[0]}? " if near else ""
    kind = kind or next((base for base, names in kinds.items() if near and near[0] in names), None)
    known = f"Known are {', '.join(kinds[kind])}; a" if kind else "A"
    return f"{meant}{known}ny other class is named by its import path."


def _names(base: str) -> list[str]:
    """Public classes of this project of one kind."""
    module, name = base.rsplit(".", 1)
    kind = getattr(import_module(module), name)
    found = {
        key: value
        for package in ("policy", "rewards", "world", "evaluation", "data.files", "data.texts")
        for key, value in vars(import_module(f"lit_rlhf.{package}")).items()
        if inspect.isclass(value) and issubclass(value, kind) and value.__module__.startswith("lit_rlhf")
    }
    return sorted(
        key for key, value in found.items() if key != name and not inspect.isabstract(value) and key[0] != "_"
    )
