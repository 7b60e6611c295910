"""How fast a run is: seconds per step, tokens and pairs per second."""

import json
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from lit_rlhf.cli.checkpoints import Checkpoint, within_step
from lit_rlhf.data.batches import PairBatch, ResponseBatch
from lit_rlhf.networks.together import processes, sum_of_all
from lit_rlhf.policy.stopwatch import Stopwatch

PREFIX = "perf/"
"""Begins the names of metrics that tell of the machine: they are others in every run, whatever its seed."""


class Throughput(Callback):
    """Logs how fast training is, as ``perf/…``, whenever the Trainer logs: the mean since it last did.

    - ``seconds_per_step``, or ``seconds_per_iteration`` where a policy is optimised: the whole time but for validation
      and the writing of checkpoints.
    - ``tokens_per_second``: prompts with responses that were learned from; ``pairs_per_second``.
    - Of a policy's iteration: ``sampling_seconds``, ``scoring_seconds`` (rewards, log-probabilities and values),
      ``update_seconds``, and ``generated_tokens_per_second`` while sampling.

    Tokens and pairs are those of all processes. The first figures of a run hold what happens once, such as a GPU's
    choice of kernels.
    """

    def __init__(self) -> None:
        self._begun = self._validation = self._validating = 0.0
        self._step = 0
        self._counts: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._restart(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation aside."""
        self._validation = _now(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        self._validating += _now(trainer) - self._validation

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; log if it is time to."""
        for name, count in _counts(batch).items():
            self._counts[name] = self._counts[name] + count if name in self._counts else count
        steps = trainer.global_step - self._step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if steps > 0 and every and trainer.global_step % every == 0 and not within_step(trainer):
            self._log(pl_module, _now(trainer) - self._begun - self._validating, steps)
            self._restart(trainer)

    def _log(self, module: LightningModule, seconds: float, steps: int) -> None:
        figures = {name: float(_in_all(count)) / seconds for name, count in self._counts.items()}
        unit = "iteration" if getattr(module, "view", None) == "prompts" else "step"
        figures[f"seconds_per_{unit}"] = seconds / steps
        watch: Any = getattr(module, "stopwatch", None)
        if isinstance(watch, Stopwatch):
            figures |= _parts(watch.read(), steps, module.device)
        module.log_dict({f"{PREFIX}{name}": value for name, value in figures.items()}, batch_size=1)

    def _restart(self, trainer: Trainer) -> None:
        self._begun, self._validating = _now(trainer), 0.0
        self._step, self._counts = trainer.global_step, {}


def _counts(batch: Any) -> dict[str, torch.Tensor]:
    """What a batch counts for; nothing yet waits for the device."""
    if isinstance(batch, PairBatch):
        tokens = batch.chosen.length.sum() + batch.rejected.length.sum()
        found = {"tokens_per_second": tokens, "pairs_per_second": torch.tensor(len(batch), device=tokens.device)}
    elif isinstance(batch, ResponseBatch):
        found = {"tokens_per_second": batch.sequences.length.sum()}
    else:
        return {}
    return {name: count * int(not batch.idle) for name, count in found.items()}


def _parts(sums: dict[str, float], steps: int, device: torch.device) -> dict[str, float]:
    """Seconds of the parts of an iteration, and how fast tokens were generated."""
    tokens = sums.pop("generated_tokens", None)
    figures = {f"{name}_seconds": value / steps for name, value in sums.items()}
    if tokens is not None and sums.get("sampling"):
        figures["generated_tokens_per_second"] = float(_in_all(torch.tensor(tokens, device=device))) / sums["sampling"]
    return figures


def _in_all(count: torch.Tensor) -> torch.Tensor:
    return count if processes() == 1 else sum_of_all(count.reshape(1))


def _now(trainer: Trainer) -> float:
    """Seconds by a clock that stands still while checkpoints are written."""
    checkpoints = (each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoint))
    return time.perf_counter() - sum(each.seconds for each in checkpoints)


def without_throughput(history: str) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` without what is another figure in every run.

    Args:
        history: The file's text.
    """
    lines = [json.loads(line) for line in history.splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(PREFIX)} for line in lines]
