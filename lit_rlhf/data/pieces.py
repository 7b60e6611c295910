"""Pieces of files: where some hundred rows of a shard lie, so that each can be read by itself."""

import math
import os
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice, pairwise
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.opening import Kind
from lit_rlhf.data.records import Record, Source
from lit_rlhf.data.rows import Start, find_files, read_from, read_rows, seekable_kind

_LONGEST_LINE = 2**28  # bytes; a longer one is refused when its piece is read


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one file.

    Attributes:
        source: Index of the source that the file belongs to.
        file: Its path.
        start: Where its first row is.
        rows: How many it has.
        taken: How many of them are used: all, or a part of them that is drawn by the source's weight.
    """

    source: int
    file: str
    start: Start
    rows: int
    taken: int


class Pool:
    """The pieces of all files of some sources, found without parsing a row, each as often as its source's weight says.

    Files of lines are read through once for the places where lines begin, Parquet files tell from their metadata.

    Args:
        sources: All of them `PairFiles`, of files that can be read from the middle.
        size: Most rows of a piece. A row group of a Parquet file that holds more is read again for every piece in it.
        seed: Of the choice among the rows of a source with a weight.

    Raises:
        DataError: If a source or a file cannot be read in pieces, or a file is damaged as a whole.
    """

    def __init__(self, sources: Sequence[Source], size: int, seed: int = 0) -> None:
        self.sources = list(map(_streamable, sources))
        self.seed = seed
        self.pieces: list[Piece] = []
        self.digests: dict[str, str] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        for index, source in enumerate(self.sources):
            self.pieces += _weighted(list(self._cut(index, source, size)), source.weight)
        self.rows = sum(piece.taken for piece in self.pieces)

    def records(self, piece: Piece) -> Iterator[Record]:
        """Yield the records of a piece.

        Raises:
            DataError: If the file has changed since it was looked through, or a row is bad and its source does not
                skip such rows.
        """
        if _stamp(piece.file) != self._stamps[piece.file]:
            raise DataError("was changed while it was in use", piece.file, "Start again, and leave the file alone.")
        rows = islice(read_from(piece.file, piece.start), piece.rows)
        if piece.taken < piece.rows:
            chance = random.Random(f"{self.seed} {self.sources[piece.source].name} {piece.start}")
            chosen = set(chance.sample(range(piece.rows), piece.taken))
            rows = (row for number, row in enumerate(rows) if number in chosen)
        return self.sources[piece.source].part_records(piece.file, rows)

    @property
    def bad_rows(self) -> int:
        """Rows that could not be read and were skipped so far, in this process."""
        return sum(source.bad_rows for source in self.sources)

    @property
    def files(self) -> list[str]:
        """Name and content of every file: ``name digest``."""
        return [f"{os.path.basename(file)} {digest}" for file, digest in self.digests.items()]

    @property
    def fingerprint(self) -> str:
        """Names the files' contents and all options of their sources that decide over the records."""
        ignored = ("path", "bad_rows", "on_bad_row", "reports")
        options = [
            {name: value for name, value in vars(source).items() if name[0] != "_" and name not in ignored}
            for source in self.sources
        ]
        return sha256(f"{self.files} {options}".encode()).hexdigest()[:16]

    def _cut(self, index: int, source: PairFiles, size: int) -> Iterator[Piece]:
        left = math.inf if source.limit is None else source.limit
        for file in find_files(source.path):
            kind = _kind(file)
            self._stamps[file] = _stamp(file)
            next(read_rows(file))  # refuses what is damaged or empty
            find_starts = _parquet_starts if kind == "Parquet" else _line_starts
            starts, self.digests[file] = find_starts(file, size)
            for (start, begin), (_, end) in pairwise(starts):
                rows = int(min(end - begin, left))
                if rows > 0:
                    yield Piece(index, file, start, rows, rows)
                left -= rows


def _streamable(source: Source) -> PairFiles:
    if not isinstance(source, PairFiles) or source.split is not None:
        hint = "Stream sources of PairFiles alone, each without `split`, or leave out data.streaming."
        raise DataError(f"a source of {type(source).__name__} cannot be read in parts", f"source {source.name}", hint)
    return source


def _weighted(pieces: list[Piece], weight: float) -> Iterator[Piece]:
    """Every piece as often as the weight says; of what is left of the weight, a part of its rows."""
    whole, part = divmod(weight, 1.0)
    seen = 0
    for piece in pieces:
        yield from [piece] * int(whole)
        taken = math.floor((seen + piece.rows) * part) - math.floor(seen * part)
        if taken:
            yield replace(piece, taken=taken)
        seen += piece.rows


def _stamp(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file) from None
    return found.st_size, found.st_mtime_ns


def _kind(file: str) -> Kind:
    kind = seekable_kind(file)
    if kind is None:
        hint = "Stream JSON files with a row per line, or Parquet files, unpacked, by their names or a pattern"
        hint += " such as 'FOLDER/*.parquet'; write the data anew, or leave out data.streaming."
        raise DataError("cannot be read from the middle", file, hint)
    return kind


def _line_starts(file: str, size: int) -> tuple[list[tuple[Start, int]], str]:
    """Where pieces of at most ``size`` rows begin, with the rows before each; last, the end; and the file's digest."""
    starts: list[tuple[Start, int]] = []
    rows = place = checksum = number = 0
    with open(file, "rb") as stream:
        for number, line in enumerate(iter(partial(stream.readline, _LONGEST_LINE), b""), 1):
            if (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip():
                if rows % size == 0:
                    starts.append((Start(number, place), rows))
                rows += 1
            place += len(line)
            checksum = zlib.crc32(line, checksum)
    return [*starts, (Start(number + 1, place), rows)], f"{place} {checksum:08x}"


def _parquet_starts(file: str, size: int) -> tuple[list[tuple[Start, int]], str]:
    """The same. The metadata holds place, length and usually extremes of every column's part: any change shows."""
    import pyarrow.parquet

    metadata: Any = pyarrow.parquet.read_metadata(file)
    starts: list[tuple[Start, int]] = []
    before = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        starts += [(Start(before + skip + 1, group, skip), before + skip) for skip in range(0, rows, size)]
        before += rows
    with open(file, "rb") as stream:
        stream.seek(-8 - metadata.serialized_size, os.SEEK_END)
        digest = sha256(stream.read()).hexdigest()[:16]
    return [*starts, (Start(before + 1, metadata.num_row_groups), before)], f"{os.path.getsize(file)} {digest}"
