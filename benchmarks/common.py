"""What every row shares: meters of time and memory, what a side reports, and repetitions in turn."""

import gc
import importlib.util
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer

STATUS = Path("/proc/self/status")
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "limit_val_batches": 0,
    "use_distributed_sampler": False,
}


class Meter:
    """Measures from `start`, when models and data are loaded, to `stop`; ``cost`` is what was measured."""

    cost: float = 0.0

    def start(self) -> None:
        """Begin."""
        gc.collect()
        self._before = self._now()

    def stop(self) -> None:
        """End."""
        self.cost = self._now() - self._before

    def _now(self) -> float:
        raise NotImplementedError


class Seconds(Meter):
    """CPU time of this process: other people's work on the machine does not count."""

    def _now(self) -> float:
        return time.process_time()


class PeakBytes(Meter):
    """The most memory that the process held in between, over what it held at the start (Linux)."""

    def start(self) -> None:
        """Begin, and forget the peak of loading."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        self._before = held()

    def _now(self) -> float:
        return held("VmHWM")


def held(name: str = "VmRSS") -> float:
    """Bytes that this process holds (Linux); ``VmHWM`` is the peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text("ascii"))
    assert found is not None
    return 1024.0 * int(found[1])


class Metered(Callback):
    """Starts and stops a meter with a Trainer's run, and keeps the training loss of every step."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.losses = meter, []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs:  # policy optimisation has none
            self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.meter.stop()

    on_predict_start, on_predict_end = on_train_start, on_train_end


@dataclass
class Work:
    """What a side did.

    Attributes:
        amount: Pairs, samples, tokens or sequences: what the rate counts.
        curve: One number per step or row, to be laid over the other side's.
        facts: Anything else that shows equal work, by name.
    """

    amount: float
    curve: list[float] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


Side = Callable[[Meter], Work]


@dataclass
class Comparison:
    """One row's two sides.

    Attributes:
        id: Name of the row.
        what: In plain words, with the unit of the rate.
        peer: Who it is compared with.
        at_least: The ratio of rates that is asked for.
        ours: This library's side.
        theirs: The peer's side.
        parity: From both sides' work to a number that shows that the work was equal, and what stands behind it.
        group: Rows with equal names share the peer's runs.
        needs: A module without which the row is left out.
    """

    id: str
    what: str
    peer: str
    at_least: float
    ours: Side
    theirs: Side
    parity: Callable[[Work, Work], tuple[float, dict[str, Any]]]
    group: str = ""
    needs: str = "transformers"

    @property
    def is_possible(self) -> bool:
        """Whether the peer is installed."""
        return importlib.util.find_spec(self.needs) is not None


def alternate(sides: dict[str, Side], repetitions: int) -> tuple[dict[str, list[float]], dict[str, Work]]:
    """Run the sides in turn; returns each one's seconds per unit of work, and its last work."""
    costs: dict[str, list[float]] = {name: [] for name in sides}
    last: dict[str, Work] = {}
    for _ in range(repetitions):
        for name, side in sides.items():
            meter = Seconds()
            last[name] = side(meter)
            costs[name].append(meter.cost / last[name].amount)
            print(f"  {name}: {meter.cost:.2f} CPU s, {1 / costs[name][-1]:,.1f} per second", flush=True)
    return costs, last


def ratios(mine: list[float], others: list[float]) -> dict[str, float]:
    """Median ratio of neighbouring repetitions, with the lowest and the highest."""
    each = [other / own for own, other in zip(mine, others, strict=True)]
    return {"ratio": statistics.median(each), "lowest": min(each), "highest": max(each)}


def row(
    comparison: Comparison, found: dict[str, float], repetitions: int, parity: float | None, facts: dict[str, Any]
) -> dict[str, Any]:
    """A row of the summary."""
    kind: Literal["higher", "lower"] = "lower" if comparison.id.startswith("memory_") else "higher"
    head = {"id": comparison.id, "what": comparison.what, "peer": comparison.peer, "better": kind}
    return {**head, **found, "at_least": comparison.at_least, "repetitions": repetitions, "parity": parity, **facts}
