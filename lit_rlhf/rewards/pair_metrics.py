"""All that is measured of a reward model on preference pairs, in one object that modules and evaluation share."""

import hashlib
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric, PearsonCorrCoef

from lit_rlhf.data.batches import PairBatch
from lit_rlhf.networks.together import listed_from_all
from lit_rlhf.rewards.metrics import FeatureSeparation, Floats, Moments, binned_accuracy, calibration, share_won

_BINS = 5  # of strength and of length gap


class PairMetrics(nn.Module):
    """Accuracy against the labels and the true labels, by source, strength and length gap; calibration; score spread.

    The bins are the fifths of the strengths and length gaps of the pairs that were measured.

    Attributes:
        sources: Names of the sources that pairs came from, sorted; of all processes after `figures`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pairs = _PairTable()
        self.scores = Moments()
        self.score_length = PearsonCorrCoef()
        self.separation = FeatureSeparation()
        self.sources: list[str] = []

    def update(
        self, chosen: Tensor, rejected: Tensor, batch: PairBatch, features: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Count one batch of scores, each ``(N,)``, and the features ``(N, H)`` that they were read off."""
        if features is not None:
            self.separation.update(*(side[: batch.counted] for side in features))
        self.pairs.update(chosen - rejected, batch)
        if batch.idle:
            return
        self.sources = sorted({*self.sources, *(record.source for record in batch.records)})
        lengths = torch.cat([batch.chosen.response_length, batch.rejected.response_length])
        self.scores.update(torch.cat([chosen, rejected]))
        self.score_length.update(torch.cat([chosen, rejected]).float(), lengths.float())

    def figures(self, by_source: bool = False) -> dict[str, float]:
        """Every figure by the name it is logged under; what nothing was counted for is left out.

        Args:
            by_source: Whether to give the figures of each source even if all pairs that were measured come from one.
        """
        found: dict[str, float] = {}
        self.sources = sorted(set(listed_from_all(self.sources)))
        pairs = self._columns()
        groups = [("", slice(None))]
        if by_source or len(self.sources) > 1:
            groups += [(f"/{name}", pairs["source"] == _number(name)) for name in self.sources]
        for suffix, rows in groups:
            difference, truth = pairs["difference"][rows], pairs["truth"][rows]
            shares = {
                "accuracy": share_won(difference),
                "true_accuracy": share_won((difference * (2 * truth - 1))[truth >= 0]),
            }
            for name, share in shares.items():
                found |= {f"{name}{suffix}{end}": share[key] for end, key in _ENDS.items()}
            found[f"longer_wins{suffix}"] = share_won(pairs["gap"][rows])["share"]
        moments = self.moments()
        found |= {"score_mean": moments["mean"], "score_std": moments["std"]}
        found["calibration_error"] = calibration(pairs["difference"])["error"]
        found["score_length_correlation"] = float(self.score_length.compute())
        if self.separation.update_called:
            found["feature_separation"] = self.separation.compute()
        for place, row in enumerate(self.tables()["by_strength"], 1):
            found[f"accuracy_by_strength/{place}"] = row["share"]
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def moments(self) -> dict[str, float]:
        """``mean``, ``std`` and ``n`` of all scores."""
        return {name: float(value) for name, value in self.scores.compute().items()}

    def tables(self) -> dict[str, list[dict[str, float]]]:
        """The binned figures: ``by_strength``, ``by_length_gap`` and ``reliability``."""
        pairs = self._columns()
        by_fifths = partial(_by_fifths, pairs["difference"])
        return {
            "by_strength": by_fifths(pairs["strength"]),
            "by_length_gap": by_fifths(pairs["gap"]),
            "reliability": calibration(pairs["difference"])["bins"],
        }

    def reset(self) -> None:
        """Forget all pairs."""
        self.sources = []
        for metric in (self.pairs, self.scores, self.score_length, self.separation):
            metric.reset()

    def _columns(self) -> dict[str, Floats]:
        rows: Tensor = self.pairs.compute()
        return dict(zip(_COLUMNS, rows.cpu().numpy().T, strict=True))


_ENDS = {"": "share", "_low": "low", "_high": "high"}
_COLUMNS = ("difference", "gap", "truth", "strength", "source")


class _PairTable(Metric):
    """Keeps a row of numbers for each pair, of all processes in the end."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, difference: Tensor, batch: PairBatch) -> None:
        """Keep the pairs of a batch, with their score differences ``(N,)``."""
        columns: list[Any] = [
            difference,
            batch.chosen.length - batch.rejected.length,
            batch.chosen_is_better,
            batch.strength,
            torch.tensor([_number(record.source) for record in batch.records], dtype=torch.float64),
        ]
        self.rows.append(torch.stack([each.to(difference.device).double() for each in columns], 1)[: batch.counted])

    def compute(self) -> Tensor:
        """The rows ``(N, 5)``."""
        if isinstance(self.rows, Tensor):
            return self.rows
        return torch.cat(self.rows) if self.rows else torch.empty(0, len(_COLUMNS), dtype=torch.float64)


def _number(name: str) -> float:
    """A whole number that names a source, and that float64 holds exactly."""
    return float(int(hashlib.sha256(name.encode()).hexdigest()[:12], 16))


def _by_fifths(difference: Floats, values: Floats) -> list[dict[str, float]]:
    known = values[~np.isnan(values)]
    edges = np.quantile(known, np.arange(1, _BINS) / _BINS) if len(known) else []
    return binned_accuracy(difference, values, sorted(set(edges)))
