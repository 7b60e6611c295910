"""A stream of millions of pairs: memory and time per row at its beginning and at its end. Needs Linux.

Shards are generated in a temporary folder: rows of the synthetic world, each with a number of its own in the prompt.
Every measurement is made in a fresh process with one thread; memory is the peak of what the process holds, over what
it held before the files were opened, and time is CPU time.

python -m benchmarks.growth_stream --rows 10000000              reads every row; tokenises 100,000 at either end
python -m benchmarks.growth_stream --rows 1000000 --whole       tokenises every row
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow
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
    texts = [(record.prompt[-1].content, record.chosen, record.rejected) for record in WorldPairs(500).records()]
    numbered = enumerate(cycle(texts))
    for shard in range(shards):
        size = rows * (shard + 1) // shards - rows * shard // shards
        mine = ((f"{number}: {prompt}", chosen, rejected) for number, (prompt, chosen, rejected) in numbered)
        path = folder / f"{shard:04d}.{kind}"
        (_write_lines if kind == "jsonl" else _write_groups)(path, islice(mine, size), group)
    return str(folder / f"*.{kind}")


_NAMES = ("prompt", "chosen", "rejected")


def _write_lines(path: Path, rows: Iterable[tuple[str, ...]], group: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(zip(_NAMES, row, strict=True))) + "\n" for row in rows)


def _write_groups(path: Path, rows: Iterator[tuple[str, ...]], group: int) -> None:
    schema = pyarrow.schema([(name, pyarrow.string()) for name in _NAMES])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, group)):
            writer.write_table(pyarrow.table(dict(zip(_NAMES, zip(*some, strict=True), strict=True)), schema))


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


def read_all(pattern: str, kind: Kind, tenths: int = 10) -> list[Part]:
    """Open the files and go through an epoch of their rows, which are not tokenised."""
    parts = Parts(kind)
    pool = Streaming().open([PairFiles(pattern)], 0)
    parts.end("opened", 0.0, pool.rows)
    stream = Stream(pool, _as_they_are, BATCH)
    for tenth in range(tenths):
        names = range(stream.batches * tenth // tenths, stream.batches * (tenth + 1) // tenths)
        rows = sum(len(stream.batch((0, number))) for number in names)
        parts.end("read", tenth / tenths, rows)
    return parts.found


def _as_they_are(records: Iterable[Record], counts: Counts) -> list[Row]:
    return [Row(record, [], [0] * len(record.chosen or ""), []) for record in records]


def tokenise(pattern: str, kind: Kind, model: str, rows: int, whole: bool) -> list[Part]:
    """Serve batches of tokenised rows: so many from the beginning and up to the end, or all of them by tenths."""
    parts = Parts(kind)
    data = PreferenceDataModule(pattern, tokenizer=model, val_fraction=0.0, batch_size=BATCH, streaming=Streaming())
    data.load("pairs")
    loader: Any = data.train_dataloader()
    sampler = loader.batch_sampler
    parts.end("opened", 0.0, 0)
    batches = len(sampler)
    some = batches // 10 if whole else rows // BATCH
    for begin in range(0, 10 * some, some) if whole else (0, batches - some):
        sampler.load_state_dict({"epoch": 0, "given": begin})  # as a run that is resumed there
        served = sum(len(batch) for batch in islice(iter(loader), some))
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
    parser.add_argument("--tokenised", type=int, default=100_000, help="rows that are tokenised at either end")
    parser.add_argument("--whole", action="store_true", help="tokenise every row")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/stream"))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    options.out.mkdir(parents=True, exist_ok=True)
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as name:
        model = str(write_base_model(Path(name) / "200k", "200k"))
        for kind in options.kinds:
            pattern = write_shards(Path(name) / kind, options.rows, options.shards, kind, options.group)
            parts += alone(read_all, pattern, kind)
            parts += alone(tokenise, pattern, kind, model, options.tokenised, options.whole)
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
