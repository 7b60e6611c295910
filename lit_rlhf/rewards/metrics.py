"""Metrics with sum states: right on ragged last batches and on several processes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from lit_rlhf.networks.together import rank

Floats = NDArray[np.float64]


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


def binned_accuracy(difference: Floats, value: Floats, edges: Sequence[float]) -> list[dict[str, float]]:
    """Pairwise accuracy for each bin of another quantity, such as the pair's strength.

    Args:
        difference: Score of the chosen minus score of the rejected response ``(N,)``.
        value: What the bins are of ``(N,)``; pairs whose value is NaN are left out.
        edges: Inner edges of the bins, ascending; K − 1 edges make K bins. A value on an edge belongs to the upper bin.

    Returns:
        For each bin that holds pairs: ``value`` (their mean), ``share``, ``low``, ``high`` and ``n``.
    """
    known = ~np.isnan(value)
    right, value = _wins(difference[known]), value[known]
    where = np.searchsorted(edges, value, side="right")
    return [
        {"value": float(value[where == k].mean()), **share_with_interval(*_counted(right[where == k]))}
        for k in np.unique(where)
    ]


def calibration(difference: Floats, bins: int = 10) -> dict[str, Any]:
    """Whether σ(score difference) is the probability of being right.

    The confidence of a prediction is σ(|Δ|), between one half and one.

    Args:
        difference: Score of the chosen minus score of the rejected response ``(N,)``.
        bins: Number of equal bins of confidence.

    Returns:
        ``error`` (expected calibration error; NaN where there are no pairs) and ``bins``. Each bin that holds pairs has
        ``confidence`` (their mean), ``share`` that is right, ``low``, ``high`` and ``n``.
    """
    confidence, right = 1 / (1 + np.exp(-np.abs(difference))), _wins(difference)
    where = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = [
        {"confidence": float(confidence[where == k].mean()), **share_with_interval(*_counted(right[where == k]))}
        for k in np.unique(where)
    ]
    gaps = sum(row["n"] * abs(row["share"] - row["confidence"]) for row in rows)
    return {"error": gaps / len(difference) if len(difference) else math.nan, "bins": rows}


def share_won(difference: Floats) -> dict[str, float]:
    """``share`` of differences ``(N,)`` above 0, zeros counting half, with Wilson's ``low`` and ``high``, and ``n``."""
    return share_with_interval(*_counted(_wins(difference)))


def _wins(difference: Floats) -> Floats:
    return (difference > 0) + 0.5 * (difference == 0)


def _counted(right: Floats) -> tuple[float, int]:
    return float(right.sum()), len(right)


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
