"""The points of `benchmarks.growth`: what is done at each, and its measurement in a fresh process."""

import ctypes
import gc
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.common import Meter, PeakBytes, Seconds
from lit_rlhf.cli.stage import quieten
from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.streaming import Streaming
from lit_rlhf.functional import bradley_terry_loss
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.world import WorldPairs, write_base_model

Size = int | str
Work = Callable[[], Any]
What = Literal["seconds", "mib"]


@dataclass(frozen=True)
class Axis:
    """What grows, and what is done with it.

    Attributes:
        title: For table and picture.
        prepare: From the folder and a size: the number on the axis, and the work to be measured.
        sizes: The usual ones.
        quick: Those of a quick run.
        full: Further ones for who has time.
        timed: Runs behind the first one, whose median is the time; 0 takes the first.
    """

    title: str
    prepare: Callable[[Path, Any], tuple[int, Work]]
    sizes: tuple[Size, ...]
    quick: tuple[Size, ...]
    full: tuple[Size, ...] = ()
    timed: int = 3


@dataclass(frozen=True)
class Point:
    """One measurement: where on which axis, in which repetition, CPU seconds and MiB."""

    axis: str
    x: int
    repetition: int
    seconds: float
    mib: float


# ------------------------------------------------------------------ the work


def serve_pairs(folder: Path, rows: int, streaming: Streaming | None = None) -> tuple[int, Work]:
    """Read a JSONL file, tokenise it and serve one epoch of batches."""
    file = folder / f"pairs-{rows}.jsonl"

    def work() -> PreferenceDataModule:
        data = PreferenceDataModule(str(file), tokenizer=str(folder / "200k"), val_fraction=0.0, streaming=streaming)
        data.load("pairs")
        for _ in data.train_dataloader():
            pass
        return data

    return rows, work


def train_on_length(folder: Path, tokens: int) -> tuple[int, Work]:
    """A training step of a reward model (200k) on two pairs of responses, each with so many tokens."""
    return tokens, _training_step(RewardNetwork(str(folder / "200k")), _random_rows(4, tokens))


def train_model_of_size(folder: Path, preset: str) -> tuple[int, Work]:
    """A training step of a reward model of a size on eight pairs of 128 tokens; the axis counts parameters."""
    network = RewardNetwork(str(folder / preset))
    return sum(each.numel() for each in network.parameters()), _training_step(network, _random_rows(16, 128))


def sample_baselines(folder: Path, k: int) -> tuple[int, Work]:
    """Sample k responses of 32 tokens for each of eight prompts of 64, as for offline baselines (200k)."""
    policy, prompts = PolicyNetwork(str(folder / "200k")), _random_rows(8, 64)
    end = policy.model.config.eos_token_id

    def work() -> None:
        generator = torch.Generator().manual_seed(0)
        sample(policy.model, prompts.ids, prompts.length, end, Sampling(max_new_tokens=32), generator, k)

    return k, work


def _random_rows(rows: int, tokens: int) -> Sequences:
    ids = torch.randint(10, 500, (rows, tokens), generator=torch.Generator().manual_seed(0))
    return Sequences(ids, torch.full((rows,), tokens // 2), torch.full((rows,), tokens))


def _training_step(network: RewardNetwork, rows: Sequences) -> Work:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def work() -> None:
        chosen, rejected = network(rows).chunk(2)
        optimizer.zero_grad()
        bradley_terry_loss(chosen, rejected).backward()
        optimizer.step()

    return work


AXES = {
    "pairs": Axis(
        "pairs: read, tokenise, serve", serve_pairs, (1000, 3000, 10_000, 30_000, 100_000), (300, 3000), (10**6,), 0
    ),
    "streamed": Axis(
        "pairs: streamed",
        partial(serve_pairs, streaming=Streaming()),
        (1000, 10_000, 30_000, 100_000),
        (300, 3000),
        (10**6,),
        0,
    ),
    "length": Axis("tokens: a training step", train_on_length, (64, 128, 256, 512, 1024, 2048, 4096), (64, 512)),
    "k": Axis("responses per prompt: sampling", sample_baselines, (1, 2, 4, 8, 16), (1, 8)),
    "model": Axis("parameters: a training step", train_model_of_size, ("200k", "1m", "5m"), ("200k", "1m")),
}


# ------------------------------------------------------------------ measuring


def write_inputs(folder: Path, files: list[int]) -> None:
    """Write the models, and JSONL files of pairs; row i is the same in every file.

    The world's texts recur every 500 rows; a number in the prompt keeps the rows apart.
    """
    for preset in AXES["model"].sizes:
        config = write_base_model(folder / str(preset), str(preset)) / "config.json"
        shape = json.loads(config.read_text("utf-8"))
        config.write_text(json.dumps({**shape, "max_position_embeddings": 4096}), "utf-8")
    texts = list(WorldPairs(500).records())
    for rows in files:
        with (folder / f"pairs-{rows}.jsonl").open("w", encoding="utf-8") as file:
            for number, record in enumerate(islice(cycle(texts), rows)):
                prompt = f"{number}: {record.prompt[-1].content}"
                row = {"prompt": prompt, "chosen": record.chosen, "rejected": record.rejected}
                file.write(json.dumps(row) + "\n")


def measure(axis: str, folder: Path, size: Size, warm: Size, repetition: int) -> Point:
    """One point; to be called in a fresh process.

    Args:
        axis: A name in `AXES`.
        folder: What `write_inputs` wrote.
        size: On the axis.
        warm: Done before anything is measured, since a first time loads code and fills caches.
        repetition: Its number.
    """
    torch.set_num_threads(1)
    quieten()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)  # counts of rows
    AXES[axis].prepare(folder, warm)[1]()
    x, work = AXES[axis].prepare(folder, size)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is kept for later would hide what the work needs
    peak, first = PeakBytes(), Seconds()
    peak.start()
    _metered(work, first)
    peak.stop()
    seconds = [_metered(work, Seconds()) for _ in range(AXES[axis].timed)]
    return Point(axis, x, repetition, statistics.median(seconds or [first.cost]), peak.cost / 2**20)


def _metered(work: Work, meter: Meter) -> float:
    meter.start()
    kept = work()
    meter.stop()
    del kept  # held while it was measured, as a training would hold it
    return meter.cost


def alone(axis: str, *arguments: Any) -> Point:
    """`measure` in a process of its own, forked from one that has imported what is needed and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.growth_points", "transformers.models.llama.modeling_llama"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, axis, *arguments).result()


def start_up(folder: Path, number: int) -> tuple[float, float]:
    """Wall and CPU seconds until ``lit-rlhf fit`` has done and logged its first step: a reward model of 1m."""
    run = folder / f"run-{number}"
    options = {
        "model": {"class_path": "ScalarRewardModule", "init_args": {"model": str(folder / "1m")}},
        "data": {"sources": {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 1000}}},
        "trainer": {
            "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
            "max_steps": 1, "log_every_n_steps": 1, "default_root_dir": str(run),
        },
    }  # fmt: skip
    config, log = folder / f"run-{number}.yaml", folder / f"run-{number}.log"
    config.write_text(json.dumps(options), "utf-8")  # JSON is YAML
    words = [str(Path(sys.executable).with_name("lit-rlhf")), "fit", "-c", str(config)]
    with log.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=output, stderr=output)
        while not (run / "metrics.jsonl").exists():
            if process.poll() is not None:
                raise RuntimeError(f"lit-rlhf ended before its first step:\n{log.read_text()}")
            time.sleep(0.005)
        wall = time.perf_counter() - start
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]  # user, system
        process.wait()
    return wall, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
