"""Checkpoints: when they are written, what they remember, and which ones a run may go on from."""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.checkpoint.api import CheckpointException

from lit_rlhf.cli.faults import Terminated
from lit_rlhf.cli.shards import check_bytes, read_checkpoint, write_digests, written_by
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import replace_directory
from lit_rlhf.networks.optimizer import Optimizer, total_steps
from lit_rlhf.networks.together import failing_together

_TOLD = {
    signal.SIGINT: b"\nthis step comes to its end and is kept; Ctrl-C once more stops at once\n",
    signal.SIGTERM: b"\nSIGTERM: this step comes to its end and is kept, then the run ends\n",
}


class Checkpoint(ModelCheckpoint):
    """Lightning's checkpoints, but behind the validation that falls on the same step, and always at the end.

    A run that was killed during that validation would otherwise be resumed behind it and never have its figures.
    They lie in the run's folder, whatever the logger, each whole or not at all. Ctrl-C lets the step (all its batches
    where gradients are added up, and the validation that falls on it) come to its end and writes ``last.ckpt`` before
    the run stops; a second one stops it at once. SIGTERM does what the first Ctrl-C does, in whichever process it
    arrives.
    """

    goes_on_from: str | None = None
    """A checkpoint whose bytes several processes look at together."""

    seconds = 0.0
    """What writing has taken this process so far."""

    _scheduled_steps: float | None = None
    _scheduled_before: float | None = None

    _asked_to_stop = False
    _asked_by_sigterm = False
    _former_handlers: dict[int, Any]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and refuse a damaged checkpoint."""
        if self.goes_on_from is not None:
            with failing_together(trainer.strategy.root_device):
                check_bytes(self.goes_on_from, trainer.global_rank, trainer.world_size)
        self.dirpath = self.dirpath or str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps, and how many steps the schedule was made for."""
        return {**super().state_dict(), "scheduled_steps": self._scheduled_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what the schedule was made for."""
        super().load_state_dict(state_dict)
        self._scheduled_before = state_dict.get("scheduled_steps")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM, which only the main thread may; say if the schedule is another one now."""
        super().on_train_start(trainer, pl_module)
        self._scheduled_steps = scheduled_steps(trainer, pl_module)
        before, now = self._scheduled_before, self._scheduled_steps
        if before is not None and now is not None and before != now:
            rank_zero_info(
                f"warning: the schedule of the learning rate was made for {before:g} steps, now it spans {now:g}: this "
                "run will not equal one that had as many from the start. A constant schedule without warm-up does."
            )
        self._asked_to_stop = self._asked_by_sigterm = False
        self._former_handlers = {}
        if self.save_last and threading.current_thread() is threading.main_thread():
            self._former_handlers = {signum: signal.signal(signum, self._ask_to_stop) for signum in _TOLD}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave the checkpoint to `on_validation_end` where validation comes next."""
        if within_step(trainer):
            return  # the gradients that are there already would be missing after it
        due = self._every_n_train_steps > 0 and trainer.global_step % self._every_n_train_steps == 0
        stop = trainer.strategy.reduce_boolean_decision(self._asked_to_stop, all=False)
        loop, ends = trainer.fit_loop, self.save_last and ends_within_epoch(trainer)
        if (due or stop or ends) and loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            self._defer_save_until_validation = True
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if ends and not self._should_skip_saving_checkpoint(trainer):
            # Behind this, Lightning takes the epoch for finished, and a run that goes on would lose the rest of it.
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        if stop:
            connector: Any = trainer._logger_connector  # pyright: ignore[reportPrivateUsage]
            connector.on_batch_end()
            connector.update_train_step_metrics()  # otherwise behind this, and never
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint that was left for now."""
        if self._defer_save_until_validation and not self._should_skip_saving_checkpoint(trainer):
            self._defer_save_until_validation = False
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        else:
            super().on_validation_end(trainer, pl_module)
        if within_step(trainer):
            return
        if trainer.strategy.reduce_boolean_decision(self._asked_to_stop, all=False):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the end of training too, whatever its step."""
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._give_back_signals()
        if trainer.strategy.reduce_boolean_decision(self._asked_to_stop, all=False):
            self._stop(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give back Ctrl-C and SIGTERM."""
        self._give_back_signals()
        if isinstance(exception, KeyboardInterrupt):
            _let_children_go()
        super().on_exception(trainer, pl_module, exception)

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True
        if signum == signal.SIGTERM:  # may be sent more than once
            self._asked_by_sigterm = True
        else:
            self._give_back_signals(signum)  # the next one stops at once
        # Not print: the signal may have come while something else is being printed.
        os.write(2, _TOLD[signal.Signals(signum)])

    def _stop(self, trainer: Trainer) -> None:
        """Keep this step, unless that is done already, and end as interrupted."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        by_sigterm = trainer.strategy.reduce_boolean_decision(self._asked_by_sigterm, all=False)
        raise (Terminated if by_sigterm else KeyboardInterrupt)(self.last_model_path)

    def _give_back_signals(self, *signums: int) -> None:
        """Put the former handlers back in place: of these signals, or of all that were taken over."""
        former = getattr(self, "_former_handlers", {})
        for signum in signums or tuple(former):
            if signum in former:
                signal.signal(signum, former.pop(signum))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._write(trainer, filepath, partial(super()._save_checkpoint, trainer))
        self._last_checkpoint_saved = filepath

    def write(self, trainer: Trainer, filepath: str) -> None:
        """Write a checkpoint beside those that this callback keeps account of.

        Args:
            trainer: Of the run.
            filepath: Where to.
        """
        self._write(trainer, filepath, partial(trainer.save_checkpoint, weights_only=self.save_weights_only))

    def _write(self, trainer: Trainer, filepath: str, save: Callable[[str], None]) -> None:
        """Write beside the former checkpoint of that name, then put it in its place.

        Lightning writes to the system's folder for temporary files first; where that is on another disk, it would copy
        from there into the place of the former one.
        """
        begin = time.perf_counter()
        target = Path(filepath)
        unfinished = target.with_name(f".{target.name}.partial")
        if trainer.is_global_zero:  # what a killed run has left there
            remove_checkpoint(unfinished)
        trainer.strategy.barrier("room for a checkpoint")
        try:
            save(str(unfinished))
        except CheckpointException as error:
            error.filename = str(unfinished)  # type: ignore[attr-defined]  it names none itself
            raise
        if unfinished.is_dir():
            trainer.strategy.barrier("all parts of a checkpoint")
            write_digests(unfinished)
        if trainer.is_global_zero:
            # Renaming a file over a file needs no moment without either; a folder can only be moved out of the way.
            folders = unfinished.is_dir() or target.is_dir()
            (replace_directory if folders else os.replace)(unfinished, target)
        trainer.strategy.barrier("checkpoint in its place")
        self.seconds += time.perf_counter() - begin


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, file or folder, if there is one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def within_step(trainer: Trainer) -> bool:
    """Whether gradients of further batches are to be added to those that are there, before the optimiser's step."""
    return trainer.fit_loop._should_accumulate()  # pyright: ignore[reportPrivateUsage]


def scheduled_steps(trainer: Trainer, module: LightningModule) -> float | None:
    """The number of steps that a module's learning rate depends on; None where it does not."""
    optimizer = getattr(module, "optimizer", None)
    if not isinstance(optimizer, Optimizer) or (optimizer.schedule == "constant" and not optimizer.warmup):
        return None
    return total_steps(trainer)


def ends_within_epoch(trainer: Trainer) -> bool:
    """Whether training ends with this step although the epoch has further ones."""
    loop, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    out_of_steps = 0 <= epoch.max_steps <= epoch.global_step
    told_to_stop = trainer.should_stop and loop._can_stop_early  # pyright: ignore[reportPrivateUsage]
    return (out_of_steps or told_to_stop) and not epoch._num_ready_batches_reached()  # pyright: ignore[reportPrivateUsage]


def _let_children_go() -> None:
    """Let Lightning not take processes that end because all of them do for ones that have died.

    It would kill this one, which may still have to tell W&B the rest.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]


class RandomState(Callback):
    """Keeps the state of all global random number generators in the checkpoint, which Lightning does not."""

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """State of Python's, numpy's and torch's generators, on every device."""
        numpy = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],  # type: ignore[index, union-attr]
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the state; it is put in place when training starts."""
        self._resumed = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the random numbers of the run that is resumed."""
        if self._resumed is None:
            return
        version, internal, gauss = self._resumed["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = self._resumed["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(self._resumed["torch"].cpu())
        for device, state in zip(range(torch.cuda.device_count()), self._resumed["cuda"], strict=False):
            torch.cuda.set_rng_state(state.cpu(), device)  # there may be fewer or more of them than then


def model_options(parser: Any, config: Any) -> dict[str, Any]:
    """The model's part of a parsed config, as plain values."""
    return yaml.safe_load(parser.dump(config, skip_none=False))["model"]


def put_back(path: Path) -> None:
    """Give a checkpoint that is a folder its name again, if a kill came just before the next one took its place."""
    outdated = path.with_name(f".{path.name}.outdated")
    if not path.exists() and outdated.exists():
        with suppress(FileNotFoundError):  # another process may be quicker
            outdated.rename(path)


def check_checkpoint(path: str, model: dict[str, Any], resume: bool) -> None:
    """Refuse a checkpoint that is missing, of another kind of module, or (to resume) of other model options.

    Paths among the options are not compared: a model may have moved, and fingerprints tell whether it is the same.

    Args:
        path: The checkpoint's file or folder.
        model: The options of this run's model, as `model_options` gives them.
        resume: Whether training goes on from it; otherwise only the kind of module counts.

    Raises:
        DataError: With every option that differs.
    """
    put_back(Path(path))
    saved = read_checkpoint(path, weights=False)["callbacks"].get("SaveConfig", {}).get("model")
    if saved is None:
        return
    if saved["class_path"] != model["class_path"]:
        message = f"was written by {_short(saved['class_path'])}, this run trains {_short(model['class_path'])}"
        hint = "To build on another run's model, name its exported folder among the model's options."
        raise DataError(message, f"checkpoint {path}", hint)
    differing = list(_differences(saved, model)) if resume else []
    if differing:
        hint = "Resume with the same model options, or start a new run without --ckpt_path."
        raise DataError("was written with other model options\n" + "\n".join(differing), f"checkpoint {path}", hint)


def check_strategy(path: str, strategy: object, resumes: bool = True) -> None:
    """Refuse to go on from a checkpoint that the strategy cannot read.

    Any number of processes may go on from one in parts if the strategy can put them together: each reads what it needs.
    A file suits every strategy but FSDPStrategy, which takes the optimiser's state in the order of all parameters,
    trained or not, and would give them each other's.

    Args:
        path: File or folder.
        strategy: That of the run which is to go on from there.
        resumes: Whether it trains; otherwise it reads the weights alone.

    Raises:
        DataError: Names the strategies.
    """
    writer = written_by(path)
    if resumes and writer is None and isinstance(strategy, FSDPStrategy):
        hint = (
            "Go on with configs/trainer/fsdp2.yaml or ddp.yaml, or start from the model that `lit-rlhf export` makes."
        )
        raise DataError("is a file, and FSDPStrategy goes on from folders only", f"checkpoint {path}", hint)
    if writer is None or any(each.__name__ == writer for each in type(strategy).__mro__):
        return
    message = f"was written in parts by {writer}, and {type(strategy).__name__} cannot put them together"
    hint = f"Go on with {writer} on any number of devices, or start from the model that `lit-rlhf export` makes of it."
    raise DataError(message, f"checkpoint {path}", hint)


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    before, after = dict(_flat(saved, "model")), dict(_flat(now, "model"))
    for name in sorted(before.keys() | after.keys()):
        values = before.get(name, "(not set)"), after.get(name, "(not set)")
        if values[0] != values[1] and not any(map(_is_path, values)):
            yield f"  {name}: {values[0]} in the checkpoint, {values[1]} now"


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}")
    else:
        yield name, value


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or os.sep in value or os.path.exists(value))


def _short(class_path: str) -> str:
    return class_path.rsplit(".", 1)[-1]
