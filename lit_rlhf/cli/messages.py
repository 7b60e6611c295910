"""The option parser's messages in the words of a command line: whole options, and names that may have been meant."""

import inspect
import os
import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from importlib import import_module
from importlib.util import find_spec

_NOISE = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value|"
    r"Expected a <class 'NoneType'>|Expected a path but .* either not accessible or invalid|$)"
)
_OTHER_TYPES = re.compile(  # that would also have been right, where a class was given
    r"\s*(- )?(Expected a <class '[\w.]+'>$|Not a valid subclass of|Subclass types expect one of|a class path \(str\)|"
    r"a dict (with|without) )"
)
_OF_A_CLASS = re.compile(r"Problem with given class_path|dot import path string")
REQUIRED, BAD_YAML = "the following arguments are required: ", "Problems parsing config"
_NO_OPTION = re.compile(
    r"class_path '(lit_rlhf[\w.]+)':\s+(?:- )?(?:Option '(\w+)' is not accepted|unrecognized arguments: --(\w+))"
)
_NOT_THERE = re.compile(r"module '((?:lit_rlhf|lightning)[\w.]*)' has no attribute '(\w+)'")
_NO_CLASS = re.compile(r"Expected a dot import path string: ([\w.]+)")
_PROBLEM = re.compile(r"Problem with given class_path '([\w.]+)'")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_TO_INSTALL = re.compile(r"pip install (?:-U )?['\"]?([\w.-]+(?:\[[\w,]+\])?(?:[<>=!~]=?[\w.]+)?)")
_KINDS = {  # of classes, and the options that take one
    "lit_rlhf.data.records.Source": ("sources", "val_sources"),
    "lit_rlhf.rewards.reward.Reward": ("reward", "judge", "inner"),
    "lightning.LightningModule": ("model", "model.help", "voter"),
    "lit_rlhf.policy.advantages.Advantages": ("advantages",),
    "lit_rlhf.policy.samplers.Sampler": ("engine",),
    "lit_rlhf.evaluation.judges.Referee": ("referee",),
    "lightning.pytorch.loggers.Logger": ("logger",),
    "lightning.pytorch.callbacks.Callback": ("callbacks",),
    "lightning.pytorch.strategies.Strategy": ("strategy",),
    "lightning.pytorch.profilers.Profiler": ("profiler",),
}
_PACKAGES = ("policy", "rewards", "world", "evaluation", "data.files", "data.texts")
_ONE_OF = {"TensorBoardLogger": ("tensorboard", "tensorboardX")}
"""Classes that ask for an option before they say that a package is missing, and the packages that would do."""


def explained(message: str) -> str:
    """The parser's message without what only its authors need; for a class that is not there, the names that are."""
    package = missing_package(message)
    if package:
        return package
    lines = _without_noise(message)
    required = _required(lines)
    if required:
        return required
    text = "\n".join(lines)
    if text.endswith("expected one argument"):
        text += "\n  A value that begins with - is joined to its option: --model.init_args.x=-1e-3"
    if BAD_YAML in text:
        text = text.replace('in "<unicode string>", ', "in ") + f"\n  {_yaml_hint(text)}"
    for name, *unknown in _NO_OPTION.findall(text):
        text += f"\n  {_class_options(name, ''.join(unknown))}"
    for module, name in dict.fromkeys(_NOT_THERE.findall(text)):
        classes = [key for key, value in vars(import_module(module)).items() if inspect.isclass(value)]
        text += f"\n  {meant(name, classes)}" if similar(name, classes) else ""
    kinds = {base: _names(base) for base in _KINDS} if _NO_CLASS.search(text) else {}
    for name in dict.fromkeys(_NO_CLASS.findall(text)):
        keys = re.findall(r'(?:Parser key "|--)([\w.]+)', text)
        known = any(name in names for names in kinds.values())
        wrong = f"{name} is a class of another kind" if known else f"there is no class {name!r}"
        text = text.replace(f"Expected a dot import path string: {name}", wrong)
        text += f"\n  {_known_classes(name, keys[-1] if keys else '', kinds)}"
    return text


def missing_package(message: str) -> str:
    """One line that says which package to install, where a message is about one that is not installed; else nothing."""
    classes = [name.rpartition(".")[2] for name in _PROBLEM.findall(message)]
    who = classes[-1] if classes else "this option"
    for name in classes:
        if name in _ONE_OF and not any(find_spec(package) for package in _ONE_OF[name]):
            return f"{name} needs a package that is not installed: pip install {_ONE_OF[name][0]}"
    found = re.search(r"Neither `(\w+)` nor", message) or _TO_INSTALL.search(message)
    if found is None:
        return ""
    named = re.search(r"To use the `(\w+)`", message)
    spec = f"'{found[1]}'" if re.search(r"[<>=!~\[]", found[1]) else found[1]
    return f"{named[1] if named else who} needs a package that is not installed: pip install {spec}"


def _without_noise(message: str) -> list[str]:
    lines = [line for line in message.splitlines() if not _NOISE.match(line)] or message.splitlines()
    if any(_OF_A_CLASS.search(line) for line in lines):
        lines = [line for line in lines if not _OTHER_TYPES.match(line)]
    return [line for line, before in zip(lines, ["", *lines], strict=False) if line != before]  # one for each type


def _required(lines: list[str]) -> str:
    """Says which options are missing, each as it is written on a command line; nothing where none is."""
    path: list[tuple[int, str]] = []  # indentation and key of what is around a line
    options: list[str] = []
    owner = ""
    for line in lines:
        indent = len(line) - len(line.lstrip(" -"))
        path = [(at, key) for at, key in path if at < indent]
        keyed, problem = _KEY.search(line), _PROBLEM.search(line)
        if keyed:
            path.append((indent, keyed[1]))
        elif problem:
            owner = problem[1]
        elif REQUIRED in line:
            names = line.partition(REQUIRED)[2].split(", ")
            around = "".join(f"{key}.init_args." for _, key in path)
            options += [f"--{around}{name.strip()}" for name in names] if path else names
    if not options:
        return ""
    text = REQUIRED + ", ".join(dict.fromkeys(options))
    return f"{text}\n  {_class_options(owner)}" if owner else text


def similar(name: str, known: Iterable[str], enough: float = 0.6) -> list[str]:
    """The names that are nearest to one that is none of them, the nearest first: all that are about equally near.

    Args:
        name: What was written.
        known: The names there are.
        enough: How near they have to be, from 0 to 1; one that begins with the name always is.
    """
    known = [each for each in known if each != name]
    begun = [each for each in known if len(name) > 2 and each.lower().startswith(name.lower())]
    if begun:
        return begun[:3]
    ratios = {each: SequenceMatcher(None, name.lower(), each.lower()).ratio() for each in known}
    enough = max(enough, max(ratios.values(), default=0.0) - 0.05)
    return sorted((each for each in known if ratios[each] >= enough), key=lambda each: -ratios[each])[:3]


def meant(name: str, known: Iterable[str]) -> str:
    """``Did you mean …? ``, or nothing where no name is near."""
    near = similar(name, known)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def misnamed_source(option: str, value: str) -> str:
    """What is wrong with a text that names a class of sources, but is read as the path of a file; else nothing.

    The parser takes any text for a path, a class that is misspelt or lacks an option among them.
    """
    known = _classes("lit_rlhf.data.records.Source")
    for name in [*re.findall(r"class_path\W+(\w+)", value), value]:
        if not name.isidentifier() or os.path.exists(name):
            continue
        if name in known:
            parameters = inspect.signature(known[name]).parameters.items()
            needed = [key for key, parameter in parameters if parameter.default is parameter.empty]
            return REQUIRED + ", ".join(f"--{option}.init_args.{key}" for key in needed) if needed else ""
        if similar(name, known, enough=0.8):
            listed = f"{meant(name, known)}Known are {', '.join(known)}."
            return f"--{option}: there is no class and no file {name!r}\n  {listed}"
    return ""


def _yaml_hint(text: str) -> str:
    if "cannot start any token" in text:
        return "YAML is indented with spaces; a tab there is an error, too."
    return "Is the indentation right? An option stands two spaces further in than the one it belongs to."


def _class_options(name: str, unknown: str = "") -> str:
    """Says which options a class has, and which of them may have been meant."""
    module, _, short = name.rpartition(".")
    known = list(inspect.signature(getattr(import_module(module), short)).parameters)
    return f"{meant(unknown, known) if unknown else ''}{short} has: {', '.join(known)}."


def _known_classes(name: str, key: str, kinds: dict[str, list[str]]) -> str:
    option = key.split(".init_args.")[-1]
    kind = next((base for base, options in _KINDS.items() if option in options or key.endswith(options[0])), None)
    short = name.rpartition(".")[2]
    candidates = kinds[kind] if kind else [each for names in kinds.values() for each in names]
    near = similar(short, candidates)
    kind = kind or next((base for base, names in kinds.items() if near and near[0] in names), None)
    known = f"Known are {', '.join(kinds[kind])}; a" if kind else "A"
    return f"{meant(short, candidates)}{known}ny other class is named by its import path."


def _names(base: str) -> list[str]:
    return list(_classes(base))


def _classes(base: str) -> dict[str, type]:
    """Public classes of one kind, by name: this project's, and Lightning's for options of the Trainer."""
    module, name = base.rsplit(".", 1)
    kind = getattr(import_module(module), name)
    lightnings = module.startswith("lightning.pytorch")
    owner = ("lightning.", "lit_rlhf.") if lightnings else "lit_rlhf."
    places = [module, "lit_rlhf.cli.tracking"] if lightnings else [f"lit_rlhf.{package}" for package in _PACKAGES]
    found = {
        key: value
        for place in places
        for key, value in sorted(vars(import_module(place)).items())
        if inspect.isclass(value) and issubclass(value, kind) and value.__module__.startswith(owner)
    }
    hidden = {key for key, value in found.items() if key == name or inspect.isabstract(value) or key[0] == "_"}
    return {key: found[key] for key in sorted(found.keys() - hidden)}
