"""Keyed Parquet stores: tables that know what they were made from and refuse to serve anything else."""

import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_rlhf.data.errors import DataError

Key = dict[str, str | int | float]

_RUN = "run the writing stage again; in an experiment, delete its done.json too."
_AGAIN = f"Delete this part and finished.json, and {_RUN}"
_ANEW = f"Delete the folder of the store, and {_RUN}"


class Store:
    """A folder of Parquet parts with the key of what they were made from.

    Parts are written one by one, each whole or not at all, so that an interrupted writer goes on where it
    stopped; readers see a store only once it is finished. Several processes may write, each parts of its own, into a
    folder that all of them see; one of them begins and finishes.

    Args:
        directory: The folder.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    # ------------------------------------------------------------------ writing

    def begin(self, key: Key, first: bool = True) -> None:
        """Start writing, or go on with what an earlier writer of the same key left.

        Args:
            key: What the store is made from.
            first: Whether this process writes the key down, if it is not there; of several, one does.

        Raises:
            DataError: If the folder holds a store with another key.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if (self.directory / "key.json").exists():
            self.check(key)
        elif first:
            write_json(self.directory / "key.json", key)

    def has_part(self, number: int) -> bool:
        """Whether this part was written already."""
        return self._part(number).exists()

    def write_part(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Write one part, atomically."""
        partial = self._part(number).with_suffix(".partial")
        with naming(partial):
            pq.write_table(pa.Table.from_pylist(rows), partial)
        partial.rename(self._part(number))

    def finish(self, parts: int) -> int:
        """Declare the store finished with this many parts; returns its number of rows."""
        missing = [number for number in range(parts) if not self.has_part(number)]
        if missing:
            raise DataError(f"parts {missing[:5]} are missing", str(self.directory), "Run the writing stage again.")
        rows = sum(pq.read_metadata(self._part(number)).num_rows for number in range(parts))
        files = [self.directory / "key.json", *map(self._part, range(parts))]
        digests = {path.name: file_digest(path) for path in files}
        write_json(self.directory / "finished.json", {"parts": parts, "rows": rows, "sha256": digests})
        return rows

    # ------------------------------------------------------------------ reading

    @property
    def key(self) -> Key:
        """What the store was made from.

        Raises:
            DataError: If that cannot be read, or is not what it was when the store was finished.
        """
        if self.is_finished:
            self._check_digest(self.directory / "key.json")
        key = self._read_json("key.json")
        if not isinstance(key, dict):
            raise DataError("damaged: expected an object", str(self.directory / "key.json"), _ANEW)
        return key

    @property
    def is_finished(self) -> bool:
        """Whether its writer came to the end."""
        return (self.directory / "finished.json").exists()

    def check(self, expected: Key) -> None:
        """Refuse the store unless every expected field of its key is as expected.

        Raises:
            DataError: Names each field that differs, with both values.
        """
        key = self.key
        different = [
            f"{field}: the store has {key.get(field, 'nothing')!r}, this run {value!r}"
            for field, value in expected.items()
            if key.get(field) != value
        ]
        if different:
            hint = "Write one for this run (lit-rlhf predict, or strength), or name the store that belongs to it."
            raise DataError("the store does not match: " + "; ".join(different), str(self.directory), hint)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of a finished store.

        Raises:
            DataError: If there is no store, or it is unfinished or damaged.
        """
        if not self.is_finished:
            what = "the store is not finished" if self.directory.exists() else "there is no store"
            hint = "Run the writing stage (lit-rlhf predict, or strength) to its end."
            raise DataError(what, str(self.directory), hint)
        finished = self._finished()
        rows: list[dict[str, Any]] = []
        for number in range(finished["parts"]):
            rows += self.read_part(number)
        if len(rows) != finished["rows"]:
            raise DataError(f"has {len(rows)} rows, {finished['rows']} were written", str(self.directory), _ANEW)
        return rows

    def read_part(self, number: int) -> list[dict[str, Any]]:
        """The rows of one part.

        Raises:
            DataError: If it is missing or damaged.
        """
        path = self._part(number)
        if self.is_finished and path.exists():
            self._check_digest(path)
        try:
            with pq.ParquetFile(path) as file:
                return file.read().to_pylist()
        except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
            raise DataError(f"cannot be read: {error}", str(path), _AGAIN) from None

    # ------------------------------------------------------------------ inside

    def _part(self, number: int) -> Path:
        return self.directory / f"part-{number:05d}.parquet"

    def _finished(self) -> dict[str, Any]:
        """The numbers of parts and rows, and the files' digests, which stores of earlier versions lack."""
        found, where = self._read_json("finished.json"), str(self.directory / "finished.json")
        kinds = {name: type(value) for name, value in found.items()} if isinstance(found, dict) else {}
        if kinds not in ({"parts": int, "rows": int}, {"parts": int, "rows": int, "sha256": dict}):
            raise DataError("damaged: expected numbers of parts and rows, and sha256", where, _ANEW)
        return found

    def _check_digest(self, path: Path) -> None:
        expected = self._finished().get("sha256")
        if expected is not None and expected.get(path.name) != file_digest(path):
            hint = _ANEW if path.suffix == ".json" else _AGAIN
            raise DataError("damaged: these are not the bytes that were written", str(path), hint)

    def _read_json(self, name: str) -> Any:
        path = self.directory / name
        try:
            return json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot be read: {error}", str(path), "Is this the folder of a store?") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Generator[None]:
    """Let an error of the disk name the file that is being written, which not every library does."""
    try:
        yield
    except Exception as error:
        plain = isinstance(error, OSError) and error.errno is None  # whose words a name would replace
        if getattr(error, "filename", None) is None and not plain:
            with suppress(AttributeError):  # it takes none
                error.filename = str(path)  # type: ignore[attr-defined]
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    partial.rename(path)
