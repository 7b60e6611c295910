"""Clock, memory and the pace of the machine itself."""

import platform
import statistics
import time
from datetime import date
from importlib.metadata import version
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.gpu.presets import Preset
from lit_rlhf.cli.stage import quieten

GIB = 2**30


def low_precision(device: str) -> torch.dtype:
    """Bf16 on a GPU; fp32 on a CPU, where the former may be a hundred times slower."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def trainer(device: str, steps: int, *callbacks: Callback, clip: float | None = None) -> Trainer:
    """A Trainer as a user's, without what writes files."""
    quieten()
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if device == "cuda" else "32-true",
        max_steps=steps,
        callbacks=list(callbacks),
        gradient_clip_val=clip,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def wait(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


class Steps(Callback):
    """Seconds per training step behind the warm-up.

    The device is waited for at both ends of these steps only, so the gaps between them count as they are.

    Args:
        device: Where the training runs.
        warmup: Steps before.
        steps: Steps that count.
    """

    def __init__(self, device: str, warmup: int, steps: int) -> None:
        self.device, self.first, self.last, self.marks = device, warmup, warmup + steps, list[float]()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock."""
        if batch_idx + 1 in (self.first, self.last):
            wait(self.device)
            self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of one step."""
        return (self.marks[1] - self.marks[0]) / (self.last - self.first)


def forget_peak(device: str) -> None:
    """Begin a new measurement of the peak."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """Most memory that tensors took since `forget_peak`; None where there is no GPU."""
    return torch.cuda.max_memory_allocated() / GIB if device == "cuda" else None


def matrix_rate(preset: Preset, device: str, rounds: int = 5, products: int = 20) -> float:
    """Floating-point operations per second of products of square matrices: the median round.

    The rate that a data sheet states is reached by no product, and differs with the power that a machine is given.
    """
    side, kind = preset.matrix, low_precision(device)
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    out, seconds = torch.empty_like(a), []
    for _ in range(rounds + 1):  # the first one is the warm-up
        wait(device)
        start = time.perf_counter()
        for _ in range(products):
            torch.mm(a, b, out=out)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 * products / statistics.median(seconds[1:])


def machine(device: str) -> dict[str, str | None]:
    """Where and when this was measured."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU ({platform.machine()})"
    versions = {name: version(name) for name in ("torch", "lightning", "transformers")}
    return {"machine": name, "cuda": torch.version.cuda, **versions, "date": date.today().isoformat()}
