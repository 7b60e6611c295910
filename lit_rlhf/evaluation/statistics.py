"""Intervals and shares that reports and studies go by."""

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
