"""Rows of Parquet and Arrow files, batch by batch."""

from collections.abc import Iterator
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.opening import AGAIN

_BATCH = 1024  # rows


def parquet_rows(
    path: str, first: int = 1, group: int | None = None, skip: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of a Parquet file.

    Args:
        path: The file.
        first: Number of the first row that is read.
        group: The only row group that is read; by default all are.
        skip: Rows of it that are left out in front.

    Raises:
        DataError: If it is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    number = first - 1
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH, row_groups=None if group is None else [group]):
                rows = batch.slice(skip)
                skip -= batch.num_rows - rows.num_rows
                for row in rows.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _damaged("Parquet", number, path, error) from error


def arrow_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of an Arrow file, in the file format (Feather, too) or the one for streams.

    Raises:
        DataError: If it is damaged.
    """
    import pyarrow
    import pyarrow.ipc

    number = 0
    try:
        with pyarrow.OSFile(path) as stream:
            for batch in _batches(pyarrow.ipc, stream):
                batch.validate(full=True)  # texts that lie outside of a damaged table would end the process
                for begin in range(0, batch.num_rows, _BATCH):
                    for row in batch.slice(begin, _BATCH).to_pylist():
                        number += 1
                        yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _damaged("Arrow", number, path, error) from error


def _batches(ipc: Any, stream: Any) -> Iterator[Any]:
    in_stream_format = stream.read(6) != b"ARROW1"
    stream.seek(0)
    if in_stream_format:
        yield from ipc.open_stream(stream)
        return
    file = ipc.open_file(stream)
    yield from map(file.get_batch, range(file.num_record_batches))


def _damaged(kind: str, number: int, path: str, error: Exception) -> DataError:
    reason = (str(error).splitlines() or ["no reason given"])[0]
    return DataError(f"not a readable {kind} file (after row {number}): {reason}", path, AGAIN)
