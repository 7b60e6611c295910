"""A stream of millions of pairs: memory and time per row at its beginning and at its end. Needs Linux.

Shards are generated in a temporary folder: rows of the synthetic world, each with a number of its own in the prompt.
Every measurement is made in a fresh process with one thread; memory is the peak of what the process holds, over what
it held before the files were opened, and time is CPU time.

python -m benchmarks.growth_stream --rows 10000000              rows at either end: read, and read and tokenised
python -m benchmarks.growth_stream --rows 1000000 --whole       every row
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet
import torch

from benchmarks.common import STATUS, held
from lit_rlhf.cli.stage import quieten
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.preparation import Counts, Row
from lit_rlhf.data.records import Record
from lit_rlhf.data.store import write_json
from lit_rlhf.data.streaming import Stream, Streaming
from lit_rlhf.world import WorldPairs, write_base_model

Kind = Literal["jsonl", "parquet"]
BATCH = 32
TEXTS = WorldPairs(500)
_NAMES = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Part:
    """A stretch of a stream.

    Attributes:
        kind: Of the files.
        work: What was done with the rows: ``opened``, ``read`` or ``tokenised``.
        begin: Share of the epoch that lies before it.
        rows: How many it has.
        seconds: CPU seconds.
        mib: Peak of what was held, over what was held before the files were opened.
    """

    kind: str
    work: str
    begin: float
    rows: int
    seconds: float
    mib: float


def write_shards(folder: Path, rows: int, shards: int, kind: Kind, group: int) -> str:
    """Write files of pairs, and return the pattern that names them."""
    folder.mkdir(parents=True)
    write = {"jsonl": _write_lines, "parquet": _write_groups}[kind]
    texts = [(record.prompt[-1].content, record.chosen or "", record.rejected or "") for record in TEXTS.records()]
    for shard in range(shards):
        first, end = (rows * number // shards for number in (shard, shard + 1))
        write(folder / f"{shard:04d}.{kind}", texts, range(first, end), group)
    return str(folder / f"*.{kind}")


def _write_lines(path: Path, texts: list[tuple[str, ...]], numbers: range, group: int) -> None:
    rows = [json.dumps(dict(zip(_NAMES, (f": {text[0]}", *text[1:]), strict=True))) for text in texts]
    ends = [row.removeprefix('{"prompt": "') for row in rows]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f'{{"prompt": "{number}{ends[number % len(ends)]}\n' for number in numbers)


def _write_groups(path: Path, texts: list[tuple[str, ...]], numbers: range, group: int) -> None:
    table = pyarrow.table(dict(zip(_NAMES, zip(*texts, strict=True), strict=True)))
    with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
        for first in range(numbers.start, numbers.stop, group):
            some = np.arange(first, min(first + group, numbers.stop))
            rows = table.take(some % len(texts))
            prompts = pc.binary_join_element_wise(pyarrow.array(some).cast("string"), rows["prompt"], ": ")  # type: ignore[attr-defined]
            writer.write_table(rows.set_column(0, "prompt", prompts).combine_chunks())


# ------------------------------------------------------------------ measuring


class Parts:
    """Measures stretches of one process's work, one behind the other.

    Args:
        kind: Of the files.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind, self.found = kind, []
        self._before = held()
        self._again()

    def end(self, work: str, begin: float, rows: int) -> None:
        """A stretch ends, the next one begins."""
        seconds = time.process_time() - self._start
        self.found.append(Part(self.kind, work, begin, rows, seconds, (held("VmHWM") - self._before) / 2**20))
        self._again()

    def _again(self) -> None:
        Path(STATUS.parent / "clear_refs").write_text("5", "ascii")
        self._start = time.process_time()


def read(pattern: str, kind: Kind, rows: int | None) -> list[Part]:
    """Open the files and read rows without tokenising them: so many at either end, or all of them by tenths."""
    parts = Parts(kind)
    pool = Streaming().open([PairFiles(pattern)], 0)
    parts.end("opened", 0.0, pool.rows)
    stream = Stream(pool, _as_they_are, BATCH)
    for begin, end in _stretches(stream.batches, rows):
        found = sum(len(stream.batch((0, number))) for number in range(begin, end))
        parts.end("read", begin / stream.batches, found)
    return parts.found


def _stretches(batches: int, rows: int | None) -> list[tuple[int, int]]:
    if rows is None:
        return [(batches * tenth // 10, batches * (tenth + 1) // 10) for tenth in range(10)]
    some = min(rows // BATCH, batches)
    return [(0, some), (batches - some, batches)]


def _as_they_are(records: Iterable[Record], counts: Counts) -> list[Row]:
    return [Row(record, [], [0] * len(record.chosen or ""), []) for record in records]


def tokenise(pattern: str, kind: Kind, rows: int | None, model: str) -> list[Part]:
    """Serve batches of tokenised rows from a loader: so many at either end, or all of them by tenths."""
    parts = Parts(kind)
    data = PreferenceDataModule(pattern, tokenizer=model, val_fraction=0.0, batch_size=BATCH, streaming=Streaming())
    data.load("pairs")
    loader: Any = data.train_dataloader()
    sampler = loader.batch_sampler
    batches = len(sampler)
    parts.end("opened", 0.0, batches * BATCH)
    for begin, end in _stretches(batches, rows):
        sampler.load_state_dict({"epoch": 0, "given": begin})  # as a run that is resumed there
        served = sum(len(batch) for batch in islice(iter(loader), end - begin))
        parts.end("tokenised", begin / batches, served)
    return parts.found


def alone(function: Any, *arguments: Any) -> list[Part]:
    """Call a function in a process of its own, forked from one that has imported what is needed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.growth_stream"])
    with ProcessPoolExecutor(1, context, initializer=_quiet) as pool:
        return pool.submit(function, *arguments).result()


def _quiet() -> None:
    torch.set_num_threads(1)
    quieten()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)


def table(parts: list[Part]) -> str:
    """The stretches as Markdown."""
    lines = ["| files | work | from | rows | CPU µs per row | peak MiB |", "|---|---|---|---|---|---|"]
    for part in parts:
        each = f"{1e6 * part.seconds / part.rows:.1f}" if part.rows else f"{part.seconds:.1f} s"
        lines.append(f"| {part.kind} | {part.work} | {part.begin:.0%} | {part.rows:,} | {each} | {part.mib:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Generate the shards and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--kinds", nargs="*", choices=("jsonl", "parquet"), default=["jsonl", "parquet"])
    parser.add_argument("--group", type=int, default=10_000, help="rows per row group of a Parquet file")
    parser.add_argument("--read", type=int, default=200_000, help="rows that are read at either end")
    parser.add_argument("--tokenised", type=int, default=50_000, help="rows that are tokenised at either end")
    parser.add_argument("--whole", action="store_true", help="all rows instead")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/stream"))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    options.out.mkdir(parents=True, exist_ok=True)
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as name:
        model = str(write_base_model(Path(name) / "200k", "200k"))
        for kind in options.kinds:
            pattern = write_shards(Path(name) / kind, options.rows, options.shards, kind, options.group)
            parts += alone(read, pattern, kind, None if options.whole else options.read)
            parts += alone(tokenise, pattern, kind, None if options.whole else options.tokenised, model)
            print(table(parts), flush=True)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": date.today().isoformat(),
        **{name: value for name, value in vars(options).items() if name != "out"},
        "parts": [asdict(part) for part in parts],
    }
    write_json(options.out / "stream.json", result)
    (options.out / "table.md").write_text(table(parts) + "\n", "utf-8")


if __name__ == "__main__":
    main()
