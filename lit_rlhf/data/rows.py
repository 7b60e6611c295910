"""Raw rows, each with the place it came from: of files of many kinds, folders of them, `datasets` folders, the Hub.

A row that cannot be read comes as its `DataError` in the row's place, so that the caller decides whether to
stop or to skip it. What is wrong with a whole file (missing, cut off, not of its kind) is raised at once.
"""

import difflib
import glob
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn

from lit_rlhf.data import hub
from lit_rlhf.data.arrow_rows import arrow_rows, parquet_rows
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import listed
from lit_rlhf.data.folder_rows import data_files, folder_and_config, is_saved
from lit_rlhf.data.json_rows import RawRow, json_rows, keeps_to_lines, line_rows, no_splits, parse_row
from lit_rlhf.data.opening import Kind, kind, opened
from lit_rlhf.data.table_rows import table_rows

__all__ = [
    "RawRow",
    "Start",
    "check_folder",
    "find_files",
    "is_hub_id",
    "near_names",
    "read_from",
    "read_rows",
    "seekable_kind",
    "source_name",
]

_SUFFIX = re.compile(
    r"\.(jsonl|ndjson|jsonlines|json|csv|tsv|tab|txt)(\.(gz|gzip|bz2|xz|lzma|zst|zstd|lz4|zip))?$"
    r"|\.(parquet|arrow|feather|gz|bz2|xz|zst|zip)$",
    re.IGNORECASE,
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
_LONGEST_ROW = 2**28  # bytes; a bomb in a compressed file is refused before it fills the memory
_OF_A_MODEL = ("config", "tokenizer", "vocab", "adapter_config", "sentencepiece")

_row = parse_row  # what the fuzzing of single rows calls


class Start(NamedTuple):
    """Where reading begins in the middle of a file.

    Attributes:
        number: Number of the row there, from 1 (of the line, in a file of lines).
        place: Byte at which the line begins; in a Parquet file, the only row group that is read.
        skip: Rows of the row group before it.
    """

    number: int
    place: int
    skip: int = 0


def read_rows(path: str, split: str | None = None) -> Iterator[RawRow]:
    """Yield the rows of one file, one folder or one Hub data set, in order.

    Args:
        path: A file (JSON in any layout, CSV, TSV, each also compressed; Parquet or Arrow); a folder of such files, or
            ``FOLDER:config`` where it has several configs; a folder written by ``save_to_disk``; or a Hub id
            ``owner/name`` or ``owner/name:config``.
        split: Which of several splits of a folder, a Hub data set, or a JSON object that holds a list for each.

    Raises:
        DataError: If it is missing, of an unknown kind, damaged as a whole, or holds no row; if it has several configs
            or splits, and none is named.
    """
    named = folder_and_config(path)
    if is_hub_id(path):
        yield from _some(hub.hub_rows(path, split), path)
    elif named is None:
        yield from _some(_file_rows(path, split), path)
    elif named[1] is None and is_saved(path):
        yield from _some(hub.folder_rows(path, split), path)
    else:
        files, aside = data_files(*named, split)
        if aside:
            _tell(f"{path}: not read are {listed(aside)}")
        for file in files:
            yield from _some(_file_rows(file), file)


def read_from(path: str, start: Start) -> Iterator[RawRow]:
    """Yield the rows of a file from one of its rows on, if it is one that `seekable_kind` names.

    Raises:
        DataError: As `read_rows` does.
    """
    with opened(path, _LONGEST_ROW) as file:
        if kind(file) == "Parquet":
            yield from parquet_rows(path, start.number, start.place, start.skip)
            return
        if start.place:  # what cannot be sought in, such as a pipe, can still be read from its beginning
            file.stream.seek(start.place)
        yield from line_rows(file, start.number)


def seekable_kind(path: str) -> Kind | None:
    """``JSON`` or ``Parquet`` if the rows of a file can be read from any of them on, as `read_from` does; else None.

    Such are JSON files with a row per line, and Parquet files, neither of them compressed.

    Raises:
        DataError: If it cannot be read.
    """
    if not os.path.isfile(path):
        return None
    with opened(path, _LONGEST_ROW) as file:
        found = kind(file)
        if file.packing or found not in ("JSON", "Parquet") or (found == "JSON" and not keeps_to_lines(file)):
            return None
        return found


def find_files(path: str | list[str]) -> list[str]:
    """Turn paths, glob patterns, folders and Hub ids into a list that `read_rows` takes one by one.

    The matches of a pattern come sorted by name, so that the order is the same on every machine.

    Raises:
        DataError: If nothing is there; the message suggests names that are close.
    """
    entries = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not entries:
        raise DataError("the list of paths is empty", "path")
    found: list[str] = []
    for entry in entries:
        name = os.path.expanduser(os.fspath(entry))
        if os.path.exists(name) or folder_and_config(name) or is_hub_id(name):
            found.append(name)
        elif matches := sorted(glob.glob(name, recursive=True)):
            found += matches
        else:
            _not_found(name)
    return found


def is_hub_id(path: str) -> bool:
    """Whether a path is meant for the Hub: ``owner/name`` that is no file, and no folder ``owner`` is here."""
    if not _HUB_ID.fullmatch(path) or _SUFFIX.search(path):
        return False
    return not os.path.exists(path) and not os.path.isdir(path.split("/")[0])


def source_name(path: str | list[str]) -> str:
    """A name for reports: the file's name without its endings; several are joined by ``+``."""
    entries = [path] if isinstance(path, str | os.PathLike) else path
    return "+".join(_SUFFIX.sub("", Path(entry).name) for entry in entries)


def check_folder(path: str) -> None:
    """Refuse the path of a model's folder that is not there, unless the Hub may have it.

    Raises:
        DataError: If there is no such folder, and the Hub cannot be asked either; the message suggests names that are
            close. If it is a file, or a folder without a model or tokenizer.
    """
    if os.path.isdir(path):
        if not any(name.startswith(_OF_A_MODEL) for name in os.listdir(path)):
            hint = "Give a Hugging Face directory."
            if any(name.endswith(".gguf") for name in os.listdir(path)):
                hint = "lit-rlhf model FILE FOLDER makes a Hugging Face directory of its GGUF file."
            raise DataError("this folder holds no model: there is no config.json in it", path, hint)
        return
    if os.path.isfile(path):
        raise DataError("is a file", path, "Give a Hugging Face directory: it has config.json and weights.")
    if is_hub_id(path) or re.fullmatch(r"[A-Za-z0-9][\w.-]*", path):
        return hub.check_model(path, near_names(path))
    raise DataError("no such folder", path or "''", near_names(path) or "Give a Hugging Face directory or a Hub id.")


def near_names(path: str) -> str:
    """A question that suggests what lies in the path's folder under a similar name; empty if nothing does."""
    folder = Path(path).parent
    try:
        near = difflib.get_close_matches(Path(path).name, os.listdir(folder), n=3, cutoff=0.5)
    except (OSError, ValueError):  # a name with a null character is a ValueError
        return ""
    return f"Did you mean {' or '.join(str(folder / name) for name in near)}?" if near else ""


def _not_found(path: str) -> NoReturn:
    folder = Path(path).parent
    try:
        readable = os.access(folder, os.R_OK | os.X_OK) and folder.is_dir()
    except ValueError:  # a name with a null character
        readable = False
    if not readable:
        raise DataError(f"not found: there is no readable folder {folder}", path)
    message = "no file matches this pattern" if glob.has_magic(path) else "not found"
    raise DataError(message, path or "''", near_names(path))


def _some(rows: Iterator[RawRow], path: str) -> Iterator[RawRow]:
    """The rows, of which there has to be one."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError("empty: it holds no row", path, "Was it written to its end? Name a file with rows.")


def _file_rows(path: str, split: str | None = None) -> Iterator[RawRow]:
    if not os.path.exists(path):
        _not_found(path)
    with opened(path, _LONGEST_ROW) as file:
        found = kind(file)
        if found == "JSON":
            yield from json_rows(file, split)
            return
        no_splits(path, split)
        if found == "table":
            yield from table_rows(file)
        else:
            yield from parquet_rows(path) if found == "Parquet" else arrow_rows(path)


@cache
def _tell(message: str) -> None:
    """Say something once."""
    from lightning.pytorch.utilities import rank_zero_info

    rank_zero_info(message)
