"""What a stage depends on, and the key that names it: equal keys, equal results."""

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from lit_rlhf.data.folder_rows import folder_and_config
from lit_rlhf.data.store import file_digest

_WHOLE = 64 * 2**20
_LONGEST_PATH = 4096
_OUTPUTS = ("directory", "out", "default_root_dir", "dirpath", "save_dir")
_QUIET = ("--trainer.logger", "--trainer.enable_progress_bar", "--trainer.enable_model_summary")


def key_of(*facts: Any) -> str:
    """Sixteen hexadecimal digits that name facts which JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def input_files(options: Iterable[Any], run: Path, command: str) -> dict[str, str]:
    """Fingerprints of all local files and folders that options name.

    A file of up to 64 MB is known by its content, a larger one by its size and time. Left out is what the options
    write to, and everything in the run's own folder: there, stages are known by their keys.

    Args:
        options: Nested options, or words of a command line.
        run: The run's folder.
        command: What the options are for: ``predict`` writes its store, others read one.

    Returns:
        Path as it was written, and fingerprint.
    """
    home = run.resolve()
    found = {}
    for text in sorted(set(_texts(list(options), _outputs(command)))):
        paths = [path for path in _matches(text) if not _related(path.resolve(), home)]
        if paths:
            found[text] = key_of(*([path.name, fingerprint] for path in paths for fingerprint in _fingerprints(path)))
    return found


def writes_elsewhere(options: dict[str, Any], folder: Path, command: str) -> bool:
    """Whether a stage is told to write to some place outside its own folder."""
    inside = set(_texts(options, _outputs(command)))
    written = {text for text in _texts(options, ()) if text not in inside}
    return any(not Path(text).resolve().is_relative_to(folder.resolve()) for text in written)


def without_quiet_options(words: list[str]) -> list[str]:
    """Command-line words without those that only decide about loggers and what the screen shows."""
    kept: list[str] = []
    value_follows = False
    for word in words:
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            quiet = any(name == option or name.startswith(f"{option}.") for option in _QUIET)
            value_follows = quiet and not equals
            kept += [] if quiet else [word]
        elif value_follows:
            value_follows = False
        else:
            kept.append(word)
    return kept


def fingerprint_of(path: Path) -> str:
    """Names the content of a file or folder, wherever it lies; of files beyond 64 MB, size and time."""
    return key_of(*_fingerprints(path))


def _outputs(command: str) -> tuple[str, ...]:
    return (*_OUTPUTS, "store") if command == "predict" else _OUTPUTS


def _texts(value: Any, outputs: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, dict):
        yield from chain.from_iterable(_texts(each, outputs) for name, each in value.items() if name not in outputs)
    elif isinstance(value, list):
        yield from chain.from_iterable(_texts(each, outputs) for each in value)
    elif isinstance(value, str):
        yield value
        if value.startswith("--") and "=" in value:
            yield value.partition("=")[2]


def _matches(text: str) -> list[Path]:
    """The paths that an option's text names; text that is no path names none."""
    if not text.strip() or len(text) > _LONGEST_PATH or "\n" in text or "\0" in text:
        return []
    name = os.path.expanduser(text)
    folder = folder_and_config(name)
    try:
        if folder is not None and folder[1] is not None:  # FOLDER:config
            return [Path(folder[0])]
        return [Path(name)] if os.path.exists(name) else [Path(match) for match in sorted(glob.glob(name))]
    except OSError:
        return []


def _related(path: Path, run: Path) -> bool:
    return path.is_relative_to(run) or run.is_relative_to(path)


def _fingerprints(path: Path) -> Iterator[str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        stat = file.stat()
        yield f"{file.relative_to(path)} {_fingerprint(str(file.resolve()), stat.st_size, stat.st_mtime_ns)}"


@cache
def _fingerprint(path: str, size: int, time: int) -> str:
    if size > _WHOLE:
        return f"{size} {time}"
    return file_digest(Path(path))
