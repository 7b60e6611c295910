"""TRL as the rows use it: its callbacks drive the meter, and what it prints is swallowed."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

from benchmarks.common import Meter

TRL = "TRL 1.12.0"
COMMON: dict[str, Any] = {
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,  # TRL's default is True, on a CPU as well
    "gradient_checkpointing": False,  # likewise
    "save_strategy": "no",
    "lr_scheduler_type": "constant",
}


class MeteredByTRL(TrainerCallback):
    """Starts and stops a meter with TRL's training."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.meter.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.meter.stop()


def scalar(path: str) -> Any:
    """A reward model as transformers loads it."""
    return AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)


def causal(path: str) -> Any:
    """A language model as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing on the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def counted_steps() -> Iterator[list[int]]:
    """The only entry of the list counts the steps of all optimisers."""
    count = [0]

    def add(*_: Any) -> None:
        count[0] += 1

    handle = register_optimizer_step_post_hook(add)
    try:
        yield count
    finally:
        handle.remove()
