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
SCOPE = (
    "Claims on unseen kinds of prompts stand in their own row and in S10. Nothing was trained on these: other topics, "
    "other wordings, and combinations that were kept out."
)


@dataclass(frozen=True)
class Row:
    """A row of claims.

    Attributes:
        title: What they are about.
        paper: Where they come from; an empty one is nobody's in particular.
        headline: The claim that says most about them.
    """

    title: str
    paper: str
    headline: str


ROWS = {
    "s1": Row("Preference strength finds flipped labels", SECRETS, "s1_finds"),
    "s2": Row("What each tenth of strength teaches", SECRETS, "s2_weakest"),
    "s3": Row("Flipping the weakest tenth repairs it", SECRETS, "s3_flip_first"),
    "s4": Row("Treated labels over several epochs", SECRETS, "s4_baseline_falls"),
    "s5": Row("KL without a penalty, by treated reward models", SECRETS, "s5_even"),
    "s6": Row("Contrastive losses in the reward model", SECRETS, "s6_simcse_pairs_unseen"),
    "s7": Row("MetaRM under a shifted policy", SECRETS, "s7_meta"),
    "s8": Row("Contrastive rewards in PPO", CONTRASTIVE, "s8_flips"),
    "s9": Row("A rewriter as reward model", SEQ2SEQ, "s9_beats_sft_seen"),
    "s10": Row("All of it on unseen kinds of prompts", "", "s9_beats_sft_unseen"),
    "over": Row("Over-optimisation of a weak reward model", "", "over_gold"),
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


_PLURAL = {"holds": "hold", "does not hold": "do not hold", "undecided": "undecided"}


def words(found: dict[str, int]) -> str:
    """Numbers of verdicts as a sentence, such as "5 hold, 1 does not hold"."""
    return ", ".join(f"{n} {verdict if n == 1 else _PLURAL[verdict]}" for verdict, n in found.items() if n)


def counts(claims: list[dict[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict."""
    return {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in CLASSES}


def number(value: float | None, signed: bool = False) -> str:
    """Three digits behind the point, with a true minus."""
    if value is None:
        return "–"
    digits = 3 if abs(value) < 100 else 1
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """An interval in brackets."""
    return f"[{number(low)}, {number(high)}]"
