"""Weights & Biases runs that were logged offline, read back from their files: no server, no account."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from lit_rlhf.data.errors import DataError

_HEADER = b":W&B\xe1\xbe\x00"  # four letters, a magic number, the version
_BLOCK = 32768
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass
class WandbRun:
    """What one run has logged.

    Attributes:
        id: W&B's name for the run.
        project: The project that it belongs to.
        group: Runs that belong together, such as the stages of an experiment; empty without one.
        job_type: What kind of stage it was; empty where it was not told.
        name: Shown in the project.
        config: The options that were logged.
        history: One row per logged step, one column per metric; NaN where a step did not log it.
        summary: The last value of each metric.
        used: Artifacts that the run read, as name and type.
        made: Artifacts that it wrote, likewise.
        complete: Whether the file ends as that of a finished run does.
    """

    id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    summary: dict[str, Any] = field(default_factory=dict)
    used: list[tuple[str, str]] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False


def find_wandb_runs(folder: str | Path) -> list[Path]:
    """Files of all runs below a folder, whichever stage or experiment wrote them, the oldest first."""
    return sorted(Path(folder).glob("**/wandb/*run-*/run-*.wandb"), key=lambda path: path.parent.name)


def read_wandb_run(path: str | Path) -> WandbRun:
    """Read one run: what it was, its options, and its metrics as a table.

    A run that was killed, or is still going on, gives all that its file holds whole.

    Args:
        path: The run's ``.wandb`` file, or a folder in which there is one such file.

    Raises:
        DataError: If there is no such file, there are several, or it is none of W&B's.
    """
    file = _file(Path(path))
    message: Any = import_module("wandb.proto.wandb_internal_pb2")  # whose names are made when it is imported
    run, rows = WandbRun(), []
    artifacts: dict[str, tuple[str, str]] = {}
    for data in _records(file):
        record = message.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.id, run.project, run.name = found.run_id, found.project, found.display_name
            run.group, run.job_type = found.run_group, found.job_type
            run.config |= _values(found.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            rows.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "use_artifact":
            run.used.append((record.use_artifact.name, record.use_artifact.type))
        elif kind in ("artifact", "request"):
            made = record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            if made.use_after_commit:
                run.used.append((made.name, made.type))
            elif made.name:
                artifacts[made.name] = (made.name, made.type)
        run.complete |= kind == "exit"
    run.config = {name: value for name, value in run.config.items() if name != "_wandb"}
    run.made, run.history = list(artifacts.values()), _table(rows)
    run.summary = run.summary or _last(run.history)
    return run


def read_wandb_runs(folder: str | Path) -> list[WandbRun]:
    """All runs below a folder, the oldest first; an experiment's folder gives one per stage."""
    return [read_wandb_run(path) for path in find_wandb_runs(folder)]


def _file(path: Path) -> Path:
    found = [path] if path.is_file() else [*sorted(path.glob("*.wandb"))] or find_wandb_runs(path)
    if len(found) == 1:
        return found[0]
    hint = "Name one of them." if found else "Runs that were logged online lie on the server: look for offline-run-*."
    listed = f"{len(found)} runs are there: {', '.join(str(each.parent) for each in found[:3])}"
    raise DataError(listed if found else "there is no file of a W&B run", str(path), hint)


def _values(items: Any) -> dict[str, Any]:
    """Names and values of logged items; a nested name is joined by slashes."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    plain = [{name: value for name, value in row.items() if not isinstance(value, dict | list)} for row in rows]
    table = pd.DataFrame(plain)
    return table.rename(columns={"_step": "step", "_timestamp": "timestamp", "_runtime": "runtime"})


def _last(history: pd.DataFrame) -> dict[str, Any]:
    return {str(name): column.dropna().iloc[-1] for name, column in history.items() if column.notna().any()}


def _records(path: Path) -> Iterator[bytes]:
    """The records of a file: LevelDB's log format, blocks of 32 KiB in which a record may be cut into pieces.

    Raises:
        DataError: If it is no such file, or is damaged in its middle.
    """
    content = path.read_bytes()
    if not content.startswith(_HEADER[:6]):
        raise DataError("does not begin as a file of a W&B run does", str(path), "Name a run-*.wandb file.")
    place, pieces = len(_HEADER), b""
    while place + 7 <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < 7:  # no room for a head: the rest of the block is empty
            place += left
            continue
        checksum = int.from_bytes(content[place : place + 4], "little")
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind, data = content[place + 6], content[place + 7 : place + 7 + length]
        place += 7 + length
        if len(data) < length:
            return  # cut short when the run was killed
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
            raise DataError(f"damaged at byte {place - 7 - length:,}", str(path), "Copy it again.")
        pieces = data if kind in (_FULL, _FIRST) else pieces + data
        if kind in (_FULL, _LAST):
            yield pieces
