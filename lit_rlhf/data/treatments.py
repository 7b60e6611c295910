"""Treatments: what is done with the labels of training pairs, given how strongly voters prefer them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import Configurable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Label:
    """How one pair is to be learned.

    Attributes:
        flipped: Whether chosen and rejected are swapped.
        margin: Score difference that the loss asks for, in score units.
        target: Probability that the label is right, for the loss.
        strength: Mean preference strength of the label as it stands after a flip; NaN where unknown.
    """

    flipped: bool = False
    margin: float = 0.0
    target: float = 1.0
    strength: float = float("nan")


UNTREATED = Label()


@dataclass
class Labels:
    """The labels of all N training pairs, as treatments pass them on.

    Attributes:
        differences: Score differences chosen − rejected by each of M voters, for the label as it stands ``(N, M)``.
        kept: Whether the pair is trained on ``(N,)``.
        flipped: Whether chosen and rejected are swapped ``(N,)``.
        margin: Score difference that the loss asks for ``(N,)``.
        target: Probability that the label is right ``(N,)``.
    """

    differences: Floats
    kept: Bools
    flipped: Bools
    margin: Floats
    target: Floats

    @classmethod
    def untouched(cls, differences: Floats) -> Self:
        """The labels as they were read, with the differences of M voters ``(N, M)``."""
        pairs = len(differences)
        yes, no = np.ones(pairs, dtype=bool), np.zeros(pairs, dtype=bool)
        return cls(differences, yes, no, np.zeros(pairs), np.ones(pairs))

    @property
    def strength(self) -> Floats:
        """Mean over voters of the difference, μ, for the label as it stands ``(N,)``."""
        return self.differences.mean(1)

    @property
    def place(self) -> Floats:
        """Share of the kept pairs that are weaker, from 0 to just below 1; infinite for pairs left out ``(N,)``."""
        order = np.argsort(np.where(self.kept, self.strength, np.inf), kind="stable")
        place = np.full(len(order), np.inf)
        kept = int(self.kept.sum())
        place[order[:kept]] = np.arange(kept) / max(1, kept)
        return place

    def listed(self) -> list[Label | None]:
        """One `Label` per pair, None for those left out."""
        columns = zip(self.kept, self.flipped, self.margin, self.target, self.strength, strict=True)
        return [
            Label(bool(flipped), float(margin), float(target), float(strength)) if kept else None
            for kept, flipped, margin, target, strength in columns
        ]


class Treatment(Configurable, ABC):
    """One step of what is done with the labels; steps are applied in their order, each on what the last one left.

    Source: Wang et al. 2024, "Secrets of RLHF II: Reward Modeling" (arXiv 2401.06080), section 2.

    Attributes:
        by_itself: Whether a pair's label depends on that pair alone, and so may be given in a stream.
    """

    by_itself: bool = False

    @abstractmethod
    def apply(self, labels: Labels) -> Labels:
        """Return the changed labels."""


class Flip(Treatment):
    """Swap chosen and rejected of the pairs that voters doubt most; their strength changes its sign.

    Args:
        fraction: Share of the pairs to flip, the weakest first.
        below: Flip all pairs weaker than this instead; 0 flips those whose label most voters contradict.

    Raises:
        DataError: If the fraction is not between 0 and 1, or both options are given.
    """

    def __init__(self, fraction: float | None = None, below: float | None = None) -> None:
        if fraction is not None and below is not None:
            raise DataError("fraction and below exclude each other", "treatment Flip", "Give one of them.")
        self.fraction, self.below = 0.1 if fraction is None else fraction, below
        self.by_itself = below is not None
        _check_share("Flip, fraction", self.fraction)

    def apply(self, labels: Labels) -> Labels:
        """Swap, before any other treatment sets margins or targets."""
        if (labels.margin != 0).any() or (labels.target != 1).any():
            hint = "List Flip before treatments that set margins or soft labels: they look at the label as it stands."
            raise DataError("comes after a treatment that it would contradict", "treatment Flip", hint)
        weak = labels.strength < self.below if self.below is not None else labels.place < self.fraction
        weak = weak & labels.kept
        differences = np.where(weak[:, None], -labels.differences, labels.differences)
        return replace(labels, differences=differences, flipped=labels.flipped ^ weak)


class Slice(Treatment):
    """Train on the pairs between two quantiles of strength only, or on all but those.

    Args:
        low: Share of the pairs that are weaker than the slice.
        high: Share of the pairs below the slice's upper end.
        drop: Leave the slice out and keep the rest.

    Raises:
        DataError: Unless 0 ≤ low < high ≤ 1.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, drop: bool = False) -> None:
        _check_share("Slice, low", low)
        _check_share("Slice, high", high)
        if not low < high:
            raise DataError(f"low is {low} and high is {high}", "treatment Slice", "Give a low below high.")
        self.low, self.high, self.drop = low, high, drop

    def apply(self, labels: Labels) -> Labels:
        """Leave pairs out."""
        place = labels.place
        inside = (place >= self.low) & (place < self.high)
        return replace(labels, kept=labels.kept & (inside != self.drop))


class SoftLabel(Treatment):
    """Label smoothing: the label is right with probability 1 − α only.

    Args:
        alpha: α.
        only_doubted: Smooth only where the mean strength is negative; otherwise all pairs.

    Raises:
        DataError: If α is not between 0 and 1.
    """

    by_itself = True

    def __init__(self, alpha: float = 0.2, only_doubted: bool = True) -> None:
        _check_share("SoftLabel, alpha", alpha)
        self.alpha, self.only_doubted = alpha, only_doubted

    def apply(self, labels: Labels) -> Labels:
        """Set targets."""
        chosen = labels.strength < 0 if self.only_doubted else np.ones(len(labels.kept), dtype=bool)
        return replace(labels, target=np.where(chosen, 1 - self.alpha, labels.target))


class EnsembleSoftLabel(Treatment):
    """The voters' own probability that the label is right: q = mean over voters of σ(d)."""

    by_itself = True

    def apply(self, labels: Labels) -> Labels:
        """Set targets."""
        return replace(labels, target=(1 / (1 + np.exp(-np.clip(labels.differences, -500, 500)))).mean(1))


class AdaptiveMargin(Treatment):
    """The margin inside the loss is the strength itself, raw and signed.

    Args:
        scale: Factor on the strength.
        clip: Largest margin to either side; None leaves it open.

    Raises:
        DataError: If the clip is negative.
    """

    by_itself = True

    def __init__(self, scale: float = 1.0, clip: float | None = None) -> None:
        if clip is not None and clip < 0:
            raise DataError(f"is {clip}", "treatment AdaptiveMargin, clip", "Give a number of 0 or more.")
        self.scale, self.clip = scale, clip

    def apply(self, labels: Labels) -> Labels:
        """Set margins."""
        limit = np.inf if self.clip is None else self.clip
        return replace(labels, margin=np.clip(self.scale * labels.strength, -limit, limit))


def _check_share(option: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError(f"is {value}", f"treatment {option}", "Give a share from 0 to 1.")
