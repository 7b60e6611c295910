"""Claims: what is said, the criterion by which it is judged, and the verdict that the figures of all seeds give."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lit_rlhf.evaluation.statistics import bootstrap_interval, sign_test, student_interval

Measurement = dict[str, Any]
Summary = dict[str, Any]
Verdict = Literal["holds", "does not hold", "undecided"]
Interval = tuple[float, float] | tuple[None, None]


@dataclass(frozen=True)
class Claim:
    """A claim and the criterion by which it is judged: where its effect must lie.

    Attributes:
        id: Short name.
        claim: What is claimed, in a sentence.
        paper: What the paper found, and where.
        effect: What is measured, in words.
        measure: The effect of one seed; None where this seed says nothing.
        low: The effect must lie above this.
        high: The effect must lie below this.
        note: The likely reason, where a claim does not hold.
        remark: What is to be known whatever the verdict.
    """

    id: str
    claim: str
    paper: str
    effect: str
    measure: Callable[[Measurement], float | None]
    low: float = -math.inf
    high: float = math.inf
    note: str = ""
    remark: str = ""

    @property
    def criterion(self) -> str:
        """The rule in words."""
        return criterion(self.effect, self.low, self.high)

    @property
    def row(self) -> str:
        """The row of the list of studies that it belongs to, such as ``s8``: the beginning of its id."""
        return self.id.split("_")[0]

    @property
    def rows(self) -> set[str]:
        """That row; and S10, whatever is measured on prompts of unseen kinds."""
        return rows_of(self.id, self.effect)

    def judge(self, measurements: list[Measurement]) -> dict[str, Any]:
        """The claim's row of ``summary.json``, with the verdict."""
        found = [value for value in map(self.measure, measurements) if value is not None]
        return {
            "id": self.id,
            "claim": self.claim,
            "paper": self.paper,
            "criterion": self.criterion,
            "measured": self.effect,
            "low": self.low if self.low > -math.inf else None,
            "high": self.high if self.high < math.inf else None,
            "seeds": len(found),
            "values": found,
            **judged(found, self.low, self.high),
            "rows": sorted(self.rows),
            "note": self.note,
            "remark": self.remark,
        }


def criterion(effect: str, low: float, high: float) -> str:
    """The rule by which a claim is judged, in words.

    Args:
        effect: What is measured, in words.
        low: The effect must lie above this.
        high: The effect must lie below this.
    """
    where = [f"above {low:g}"] * (low > -math.inf) + [f"below {high:g}"] * (high < math.inf)
    return (
        f"holds if both 95 % intervals over seeds of [{effect}], Student's and a bootstrap's, lie "
        f"{' and '.join(where)}, and the sign test agrees; does not if both lie outside, and it agrees"
    )


def judged(values: list[float], low: float, high: float) -> dict[str, Any]:
    """The effect, its two 95 % intervals over seeds, the sign test's p, and the verdict that these give together.

    *Holds* where both intervals lie inside (low, high), *does not hold* where both lie outside, on one side, each only
    if the sign test finds that as few seeds on the wrong side are no accident (p ≤ .05); *undecided* otherwise. None of
    the three is enough for a handful of seeds: Student's interval takes their effects for normal, a bootstrap's is too
    narrow, the sign test does not ask how large an effect is.

    Args:
        values: The effect, one per seed.
        low: The effect must lie above this; minus infinity is no bound.
        high: The effect must lie below this; infinity is no bound.
    """
    column = np.array(values, dtype=float)
    student = student_interval(column)
    bootstrap = bootstrap_interval(column, draws=10_000) if len(values) > 1 else (None, None)
    effect = float(column.mean()) if len(values) else None
    inside = effect is not None and low < effect < high
    p = sign_test(column, low, high, inside)
    agreed = p is not None and p <= 0.05
    return {
        "effect": effect,
        "ci_low": student[0],
        "ci_high": student[1],
        "bootstrap_low": bootstrap[0],
        "bootstrap_high": bootstrap[1],
        "sign_p": p,
        "verdict": verdict([student, bootstrap], low, high) if agreed else "undecided",
    }


def verdict(intervals: list[Interval], low: float, high: float) -> Verdict:
    """*holds* where all intervals lie inside (low, high), *does not hold* where all lie on one side of it."""
    known = [(start, end) for start, end in intervals if start is not None and end is not None]
    if len(known) < len(intervals):
        return "undecided"
    if all(low < start and end < high for start, end in known):
        return "holds"
    below, above = all(end <= low for _, end in known), all(start >= high for start, _ in known)
    return "does not hold" if below or above else "undecided"


def rows_of(claim: str, effect: str) -> set[str]:
    """The rows of studies that a claim belongs to: that of its id; S10, too, where unseen kinds of prompts are meant.

    Args:
        claim: Its id.
        effect: What is measured, in words.
    """
    row = claim.split("_")[0]
    return {row, "s10"} if "unseen" in effect else {row}


def rejudged(summary: Summary) -> Summary:
    """A summary of an older version, judged from its values of every seed as one of today is."""
    claims = []
    for row in summary["claims"]:
        low, high = -math.inf if row["low"] is None else row["low"], math.inf if row["high"] is None else row["high"]
        text = criterion(row["measured"], low, high)
        new = {"criterion": text, "rows": sorted(rows_of(row["id"], row["measured"]))}
        claims.append(row | judged(row["values"], low, high) | new)
    return summary | {"claims": claims}


def verdict_text(row: dict[str, Any]) -> str:
    """A claim's verdict in words; of an undecided one, at how many seeds it is so."""
    return row["verdict"] if row["verdict"] != "undecided" else f"undecided at {row['seeds']} seeds"
