"""Models and stores as W&B artifacts: what a run read and what it wrote, as references, so that nothing is uploaded."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_rlhf.cli.keys import fingerprint_of
from lit_rlhf.data.store import write_json

_OUTPUTS = ("directory", "out", "default_root_dir", "dirpath", "save_dir")
_LONGEST_NAME = 120


def job_type(name: str) -> str:
    """What W&B calls a kind of stage, by its module's name: ``ContrastiveRewardModule`` is ``contrastive-reward``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.removesuffix("Module")).lower()


def inputs(options: Mapping[str, Any]) -> list[Path]:
    """Models, stores and data files that options name and that are there, each once.

    Args:
        options: Nested options of a stage or command; what it is told to write to does not count.
    """
    found = {path: None for text in _texts(options) for path in [_artifact_path(text)] if path is not None}
    written = set(outputs(options))
    return [path for path in found if path not in written]


def outputs(options: Mapping[str, Any]) -> list[Path]:
    """Models and stores that a stage or command has written.

    Args:
        options: As for `inputs`.
    """
    export = (options.get("export") or {}).get("directory")
    named = [export, _nested(options, "model", "init_args", "store") if "return_predictions" in options else None]
    named += [f"{options['out']}/table"] if options.get("out") else []
    found = [_artifact_path(text) for text in named if text]
    return [path for path in found if path is not None and path.is_dir()]


def kind(path: Path) -> str:
    """``model``, ``store`` or ``data``: the type of an artifact."""
    return "model" if (path / "config.json").exists() else "store" if path.is_dir() else "data"


def describe(path: Path, folder: Path) -> Any:
    """The artifact of a model, store or file: a reference to where it lies, and a small file with its fingerprint.

    Its version changes with the content and not with the time: whoever reads the same bytes names the same version.

    Args:
        path: What it is of.
        folder: Where the small file may be written.
    """
    import wandb

    found = {"path": str(path), "fingerprint": fingerprint_of(path), "kind": kind(path)}
    artifact = wandb.Artifact(artifact_name(path), type=found["kind"], metadata=found)
    note = folder / "wandb" / f"{artifact_name(path)}.json"
    write_json(note, {"fingerprint": found["fingerprint"]})
    artifact.add_file(str(note), name="fingerprint.json")
    artifact.add_reference(path.resolve().as_uri(), name="place", checksum=False)
    return artifact


def artifact_name(path: Path) -> str:
    """The name of an artifact: its path, below the present folder if it lies there."""
    whole, here = path.resolve(), Path.cwd().resolve()
    parts = whole.relative_to(here).parts if whole.is_relative_to(here) else whole.parts[-3:]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts))[-_LONGEST_NAME:] or "artifact"


def _nested(options: Any, *names: str) -> Any:
    for name in names:
        options = options.get(name) if isinstance(options, Mapping) else None
    return options


def _artifact_path(text: str) -> Path | None:
    """The model, store or file that a text names."""
    if not text.strip() or len(text) > 4096 or "\n" in text or "\0" in text:
        return None
    path = Path(text).expanduser()
    try:
        if (path / "table" / "key.json").exists():
            return path / "table"
        known = path.is_file() or any((path / name).exists() for name in ("config.json", "key.json"))
    except OSError:
        return None
    return path if known else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _OUTPUTS:
                yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value
