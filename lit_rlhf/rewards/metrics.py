"""Metrics with sum states: right on ragged last batches and on several processes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lit_rlhf.networks.together import rank


class PairwiseAccuracy(Metric):
    """Share of pairs whose chosen response scores higher, with Wilson's 95 % interval; equal scores count half."""

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, difference: Tensor) -> None:
        """Count pairs.

        Args:
            difference: Score of the chosen minus score of the rejected response ``(N,)``.
        """
        self.correct += wins(difference).sum()
        self.total += difference.numel()

    def compute(self) -> dict[str, float]:
        """``share``, ``low``, ``high`` and ``n``; NaN where nothing was counted."""
        return share_with_interval(float(self.correct), int(self.total))


class BinnedAccuracy(Metric):
    """Pairwise accuracy for each bin of another quantity, such as the pair's strength.

    Args:
        edges: Inner edges of the bins, ascending; K − 1 edges make K bins. A value on an edge belongs to the upper bin.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor
    value: Tensor
    edges: Tensor

    def __init__(self, edges: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor(list(edges), dtype=torch.float64), persistent=False)
        for name in ("correct", "total", "value"):
            zeros = torch.zeros(len(edges) + 1, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, difference: Tensor, value: Tensor) -> None:
        """Count pairs; those whose value is NaN are left out.

        Args:
            difference: Score of the chosen minus score of the rejected response ``(N,)``.
            value: What the bins are of ``(N,)``.
        """
        known = ~value.isnan()
        difference, value = difference[known], value[known].double()
        where = torch.bucketize(value, self.edges, right=True)
        for state, amount in ((self.correct, wins(difference)), (self.total, None), (self.value, value)):
            state.index_add_(0, where, torch.ones_like(value) if amount is None else amount)

    def compute(self) -> list[dict[str, float]]:
        """For each bin that holds pairs: ``value`` (their mean), ``share``, ``low``, ``high`` and ``n``."""
        rows = zip(self.correct.tolist(), self.total.tolist(), self.value.tolist(), strict=True)
        return [
            {"value": value / total, **share_with_interval(correct, int(total))}
            for correct, total, value in rows
            if total > 0
        ]


class Calibration(Metric):
    """Whether σ(score difference) is the probability of being right: expected calibration error and its bins.

    The confidence of a prediction is σ(|Δ|), between one half and one.

    Args:
        bins: Number of equal bins of confidence.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor
    confidence: Tensor

    def __init__(self, bins: int = 10) -> None:
        super().__init__()
        self.bins = bins
        for name in ("correct", "total", "confidence"):
            self.add_state(name, torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, difference: Tensor) -> None:
        """Count pairs by their score difference ``(N,)``."""
        confidence = difference.double().abs().sigmoid()
        where = ((confidence - 0.5) * 2 * self.bins).long().clamp(max=self.bins - 1)
        self.correct.index_add_(0, where, wins(difference))
        self.total.index_add_(0, where, torch.ones_like(confidence))
        self.confidence.index_add_(0, where, confidence)

    def compute(self) -> dict[str, Any]:
        """``error`` (expected calibration error; NaN where nothing was counted) and ``bins``.

        Each bin that holds pairs has ``confidence`` (their mean), ``share`` that is right, ``low``, ``high`` and ``n``.
        """
        rows = zip(self.correct.tolist(), self.total.tolist(), self.confidence.tolist(), strict=True)
        bins = [
            {"confidence": confidence / total, **share_with_interval(correct, int(total))}
            for correct, total, confidence in rows
            if total > 0
        ]
        count = float(self.total.sum())
        gaps = sum(each["n"] * abs(each["share"] - each["confidence"]) for each in bins)
        return {"error": gaps / count if count else math.nan, "bins": bins}


class Moments(Metric):
    """Mean, standard deviation and number of a stream of values."""

    full_state_update = False
    total: Tensor
    square: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("square", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values of any shape."""
        values = values.double()
        self.total += values.sum()
        self.square += values.square().sum()
        self.count += values.numel()

    def compute(self) -> dict[str, Tensor]:
        """``mean``, ``std`` (population) and ``n``."""
        mean = self.total / self.count
        variance = (self.square / self.count - mean.square()).clamp(min=0)
        return {"mean": mean, "std": variance.sqrt(), "n": self.count}


class FeatureSeparation(Metric):
    """How far apart the features of chosen and rejected responses lie: d′ along a direction from other pairs.

    The pairs are dealt into two halves. The direction is the difference of the two class means in one half; d′ is the
    distance of the class means along it in the other half, in units of the spread within the classes. Averaged over
    both ways round. Features that do not differ give about 0, which a d′ along its own direction would not.

    Args:
        limit: Pairs that are looked at: the first ones.
    """

    full_state_update = False
    chosen: list[Tensor]
    rejected: list[Tensor]
    places: list[Tensor]

    def __init__(self, limit: int = 1000) -> None:
        super().__init__()
        self.limit = limit
        self.add_state("chosen", [], dist_reduce_fx="cat")
        self.add_state("rejected", [], dist_reduce_fx="cat")
        self.add_state("places", [], dist_reduce_fx="cat")  # of the pairs, among those of all processes

    def update(self, chosen: Tensor, rejected: Tensor) -> None:
        """Keep features ``(N, H)`` of the chosen and the rejected responses."""
        room = self.limit - sum(len(each) for each in self.chosen)
        if room > 0:
            self.chosen.append(chosen[:room].detach().float())
            self.rejected.append(rejected[:room].detach().float())
            row = torch.arange(len(self.chosen[-1]), device=chosen.device)
            self.places.append((self._update_count * 2**16 + rank()) * 2**16 + row)

    def features(self) -> tuple[Tensor, Tensor]:
        """The features that were kept, each ``(N, H)``, in the order that one process would have seen them in."""
        first, second, places = (
            torch.cat(list(each)) if not isinstance(each, Tensor) else each
            for each in (self.chosen, self.rejected, self.places)
        )
        order = places.argsort()[: self.limit]
        return first[order], second[order]

    def compute(self) -> float:
        """d′; NaN with fewer than eight pairs."""
        if not len(self.chosen):
            return math.nan
        chosen, rejected = (each.double().cpu().numpy() for each in self.features())
        if len(chosen) < 8:
            return math.nan
        halves = [(chosen[i::2], rejected[i::2]) for i in range(2)]
        return float(np.mean([_d_prime(*halves[i], *halves[1 - i]) for i in range(2)]))


def _d_prime(chosen: Any, rejected: Any, other_chosen: Any, other_rejected: Any) -> float:
    direction = other_chosen.mean(0) - other_rejected.mean(0)
    good, bad = chosen @ direction, rejected @ direction
    spread = math.sqrt((good.var() + bad.var()) / 2)
    return (good.mean() - bad.mean()) / spread if spread > 0 else 0.0


def wins(difference: Tensor) -> Tensor:
    """1 where the chosen response scores higher, one half where both score alike, else 0 ``(N,)``."""
    return (difference > 0).double() + 0.5 * (difference == 0).double()


def share_with_interval(successes: float, total: int) -> dict[str, float]:
    """``share``, ``low``, ``high`` (Wilson, 95 %) and ``n``; NaN where nothing was counted."""
    low, high = wilson_interval(successes, total)
    return {"share": successes / total if total else math.nan, "low": low, "high": high, "n": total}


def wilson_interval(successes: float, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a share; ``(nan, nan)`` where nothing was counted."""
    if total == 0:
        return math.nan, math.nan
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, centre - spread), min(1.0, centre + spread)
