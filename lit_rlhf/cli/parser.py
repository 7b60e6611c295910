"""Option parsers that take no abbreviations and whose errors say what is wrong, without a page of usage before it."""

import difflib
import inspect
import re
import sys
from importlib import import_module
from typing import Any, NoReturn, get_args

from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

_NOISE = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value|"
    r"Expected a <class 'NoneType'>|Expected a path but .* either not accessible or invalid|$)"
)
_NO_CLASS = re.compile(r"Expected a dot import path string: ([\w.]+)")
_KINDS = {  # of classes, and the options that take one
    "lit_rlhf.data.records.Source": ("sources", "val_sources"),
    "lit_rlhf.rewards.reward.Reward": ("reward", "judge", "inner"),
    "lightning.LightningModule": ("model", "model.help", "voter"),
    "lit_rlhf.policy.advantages.Advantages": ("advantages",),
    "lit_rlhf.policy.samplers.Sampler": ("engine",),
    "lit_rlhf.evaluation.judges.Referee": ("referee",),
}


class _PlainErrors:
    """Mixed into a parser: whole option names only, short errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and where the options are listed; exit with status 2."""
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        if not parser.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]  a nested parser: the outer one will say it
        command = parser.prog.replace(" [options]", "")
        meant = _meant(message, list(parser._option_string_actions))
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
    for name in dict.fromkeys(_NO_CLASS.findall(text)):
        keys = re.findall(r'(?:Parser key "|--)([\w.]+)', text)
        text = text.replace(f"Expected a dot import path string: {name}", f"there is no class {name!r}")
        text += f"\n  {_known_classes(name, keys[-1] if keys else '')}"
    return text


def _meant(message: str, options: list[str]) -> str:
    """A line that suggests the option that was meant, where the message is about one that there is not."""
    unknown = re.findall(r"--[\w.]+", message) if message.startswith("unrecognized arguments") else []
    near = [match for option in unknown for match in difflib.get_close_matches(option, options, n=1, cutoff=0.8)]
    return f"  Did you mean {' and '.join(near)}?\n" if near else ""


def _known_classes(name: str, key: str) -> str:
    kinds = {base: _names(base) for base in _KINDS}
    near = difflib.get_close_matches(name, [each for names in kinds.values() for each in names], n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    option = key.split(".init_args.")[-1]
    kind = next((base for base, options in _KINDS.items() if option in options or key.endswith(options[0])), None)
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
