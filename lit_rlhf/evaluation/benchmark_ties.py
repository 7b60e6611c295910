"""The subset Ties of RewardBench 2: questions with several right answers, and its composite score."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, tanh
from typing import Any

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.fields import field

WEIGHTS = {
    "tied_accuracy": 0.30,
    "ref_accuracy": 0.30,
    "correctness_preferred": 0.20,
    "correctness_preferred_hard": 0.20,
    "correctness_margin_score": 0.01,
}
"""What the composite score is made of. They add up to 1.01: a perfect score is above 1."""

_ID = re.compile(r"(ref|tied):(\d+)")


@dataclass(frozen=True, slots=True)
class Answers:
    """The scores of a question's answers, as `ties_figures` needs them.

    Attributes:
        id: ``ref:N`` or ``tied:N``.
        correct: The scores of the correct answers.
        incorrect: The scores of the incorrect answers.
    """

    id: str
    correct: list[float]
    incorrect: list[float]

    @property
    def gap(self) -> float:
        """How far the lowest of the correct answers is above the highest of the incorrect ones."""
        return min(self.correct) - max(self.incorrect)

    @property
    def spread(self) -> float:
        """How far the correct answers lie apart."""
        return max(self.correct) - min(self.correct)


def is_ties(subset: str) -> bool:
    """Whether a subset is RewardBench 2's Ties; the authors compare the name without regard to case."""
    return subset.lower() == "ties"


def check_ties_id(name: str) -> None:
    """Refuse the id of a row of Ties that does not tell which question it is.

    Raises:
        DataError: If it is neither ``ref:N`` nor ``tied:N``.
    """
    if not _ID.fullmatch(name):
        hint = "Is this RewardBench 2? If not, give the subset another name than Ties."
        raise DataError(f"rows of Ties are 'ref:N' or 'tied:N', found '{excerpt(name)}'", field("id"), hint)


def ties_figures(rows: Iterable[Answers]) -> dict[str, Any]:
    """The composite score of Ties, and what it is made of.

    Each question is asked twice: ``ref:N`` with one correct answer, ``tied:N`` with several. With a question's gap
    (lowest correct minus highest incorrect answer) and spread (highest minus lowest correct answer):

    - ``ref_accuracy`` and ``tied_accuracy``: the share of questions with gap > 0; equal scores are wrong;
    - ``correctness_preferred``: the share of questions whose tied gap > tied spread;
    - ``correctness_preferred_hard``: the same with the smaller of the tied and the reference gap;
    - ``correctness_margin_score``: the mean of tanh(smaller gap / spread − 1). Where the spread is 0 that is 1 for a
      positive gap, −1 for a negative one, and 0 for none.

    The score is .30 tied_accuracy + .30 ref_accuracy + .20 correctness_preferred + .20 correctness_preferred_hard +
    .01 correctness_margin_score. It lies between −.01 and 1.01. The last three are over questions that are there in
    both forms; without any, the authors' code gives NaN, and here the score is null. Rows of the same id are one
    question, as there. A tied question with a single correct answer, at which their code stops, has spread 0.

    Source: allenai/reward-bench, rewardbench/utils.py (process_single_model), as of January 2026. Before 12 June 2025 a
    spread and a gap of 0 gave NaN there. The ``results`` that published tables hold for rows of Ties are those of best
    of n: they are not what this score is made of.

    Args:
        rows: The questions, each in both forms.

    Returns:
        ``score``, its parts by name, and how many questions there are: ``ref``, ``tied``, and ``both``.
    """
    forms: dict[str, dict[int, Answers]] = {"ref": {}, "tied": {}}
    for row in rows:
        form, text = row.id.split(":")
        before = forms[form].get(number := int(text))
        if before is not None:
            row = Answers(row.id, before.correct + row.correct, before.incorrect + row.incorrect)
        forms[form][number] = row
    both = sorted(forms["ref"].keys() & forms["tied"].keys())
    pairs = [(forms["ref"][number], forms["tied"][number]) for number in both]
    parts = {
        "tied_accuracy": _mean([float(row.gap > 0) for row in forms["tied"].values()]),
        "ref_accuracy": _mean([float(row.gap > 0) for row in forms["ref"].values()]),
        "correctness_preferred": _mean([float(tied.gap > tied.spread) for _, tied in pairs]),
        "correctness_preferred_hard": _mean([float(min(ref.gap, tied.gap) > tied.spread) for ref, tied in pairs]),
        "correctness_margin_score": _mean([_margin_score(min(ref.gap, tied.gap), tied.spread) for ref, tied in pairs]),
    }
    known = [weight * part for weight, part in zip(WEIGHTS.values(), parts.values(), strict=True) if part is not None]
    counts = {form: len(questions) for form, questions in forms.items()} | {"both": len(both)}
    return {"score": sum(known) if len(known) == len(parts) else None, **parts, **counts}


def _margin_score(gap: float, spread: float) -> float:
    if not spread:
        return tanh(inf if gap > 0 else -inf) if gap else 0.0
    return tanh(gap / spread - 1)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
