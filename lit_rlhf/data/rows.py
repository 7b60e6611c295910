"""Raw rows, each with the place it came from: JSON Lines, JSON, Parquet, `datasets` folders and the Hub.

A row that cannot be read comes as its `DataError` in the row's place, so that the caller decides whether to
stop or to skip it. What is wrong with a whole file (missing, cut off, not of its kind) is raised at once.
"""

import difflib
import glob
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lit_rlhf.data import hub
from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.fields import describe

RawRow = tuple[str, "dict[str, Any] | DataError"]
"""Location (``file:line``) and the row, or what kept it from being read."""

_KINDS = ".jsonl, .ndjson, .json (each also with .gz) and .parquet"
_SUFFIX = re.compile(r"\.(jsonl|ndjson|json)(\.gz)?$|\.parquet$", re.IGNORECASE)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
_EXCERPT = 20
_LONGEST_ROW = 2**28  # bytes; a bomb in a gzip file is refused before it fills the memory
_OF_A_MODEL = ("config", "tokenizer", "vocab", "adapter_config", "sentencepiece")
_MAGIC = {b"\x1f\x8b": (".gz", "gzip"), b"PAR1": (".parquet", "Parquet")}


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
    """Yield the rows of one file, one `datasets` folder or one Hub data set, in order.

    Args:
        path: A file (.jsonl, .ndjson, .json, each also gzipped; .parquet), a folder written by
            ``Dataset.save_to_disk``, or a Hub id ``owner/name`` or ``owner/name:config``.
        split: Which split of a `datasets` folder or Hub data set; files have none.

    Raises:
        DataError: If the file is missing, of an unknown kind, damaged as a whole, or holds no row.
    """
    if is_hub_id(path):
        rows = hub.hub_rows(path, split)
    elif os.path.isdir(path):
        rows = hub.folder_rows(path, split)
    elif split is not None:
        raise DataError(f"a file has no splits, but split '{split}' was asked for", path, "Leave out `split`.")
    else:
        rows = _file_rows(path)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError("empty: it holds no row", path, "Was it written to its end? Name a file with rows.")


def read_from(path: str, start: Start) -> Iterator[RawRow]:
    """Yield the rows of a file (.jsonl, .ndjson, .json with a row per line; .parquet) from one of its rows on.

    Raises:
        DataError: As `read_rows` does.
    """
    return _file_rows(path, start)


def find_files(path: str | list[str]) -> list[str]:
    """Turn paths, glob patterns and Hub ids into a list that `read_rows` takes one by one.

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
        if os.path.exists(name) or is_hub_id(name):
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


def _file_rows(path: str, start: Start | None = None) -> Iterator[RawRow]:
    if not os.path.exists(path):
        _not_found(path)
    if not _SUFFIX.search(path):
        hint = f"Write it anew: pandas.read_…(…).to_json('{Path(path).stem}.jsonl', orient='records', lines=True)."
        raise DataError(f"unknown file type '{Path(path).suffix}'; readable are {_KINDS}", path, hint)
    try:
        if path.lower().endswith(".parquet"):
            yield from _parquet_rows(path, start)
        else:
            yield from _json_rows(path, start or Start(1, 0))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"damaged gzip file: {error}", path, "Copy or download it again.") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path, "May you read it?") from error


def _json_rows(path: str, start: Start) -> Iterator[RawRow]:
    gzipped = path.lower().endswith(".gz")
    with gzip.open(path, "rb") if gzipped else open(path, "rb") as stream:
        head = stream.peek(4)[:4]
        for magic, (suffix, kind) in _MAGIC.items():
            if head.startswith(magic):
                raise DataError(f"this is a {kind} file, not JSON", path, f"Let its name end in {suffix}.")
        if start.place:  # what cannot be sought in, such as a pipe, can still be read from its beginning
            stream.seek(start.place)
        for number, line in enumerate(iter(partial(stream.readline, _LONGEST_ROW), b""), start.number):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if number == 1 and line.lstrip().startswith(b"[") and re.search(r"\.json(\.gz)?$", path.lower()):
                yield from _array_rows(path, line + stream.read())
                return
            if len(line) == _LONGEST_ROW:
                raise DataError(f"a row of {_LONGEST_ROW >> 20} MiB or more", f"{path}:{number}", "Is this JSON Lines?")
            if line.strip():
                yield f"{path}:{number}", _row(line)


def _array_rows(path: str, text: bytes) -> Iterator[RawRow]:
    try:
        items = _parse(text)
    except DataError as error:
        raise DataError(str(error), path, "Mend it there, or write it anew with one row per line.") from error
    for number, item in enumerate(items, 1):
        yield f"{path}:item {number}", _object(item)


def _row(line: bytes) -> dict[str, Any] | DataError:
    try:
        return _object(_parse(line.rstrip(b"\r\n")))
    except DataError as error:
        cut = "" if line.endswith(b"\n") else "The last line is not complete: the file may have been cut off."
        return DataError(str(error), hint=cut)


def _object(value: Any) -> dict[str, Any] | DataError:
    if isinstance(value, dict):
        return value
    hint = "A JSON list of rows is read from a file whose name ends in .json." if isinstance(value, list) else ""
    return DataError(f"expected one JSON object per row, found {describe(value)}", hint=hint)


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte 0x{text[error.start]:02x} at position {error.start + 1}"
        raise DataError(message, hint="Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        found = error.doc[error.pos : error.pos + _EXCERPT].strip()
        found = f"where it says {found!r}" if found else "where it ends"
        raise DataError(f"broken JSON at character {error.pos + 1}, {found}: {_lower(error.msg)}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise DataError(f"unreadable JSON: {error}") from error


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it gives a field twice: others might read the one where we read the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise DataError(f"field '{excerpt(twice)}' is given more than once")
    return found


def _no_constant(name: str) -> NoReturn:
    raise DataError(f"{name} is no JSON number; write null, or leave the row out")


def _parquet_rows(path: str, start: Start | None = None) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    number, skip = (start.number - 1, start.skip) if start else (0, 0)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, row_groups=[start.place] if start else None):
                rows = batch.slice(skip)
                skip -= batch.num_rows - rows.num_rows
                for row in rows.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        message = f"not a readable Parquet file (after row {number}): {reason}"
        raise DataError(message, path, "Copy or download it again.") from error
