"""Keyed Parquet stores: tables that know what they were made from and refuse to serve anything else."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_rlhf.data.errors import DataError

Key = dict[str, str | int | float]


class Store:
    """A folder of Parquet parts with the key of what they were made from.

    Parts are written one by one, each whole or not at all, so that an interrupted writer goes on where it
    stopped; readers see a store only once it is finished.

    Args:
        directory: The folder.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    # ------------------------------------------------------------------ writing

    def begin(self, key: Key) -> None:
        """Start writing, or go on with what an earlier writer of the same key left.

        Raises:
            DataError: If the folder holds a store with another key.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if (self.directory / "key.json").exists():
            self.check(key)
        else:
            write_json(self.directory / "key.json", key)

    def has_part(self, number: int) -> bool:
        """Whether this part was written already."""
        return self._part(number).exists()

    def write_part(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Write one part, atomically."""
        partial = self._part(number).with_suffix(".partial")
        pq.write_table(pa.Table.from_pylist(rows), partial)
        partial.rename(self._part(number))

    def finish(self, parts: int) -> int:
        """Declare the store finished with this many parts; returns its number of rows."""
        missing = [number for number in range(parts) if not self.has_part(number)]
        if missing:
            raise DataError(f"parts {missing[:5]} are missing", str(self.directory), "Run the writing stage again.")
        rows = sum(pq.read_metadata(self._part(number)).num_rows for number in range(parts))
        write_json(self.directory / "finished.json", {"parts": parts, "rows": rows})
        return rows

    # ------------------------------------------------------------------ reading

    @property
    def key(self) -> Key:
        """What the store was made from."""
        return self._read_json("key.json")

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
            hint = "Write a store for this run (lit-rlhf predict), or name the store that belongs to it."
            raise DataError("the store does not match: " + "; ".join(different), str(self.directory), hint)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of a finished store.

        Raises:
            DataError: If there is no store, or it is unfinished or damaged.
        """
        if not self.is_finished:
            what = "the store is not finished" if self.directory.exists() else "there is no store"
            raise DataError(what, str(self.directory), "Run the writing stage (lit-rlhf predict) to its end.")
        finished = self._read_json("finished.json")
        rows: list[dict[str, Any]] = []
        for number in range(finished["parts"]):
            rows += self.read_part(number)
        if len(rows) != finished["rows"]:
            raise DataError(f"has {len(rows)} rows, {finished['rows']} were written", str(self.directory))
        return rows

    def read_part(self, number: int) -> list[dict[str, Any]]:
        """The rows of one part.

        Raises:
            DataError: If it is missing or damaged.
        """
        try:
            return pq.read_table(self._part(number)).to_pylist()
        except (OSError, pa.ArrowException) as error:
            hint = "Delete this part and finished.json, and run the writing stage again."
            raise DataError(f"cannot be read: {error}", str(self._part(number)), hint) from None

    # ------------------------------------------------------------------ inside

    def _part(self, number: int) -> Path:
        return self.directory / f"part-{number:05d}.parquet"

    def _read_json(self, name: str) -> Any:
        path = self.directory / name
        try:
            return json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", str(path), "Is this the folder of a store?") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    partial.rename(path)
