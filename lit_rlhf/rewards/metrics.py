"""Metrics with sum states: right on ragged last batches and on several processes."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class PairwiseAccuracy(Metric):
    """Share of pairs whose chosen response scores higher; equal scores count half.

    ``interval`` gives Wilson's 95 % confidence interval.
    """

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
        self.correct += (difference > 0).sum() + 0.5 * (difference == 0).sum()
        self.total += difference.numel()

    def compute(self) -> Tensor:
        """The share; NaN where nothing was counted."""
        return (self.correct / self.total).float()

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share, over what this process has counted."""
        return wilson_interval(float(self.correct), int(self.total))


def wilson_interval(successes: float, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a share; ``(nan, nan)`` where nothing was counted."""
    if total == 0:
        return math.nan, math.nan
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, centre - spread), min(1.0, centre + spread)


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
