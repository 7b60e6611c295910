"""Intervals and shares that reports and studies go by."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def bootstrap_interval(values: Column, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean, by resampling the entries."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def area_under_roc(scores: Column, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive entry scores above a negative one, ties counting half; NaN without both kinds.

    Args:
        scores: One per entry ``(N,)``.
        positive: Which entries are positive ``(N,)``.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    ranks = (upper - (counts - 1) / 2)[inverse]  # ties share their mean rank
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return float("nan")
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


_STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145]
_STUDENT += [2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045]


def student_interval(values: Column) -> tuple[float, float] | tuple[None, None]:
    """Student's 95 % interval of the mean; ``(None, None)`` for fewer than two values.

    For a handful of seeds, where a bootstrap's interval is too narrow: with five values it resamples only those.
    """
    if len(values) < 2:
        return None, None
    quantile = _STUDENT[len(values) - 2] if len(values) - 2 < len(_STUDENT) else 1.96 + 2.5 / (len(values) - 1)
    spread = quantile * float(values.std(ddof=1)) / sqrt(len(values))
    return float(values.mean()) - spread, float(values.mean()) + spread
