"""Two models on the same rows of a benchmark: how far apart they are, and whether chance could have done it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.evaluation.benchmark_sections import Weights, find_rules, lay_out

Column = NDArray[np.float64]
Values = dict[str, Column]

_BOOTSTRAP = 10_000
_FLIPS = 100_000


@dataclass(frozen=True, slots=True)
class Target:
    """A figure in which models are compared.

    Attributes:
        name: A subset, a section, ``score`` or ``all rows``.
        kind: ``subset``, ``section``, ``score`` or ``all rows``.
        weights: What each subset's mean weighs in it; they add up to one.
    """

    name: str
    kind: str
    weights: Weights


def comparison_targets(format: str, rows: dict[str, int]) -> list[Target]:
    """The score of a known benchmark, all rows, its sections, and the subsets; each figure once.

    Args:
        format: The benchmark's format.
        rows: The number of rows of each subset.
    """
    total = sum(rows.values())
    found = [Target("all rows", "all rows", {name: count / total for name, count in rows.items()})]
    rules = find_rules(format, list(rows))
    if rules is not None:
        layout = lay_out(rules, rows, by_rows=rules.by_rows)
        found.insert(0, Target("score", "score", layout.score))
        found += [Target(section, "section", weights) for section, weights in layout.sections.items()]
    found += [Target(name, "subset", {name: 1.0}) for name in rows]
    different: list[Target] = []
    for target in found:
        if not any(_same(target.weights, other.weights) for other in different):
            different.append(target)
    return different


def paired_difference(first: Values, second: Values, weights: Weights, seed: int = 0) -> dict[str, Any]:
    """The difference of two models' weighted means over the same rows.

    The interval is a paired bootstrap's: rows are drawn anew within each subset. With few rows on which the models
    differ it is too narrow; go by ``p`` there. That is exact where all rows count alike and each is right or wrong:
    McNemar's test, a sign test on the rows on which the models differ. Otherwise the signs of the rows' differences
    are flipped at random, which asks the same: how often would models that are as good as one another, and exchanged
    at random in every row, be as far apart?

    Source: McNemar 1947; Efron 1979; Fisher's randomisation test.

    Args:
        first: How each row counts for the first model, from 0 to 1, by subset ``(N,)``.
        second: The same for the second model, in the same order.
        weights: What each subset's mean weighs.
        seed: Of the random draws.

    Returns:
        ``difference`` (first minus second), ``low``, ``high`` (95 %), ``n``, how many rows are better for each
        (``first_better``, ``second_better``) or ``equal``, ``p`` (two-sided) and the ``test``.
    """
    generator = np.random.default_rng(seed)
    rows = {name: first[name] - second[name] for name in weights}
    means = np.zeros(_BOOTSTRAP)
    for name, each in rows.items():
        values, counts = np.unique(each, return_counts=True)
        drawn = generator.multinomial(len(each), counts / len(each), _BOOTSTRAP)
        means += weights[name] * (drawn @ values) / len(each)
    low, high = np.quantile(means, [0.025, 0.975])
    every = np.concatenate(list(rows.values()))
    terms = np.concatenate([weights[name] / len(each) * each for name, each in rows.items()])
    p, test = _sign_flip_test(terms, np.random.default_rng(seed))  # of its own: p does not depend on who comes first
    return {
        "difference": float(sum(weights[name] * each.mean() for name, each in rows.items())),
        "low": float(low),
        "high": float(high),
        "n": len(every),
        "first_better": int((every > 0).sum()),
        "second_better": int((every < 0).sum()),
        "equal": int((every == 0).sum()),
        "p": p,
        "test": test,
    }


def holm(values: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number, so that the chance of one false alarm among all is at most theirs.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".

    Args:
        values: One per comparison.
    """
    corrected = [0.0] * len(values)
    largest = 0.0
    for done, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        largest = max(largest, min(1.0, (len(values) - done) * values[place]))
        corrected[place] = largest
    return corrected


def _sign_flip_test(terms: Column, generator: np.random.Generator) -> tuple[float, str]:
    """Two-sided p of a sum whose terms may as well have had the other sign, and how it was found."""
    sizes, counts = np.unique(np.round(np.abs(terms[terms != 0]), 12), return_counts=True)
    if len(sizes) < 2:
        return _mcnemar(int((terms > 0).sum()), int((terms < 0).sum())), "exact McNemar"
    sums = np.zeros(_FLIPS)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2.0 * generator.binomial(count, 0.5, _FLIPS) - count)
    as_far = int((np.abs(sums) >= abs(float(terms.sum())) - 1e-9).sum())
    return (1 + as_far) / (1 + _FLIPS), "random signs"


def _mcnemar(better: int, worse: int) -> float:
    n = better + worse
    return min(1.0, 2 * sum(comb(n, k) for k in range(max(better, worse), n + 1)) / 2**n)


def _same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(abs(first[name] - second[name]) < 1e-12 for name in first)
