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
        where = [f"above {self.low:g}"] * (self.low > -math.inf) + [f"below {self.high:g}"] * (self.high < math.inf)
        region = " and ".join(where)
        return f"holds if the 95 % interval over seeds of [{self.effect}] lies {region}; does not if it lies outside"

    @property
    def row(self) -> str:
        """The row of the list of studies that it belongs to, such as ``s8``: the beginning of its id."""
        return self.id.split("_")[0]

    @property
    def rows(self) -> set[str]:
        """That row; and S10, whatever is measured on prompts of unseen kinds."""
        return rows_of(self.id, self.effect)

    def judge(self, measurements: list[Measurement]) -> dict[str, Any]:
        """The claim's row of ``summary.json``. The verdict goes by Student's interval, as its criterion says."""
        found = [value for value in map(self.measure, measurements) if value is not None]
        values = np.array(found, dtype=float)
        low, high = student_interval(values)
        return {
            "id": self.id,
            "claim": self.claim,
            "paper": self.paper,
            "criterion": self.criterion,
            "measured": self.effect,
            "effect": float(values.mean()) if len(values) else None,
            "ci_low": low,
            "ci_high": high,
            "low": self.low if self.low > -math.inf else None,
            "high": self.high if self.high < math.inf else None,
            "seeds": len(values),
            "values": found,
            **beside(found, self.low, self.high),
            "verdict": verdict(low, high, self.low, self.high),
            "rows": sorted(self.rows),
            "note": self.note,
            "remark": self.remark,
        }


def verdict(ci_low: float | None, ci_high: float | None, low: float, high: float) -> Verdict:
    """*holds* where the interval lies inside (low, high), *does not hold* where it lies outside, else *undecided*."""
    if ci_low is None or ci_high is None:
        return "undecided"
    if low < ci_low and ci_high < high:
        return "holds"
    return "does not hold" if ci_high <= low or ci_low >= high else "undecided"


def rows_of(claim: str, effect: str) -> set[str]:
    """The rows of studies that a claim belongs to: that of its id; S10, too, where unseen kinds of prompts are meant.

    Args:
        claim: Its id.
        effect: What is measured, in words.
    """
    row = claim.split("_")[0]
    return {row, "s10"} if "unseen" in effect else {row}


def beside(values: list[float], low: float | None, high: float | None) -> dict[str, float | None]:
    """What stands beside the verdict without deciding it: a bootstrap's interval over seeds and the sign test's p.

    Args:
        values: One per seed.
        low: The criterion's lower bound, if any.
        high: Its upper bound, if any.
    """
    column = np.array(values, dtype=float)
    ends = bootstrap_interval(column, draws=10_000) if len(values) > 1 else (None, None)
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    return {"bootstrap_low": ends[0], "bootstrap_high": ends[1], "sign_p": sign_test(column, *bounds)}


def completed(summary: Summary) -> Summary:
    """A summary of an older version with the figures that it lacks, computed from its values of every seed."""
    claims = [
        row | beside(row["values"], row["low"], row["high"]) | {"rows": sorted(rows_of(row["id"], row["measured"]))}
        for row in summary["claims"]
    ]
    return summary | {"claims": claims}


def verdict_text(row: dict[str, Any]) -> str:
    """A claim's verdict in words; of an undecided one, at how many seeds it is so."""
    return row["verdict"] if row["verdict"] != "undecided" else f"undecided at {row['seeds']} seeds"
