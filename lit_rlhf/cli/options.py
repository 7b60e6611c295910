"""Options of the Trainer that need another one here, and what Lightning says about options."""

import re
import traceback
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lit_rlhf.data.errors import DataError

_MACHINE = re.compile(r"accelerator|backend|gpu|cuda|device|node|process", re.IGNORECASE)
_FITTING = (
    "Do they fit this machine? The files in configs/trainer/ hold some that fit a CPU, one GPU, and several: "
    "-c configs/trainer/cpu.yaml"
)
_LISTED = "All of them: lit-rlhf fit --help"


def check_manual(trainer: Trainer, model: LightningModule) -> None:
    """Refuse what the Trainer cannot do for a module that takes its optimiser's steps itself, such as PPO.

    Raises:
        DataError: It names the module's own option.
    """
    if model.automatic_optimization:
        return
    name, has_settings = type(model).__name__, hasattr(model, "settings")
    own = "settings." if has_settings else ""
    if trainer.gradient_clip_val:
        hint = f"Leave it out, and say --model.init_args.{own}max_grad_norm {trainer.gradient_clip_val:g}"
        raise DataError(f"{name} clips gradients itself", "option trainer.gradient_clip_val", hint)
    if trainer.accumulate_grad_batches != 1:
        hint = "Leave it out; the rows of a step are data.batch_size"
        if has_settings:
            hint = (
                "Leave it out, and say --model.init_args.settings.micro_batch_size 4: so many responses of a minibatch "
                "are computed at a time"
            )
        raise DataError(f"{name} adds up gradients itself", "option trainer.accumulate_grad_batches", hint)


def without_checkpoints(config: dict[str, Any], callbacks: list[Callback]) -> list[Callback]:
    """This project's callbacks, less those that write checkpoints where the Trainer is to write none."""
    if config.get("enable_checkpointing") is not False:
        return callbacks
    return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]


def of_the_trainer(error: BaseException) -> DataError | None:
    """What Lightning itself found wrong with an option, as a message; None for any other error.

    It raises a plain ValueError or RuntimeError for some, so it is told by where it was raised.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = Path(frames[-1].filename).parts if frames else ()
    kinds = (ValueError, RuntimeError, TypeError) if "accelerators" in place else (ValueError, RuntimeError)
    by_lightning = "lightning" in place and isinstance(error, kinds)
    if not by_lightning and type(error).__name__ != "MisconfigurationException":
        return None
    text = " ".join(str(error).split())
    return DataError(text, "options of the Trainer", _FITTING if _MACHINE.search(text) else _LISTED)
