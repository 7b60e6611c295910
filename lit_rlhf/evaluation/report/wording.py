"""The rows of claims, the papers that they come from, and how verdicts and numbers are written."""

from dataclasses import dataclass
from typing import Any

CONTRASTIVE = "Contrastive rewards"
SECRETS = "Secrets of RLHF II, MetaRM"
SEQ2SEQ = "Seq2seq reward models"
PAPERS = {
    CONTRASTIVE: ("arXiv 2403.07708", "https://arxiv.org/abs/2403.07708"),
    SECRETS: ("arXiv 2401.06080, 2405.00438", "https://arxiv.org/abs/2401.06080"),
    SEQ2SEQ: ("arXiv 2409.00162", "https://arxiv.org/abs/2409.00162"),
}
CLASSES = {"holds": "holds", "does not hold": "fails", "undecided": "open"}
"""A verdict's name in the page's style."""


@dataclass(frozen=True)
class Row:
    """A row of claims.

    Attributes:
        title: What they are about.
        paper: Where they come from; an empty one is nobody's in particular.
        studies: The studies that measure them.
    """

    title: str
    paper: str
    studies: tuple[str, ...]


ROWS = {
    "s1": Row("Preference strength finds flipped labels", SECRETS, ("reward",)),
    "s2": Row("What each tenth of strength teaches", SECRETS, ("reward",)),
    "s3": Row("Flipping the weakest tenth repairs it", SECRETS, ("reward",)),
    "s4": Row("Treated labels over several epochs", SECRETS, ("reward",)),
    "s5": Row("KL without a penalty, by treated reward models", SECRETS, ("reward",)),
    "s6": Row("Contrastive losses in the reward model", SECRETS, ("reward",)),
    "s7": Row("MetaRM under a shifted policy", SECRETS, ("reward", "ppo")),
    "s8": Row("Contrastive rewards in PPO", CONTRASTIVE, ("ppo",)),
    "s9": Row("A rewriter as reward model", SEQ2SEQ, ("seq2seq",)),
    "s10": Row("All of it on unseen kinds of prompts", "", ("reward", "seq2seq", "ppo")),
    "over": Row("Over-optimisation of a weak reward model", "", ("ppo",)),
}


def label(row: str) -> str:
    """``S1`` for ``s1``; a row without a number by a word."""
    return row.upper() if row[1:].isdigit() else "Over"


def home(claim: dict[str, Any]) -> str:
    """The row that a claim stands in: that of its id."""
    return claim["id"].split("_")[0]


def paper_of(claim: dict[str, Any]) -> str:
    """The paper that a claim comes from; those of unseen prompts by what else they are about."""
    row = home(claim)
    if row == "s10":
        return {"reward": SECRETS, "seq2seq": SEQ2SEQ, "ppo": CONTRASTIVE}[claim["study"]] if "study" in claim else ""
    return ROWS[row].paper if row in ROWS else ""


def counts(claims: list[dict[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict."""
    return {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in CLASSES}


def number(value: float | None, signed: bool = False) -> str:
    """Three digits at most behind the point, with a true minus."""
    if value is None:
        return "–"
    digits = 3 if abs(value) < 10 else 1
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """An interval in brackets."""
    return f"[{number(low)}, {number(high)}]"
