"""Voters: reward models that differ in seed and data order only, and by how much each prefers every pair."""

import hashlib
import logging
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.preparation import Row
from lit_rlhf.data.processes import end_with_parent
from lit_rlhf.data.store import Key, Store
from lit_rlhf.data.strength import strength_row
from lit_rlhf.networks.backbone import fingerprint, load_model, replace_directory
from lit_rlhf.networks.progress import progress_bar
from lit_rlhf.networks.together import listed_from_all, processes
from lit_rlhf.rewards.scalar_module import ScalarRewardModule

Differences = dict[str, float]
"""Score of the chosen minus score of the rejected response, by pair hash."""


@dataclass
class Voting:
    """How voters are trained.

    Source: Wang et al. 2024, "Secrets of RLHF II: Reward Modeling" (arXiv 2401.06080): ten voters, one epoch each,
    asked about the pairs that they were trained on.

    Attributes:
        voters: Number of reward models.
        epochs: Passes of each voter over the pairs. More than one lets voters memorise labels: strength fades.
        folds: K-fold voting: each voter is K models, and a pair is judged by the one that was trained on the other
            folds. None judges pairs by the voter that was trained on them, as in the paper.
        parallel: Voters trained at the same time, each in a process of its own. With GPUs they take turns on them.
        seed: Of all voters.
        trainer: Further arguments of Lightning's Trainer, such as ``{accelerator: gpu, devices: 8, strategy: ddp}``;
            objects by their ``class_path``, as in the files of ``configs/trainer``.
    """

    voters: int = 10
    epochs: int = 1
    folds: int | None = None
    parallel: int = 1
    seed: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        for option, least in (("voters", 1), ("epochs", 1), ("parallel", 1)):
            if getattr(self, option) < least:
                raise DataError(f"is {getattr(self, option)}", f"option {option}", f"Give {least} or more.")
        if self.folds is not None and self.folds < 2:
            raise DataError(f"is {self.folds}", "option folds", "Give 2 or more, or leave it out.")


def vote(voter: ScalarRewardModule, data: PreferenceDataModule, directory: str | Path, voting: Voting) -> Path:
    """Train all voters that are not there yet, and write the strength table.

    Each voter becomes one part of ``directory/voters`` as soon as it is trained, so an interrupted run goes on with the
    next one, and asking for more voters keeps those that are there.

    Args:
        voter: The module that every voter is a copy of; not yet configured.
        data: The pairs. Training pairs and validation pairs are both judged.
        directory: Folder for the voters' parts and the ``table``.
        voting: How voters are trained.

    Returns:
        The folder of the table.

    Raises:
        DataError: If the data bring treatments, or the folder belongs to other voters.
    """
    if data.treatments:
        hint = "Leave out data.treatments here; give them to the run that uses the table."
        raise DataError("voters are trained on the labels as they are", "option data.treatments", hint)
    data.load("pairs", data.tokenizer or voter.tokenizer)
    voter.renderer = data.renderer
    _warn_of_repetition(data.train_rows, voting)
    key = _key(voter, data, voting)
    parts = Store(Path(directory) / "voters")
    parts.begin(key, first=_is_first())
    pending = [number for number in range(voting.voters) if not parts.has_part(number)]
    jobs = [_Job(voter, data, voting, number, parts) for number in pending]
    if len(jobs) < voting.voters:
        rank_zero_info(f"voters: {voting.voters - len(jobs)} of {voting.voters} are there already")
    for number, seconds in _run_parallel(jobs, voting.parallel) if voting.parallel > 1 else map(_run, jobs):
        rank_zero_info(f"voters: number {number + 1} of {voting.voters} is trained ({seconds:.0f} s)")
    votes = [parts.read_part(number) for number in range(voting.voters)]
    table = Path(directory) / "table"
    tables = [{row["pair_hash"]: row["difference"] for row in part} for part in votes]
    if _is_first():
        write_table(table, data, tables, {**key, "voters": voting.voters})
    _wait_for_all()
    return table


def write_table(directory: Path, data: PreferenceDataModule, votes: list[Differences], key: Key) -> None:
    """Write one row per distinct pair with the differences of all voters; the table appears whole or not at all."""
    rows: dict[str, dict[str, Any]] = {}
    for part, part_rows in (("train", data.train_rows), ("validation", data.val_rows)):
        for row in part_rows:
            name = row.record.pair_hash
            rows.setdefault(name, strength_row(row.record, [differences[name] for differences in votes], part))
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    store = Store(partial)
    store.begin(key)
    store.write_part(0, list(rows.values()))
    store.finish(1)
    replace_directory(partial, directory)


@dataclass
class _Job:
    """One voter to be trained, by this process or another."""

    voter: ScalarRewardModule
    data: PreferenceDataModule
    voting: Voting
    number: int
    parts: Store


def _run(job: _Job) -> tuple[int, float]:
    """Train one voter, write its part; returns its number and the seconds that it took."""
    start = time.perf_counter()
    seed = 1000 * job.voting.seed + job.number
    data = deepcopy(job.data)
    data.seed = seed
    everything = [*data.train_rows, *data.val_rows]
    found: dict[str, list[float]] = {}
    for fold in range(job.voting.folds or 1):
        held_out = [row for row in data.train_rows if job.voting.folds and _fold(row, seed, job.voting.folds) == fold]
        left = {id(row) for row in held_out}
        judged = [*held_out, *data.val_rows] if job.voting.folds else everything
        training = deepcopy(data) if job.voting.folds else data
        training.train_rows = [row for row in data.train_rows if id(row) not in left]
        seed_everything(seed + 100_000_000 * fold, verbose=False)
        for name, difference in _train(deepcopy(job.voter), training, judged, job.voting).items():
            found.setdefault(name, []).append(difference)
    rows = [{"pair_hash": name, "difference": sum(each) / len(each)} for name, each in found.items()]
    if _is_first():
        job.parts.write_part(job.number, rows)
    _wait_for_all()
    return job.number, time.perf_counter() - start


def _train(voter: ScalarRewardModule, data: PreferenceDataModule, judged: list[Row], voting: Voting) -> Differences:
    options: dict[str, Any] = {"accelerator": "auto", "gradient_clip_val": 1.0, **voting.trainer}
    for name, value in options.items():  # new objects for each voter: a Trainer leaves its mark on them
        options[name] = instantiate_class((), value) if _names_class(value) else deepcopy(value)
    shown = options.get("enable_progress_bar") is not False
    given = options.pop("callbacks", None) or []
    options["callbacks"] = [*(given if isinstance(given, list) else [given]), *([progress_bar()] if shown else [])]
    trainer = Trainer(
        max_epochs=voting.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(voter, datamodule=data)
    predictions: Any = trainer.predict(voter, data.plain_dataloader(judged))
    pairs = [(row["pair_hash"], row["difference"]) for batch in predictions for row in batch]
    return dict(listed_from_all(pairs) if trainer.world_size > 1 else pairs)


def _is_first() -> bool:
    """Whether this is the process that writes; known before the processes have met."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _wait_for_all() -> None:
    if processes() > 1:
        torch.distributed.barrier()


def _run_parallel(jobs: list[_Job], processes: int) -> Iterator[tuple[int, float]]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), _be_quiet, (threads,)) as pool:
        futures = [pool.submit(_run_elsewhere, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_elsewhere(job: _Job) -> tuple[int, float]:
    """Train one voter in a process of its own, without a progress bar, on one device."""
    options: dict[str, Any] = {"devices": 1, "enable_progress_bar": False, **job.voting.trainer}
    if torch.cuda.is_available() and options.get("accelerator", "auto") in ("auto", "gpu", "cuda"):
        options["devices"] = [job.number % torch.cuda.device_count()]
    job.voting.trainer = options
    return _run(job)


def _be_quiet(threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _fold(row: Row, seed: int, folds: int) -> int:
    """Fold of a pair: by its prompt, so that a prompt never sits on both sides; another one for every voter."""
    return int(hashlib.sha256(f"fold {seed} {row.record.split_hash}".encode()).hexdigest()[:12], 16) % folds


def _key(voter: ScalarRewardModule, data: PreferenceDataModule, voting: Voting) -> Key:
    """What a voter's part depends on; their number is not among it."""
    settings = f"{type(voter).__name__} {sorted(voter.hparams.items(), key=str)}"
    return {
        "model": fingerprint(load_model(voter.path, "scalar").base_model, skip="pooler."),
        "voter": _digest(settings),
        "pairs": data.fingerprint,
        "validation_pairs": _digest([row.record.pair_hash for row in data.val_rows]),
        "trainer": _digest(
            [_plain(item) for item in sorted(voting.trainer.items()) if item[0] != "enable_progress_bar"]
        ),
        "epochs": voting.epochs,
        "folds": voting.folds or 0,
        "seed": voting.seed,
    }


def _names_class(value: object) -> bool:
    return isinstance(value, dict) and "class_path" in value


def _plain(item: tuple[str, Any]) -> tuple[str, Any]:
    """An option without the address of an object, which is another one in every run."""
    name, value = item
    if _names_class(value):
        return name, str(value["class_path"]).rpartition(".")[2]
    return item if isinstance(value, str | int | float | list | tuple | dict | None) else (name, type(value).__name__)


def _digest(content: object) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()[:16]


def _warn_of_repetition(rows: list[Row], voting: Voting) -> None:
    repeated = sum(count - 1 for count in Counter(row.record.pair_hash for row in rows).values())
    why = [f"{voting.epochs} epochs"] * (voting.epochs > 1) + [f"{repeated:,} repeated pairs"] * (repeated > 0)
    if why:
        rank_zero_warn(
            f"voters see a pair more than once ({' and '.join(why)}): "
            "they memorise labels, and their strength says less"
        )
