"""All that is measured of a reward model on preference pairs, in one object that modules and evaluation share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import PearsonCorrCoef

from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.preparation import Row
from lit_rlhf.rewards.metrics import BinnedAccuracy, Calibration, FeatureSeparation, Moments, PairwiseAccuracy

_BINS = 5  # of strength and of length gap


class PairMetrics(nn.Module):
    """Accuracy against the labels and the true labels, by source, strength and length gap; calibration; score spread.

    Args:
        sources: Names of the data's sources, in the order of ``PairBatch.source``.
        rows: The pairs that will be measured; the bins are the fifths of their strengths and length gaps.
    """

    def __init__(self, sources: Sequence[str], rows: Sequence[Row] = ()) -> None:
        super().__init__()
        # All pairs first, then each source; in lists, since not every source's name can name a module.
        self.groups = ["", *(f"/{name}" for name in sources if len(sources) > 1)]
        self.accuracy: Any = nn.ModuleList(PairwiseAccuracy() for _ in self.groups)
        self.true_accuracy: Any = nn.ModuleList(PairwiseAccuracy() for _ in self.groups)
        self.longer_wins: Any = nn.ModuleList(PairwiseAccuracy() for _ in self.groups)
        self.by_strength = BinnedAccuracy(_fifths([row.label.strength for row in rows]))
        self.by_length_gap = BinnedAccuracy(_fifths([len(row.chosen) - len(row.rejected) for row in rows]))
        self.calibration = Calibration()
        self.scores = Moments()
        self.score_length = PearsonCorrCoef()
        self.separation = FeatureSeparation()

    def update(
        self, chosen: Tensor, rejected: Tensor, batch: PairBatch, features: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Count one batch of scores, each ``(N,)``, and the features ``(N, H)`` that they were read off."""
        if features is not None:
            self.separation.update(*(side[: batch.counted] for side in features))
        if batch.idle:
            return
        difference = chosen - rejected
        gap = (batch.chosen.length - batch.rejected.length).float()
        truth = batch.chosen_is_better
        for number in range(len(self.groups)):
            counted = batch.source == number - 1 if number > 0 else torch.ones_like(truth, dtype=torch.bool)
            known = counted & (truth >= 0)
            self.accuracy[number].update(difference[counted])
            self.longer_wins[number].update(gap[counted])
            self.true_accuracy[number].update((difference * (2 * truth - 1))[known])
        self.by_strength.update(difference, batch.strength)
        self.by_length_gap.update(difference, gap)
        self.calibration.update(difference)
        lengths = torch.cat([batch.chosen.response_length, batch.rejected.response_length])
        self.scores.update(torch.cat([chosen, rejected]))
        self.score_length.update(torch.cat([chosen, rejected]).float(), lengths.float())

    def figures(self) -> dict[str, float]:
        """Every figure by the name it is logged under; what nothing was counted for is left out."""
        found: dict[str, float] = {}
        for number, suffix in enumerate(self.groups):
            shares = {"accuracy": self.accuracy, "true_accuracy": self.true_accuracy, "longer_wins": self.longer_wins}
            for name, metrics in shares.items():
                share = metrics[number].compute()
                found[f"{name}{suffix}"] = share["share"]
                if name != "longer_wins":
                    found |= {f"{name}{suffix}_low": share["low"], f"{name}{suffix}_high": share["high"]}
        moments = self.moments()
        found |= {"score_mean": moments["mean"], "score_std": moments["std"]}
        found["calibration_error"] = self.calibration.compute()["error"]
        found["score_length_correlation"] = float(self.score_length.compute())
        if self.separation.update_called:
            found["feature_separation"] = self.separation.compute()
        for place, row in enumerate(self.by_strength.compute(), 1):
            found[f"accuracy_by_strength/{place}"] = row["share"]
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def moments(self) -> dict[str, float]:
        """``mean``, ``std`` and ``n`` of all scores."""
        return {name: float(value) for name, value in self.scores.compute().items()}

    def tables(self) -> dict[str, list[dict[str, float]]]:
        """The binned figures: ``by_strength``, ``by_length_gap`` and ``reliability``."""
        return {
            "by_strength": self.by_strength.compute(),
            "by_length_gap": self.by_length_gap.compute(),
            "reliability": self.calibration.compute()["bins"],
        }

    def reset(self) -> None:
        """Forget all counts."""
        for metric in self.modules():
            if metric is not self and hasattr(metric, "reset"):
                metric.reset()  # type: ignore[operator]


def _fifths(values: Sequence[float]) -> list[float]:
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) == 0:
        return []
    return sorted(set(np.quantile(known, np.arange(1, _BINS) / _BINS).tolist()))
