"""The forms of a table of per-item scores: this project's, RewardBench's, RewardBench 2's, RM-Bench's, JudgeBench's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lit_rlhf.data import fields
from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.fields import Row, describe, field, has, listed, require
from lit_rlhf.evaluation.benchmark_ties import check_ties_id, is_ties
from lit_rlhf.evaluation.benchmarks import FORMATS, STYLES, BenchmarkFormat, row_id


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One question with a model's scores.

    Attributes:
        format: How the question counts.
        subset: The part of the benchmark that it belongs to.
        id: The question's own name; may be empty.
        digest: Sixteen hexadecimal digits of prompt and responses; empty in other people's tables.
        gold: How good each response is, chosen before rejected ones.
        scores: One per response; None where a text was too long for the model.
        lengths: Characters of each response; None where they are not known.
        location: ``file:line``.
    """

    format: BenchmarkFormat
    subset: str
    id: str
    digest: str
    gold: tuple[float, ...]
    scores: tuple[float, ...] | None
    lengths: tuple[int, ...] | None
    location: str


def _read_ours(row: Row) -> tuple[str, ScoredItem]:
    """What `write_scores` writes."""
    format: BenchmarkFormat | None = next((each for each in FORMATS if each == row["format"]), None)
    if format is None:
        raise DataError(f"{excerpt(str(row['format']))!r} is unknown; known are {', '.join(FORMATS)}", field("format"))
    gold = _numbers(row["gold"], "gold")
    scores = None if row["scores"] is None else _numbers(row["scores"], "scores", len(gold))
    lengths = tuple(map(int, _numbers(row["lengths"], "lengths", len(gold)))) if has(row, "lengths") else None
    digest = fields.text(row["digest"], "digest") if has(row, "digest") else ""
    return _model(row), _item(row, format, gold, scores, digest, lengths)


def _read_judge_bench(row: Row) -> tuple[str, ScoredItem]:
    """JudgeBench's results: ``pair_id``, ``label``, ``scores`` of A and B, ``decision``, or these in ``judgments``.

    The response that the label prefers becomes the chosen one.
    """
    judged = row
    if has(row, "judgments"):  # the authors' files: the same pair in both orders, of which the first is the file's
        judgments = row["judgments"]
        if not isinstance(judgments, list) or not judgments or not isinstance(judgments[0], dict):
            raise DataError(f"expected a list of judgments, found {describe(judgments)}", field("judgments"))
        inner = judgments[0].get("judgment")
        judged = row | judgments[0] | (inner if isinstance(inner, dict) else {})
    label = require(row, "label")
    if label not in ("A>B", "B>A"):
        raise DataError(f"expected 'A>B' or 'B>A', found {excerpt(str(label))!r}", field("label"))
    if not has(judged, "scores"):
        hint = "Only judges that score each response, reward models, can be counted."
        raise DataError("missing: this judge gives no scores", field("scores"), hint)
    a, b = _numbers(judged["scores"], "scores", 2)
    decision = judged.get("decision")
    if decision in ("A>B", "B>A") and a != b and (a > b) != (decision == "A>B"):
        message = f"says {decision}, but the scores are {a:g} and {b:g}"
        raise DataError(message, field("decision"), "Is lower better in this table? Then turn its signs.")
    named = row | {"id": row.get("pair_id"), "subset": row.get("subset", row.get("source"))}
    better_first = (a, b) if label == "A>B" else (b, a)
    return _model(judged), _item(named, "reward-bench", (1.0, 0.0), better_first)


def _read_reward_bench(row: Row) -> tuple[str, ScoredItem]:
    """RewardBench's per-item scores: ``scores_chosen``, ``scores_rejected``, ``subset``, ``id``, ``results``."""
    both: list[float] = []
    for name in ("scores_chosen", "scores_rejected"):
        if row.get(name) is None:
            raise DataError("is null", field(name), "Models that compare two responses have no scores of each.")
        both.append(_number(row[name], name))
    chosen, rejected = both
    result = row.get("results")
    if result in (0, 1) and chosen != rejected and (chosen > rejected) != bool(result):
        message = f"says {result}, but the scores are {chosen:g} (chosen) and {rejected:g} (rejected)"
        raise DataError(message, field("results"), "Is lower better in this table? Then turn its signs.")
    return _model(row), _item(row, "reward-bench", (1.0, 0.0), (chosen, rejected))


def _read_reward_bench_2(row: Row) -> tuple[str, ScoredItem]:
    """RewardBench 2's per-item scores: ``scores`` of all responses, the first ``num_correct`` of which are right."""
    scores = _numbers(require(row, "scores"), "scores")
    correct = fields.number(require(row, "num_correct"), "num_correct")
    if correct != int(correct) or not 0 < correct < len(scores):
        message = (
            f"expected a whole number from 1 to {len(scores) - 1}, found {correct:g}: there are {len(scores)} scores"
        )
        raise DataError(message, field("num_correct"))
    gold = (1.0,) * int(correct) + (0.0,) * (len(scores) - int(correct))
    return _model(row), _item(row, "best-of-n", gold, scores)


def _read_rm_bench(row: Row) -> tuple[str, ScoredItem]:
    """RM-Bench's results: three ``score_chosen`` and ``score_rejected`` in the order of style, ``domain``, ``id``."""
    scores = [
        score
        for name in ("score_chosen", "score_rejected")
        for score in _numbers(require(row, name), name, len(STYLES))
    ]  # fmt: skip
    named = row | {"subset": require(row, "domain")}
    return _model(row), _item(named, "rm-bench", (1.0,) * 3 + (0.0,) * 3, tuple(scores))


def _item(
    row: Row,
    format: BenchmarkFormat,
    gold: tuple[float, ...],
    scores: tuple[float, ...] | None,
    digest: str = "",
    lengths: tuple[int, ...] | None = None,
) -> ScoredItem:
    name = row_id(row)
    subset = fields.text(row["subset"], "subset") if has(row, "subset") else "all"
    if format == "best-of-n" and is_ties(subset) and name:
        check_ties_id(name)
    return ScoredItem(format, subset, name, digest, gold, scores, lengths, "")


def _model(row: Row) -> str:
    value = row.get("model") or row.get("judge_model") or ""
    return fields.text(value, "model")


def _numbers(value: Any, name: str, count: int | None = None) -> tuple[float, ...]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        wanted = "a list of numbers" if count is None else f"a list of {count} numbers"
        found = f"{len(value)} of them" if isinstance(value, list) else describe(value)
        raise DataError(f"expected {wanted}, found {found}", field(name))
    return tuple(_number(each, f"{name}[{place}]") for place, each in enumerate(value))


def _number(value: Any, name: str) -> float:
    """A number, also one alone in a list, as classifiers with a single label give them."""
    return fields.number(value[0] if isinstance(value, list) and len(value) == 1 else value, name)


@dataclass(frozen=True, slots=True)
class _Form:
    fits: Callable[[Row], bool]
    read: Callable[[Row], tuple[str, ScoredItem]]
    fields: str


FORMS = {
    "evaluate": _Form(lambda row: has(row, "format", "gold") and "scores" in row, _read_ours, "format, gold, scores"),
    "RewardBench": _Form(
        lambda row: "scores_chosen" in row and "scores_rejected" in row,
        _read_reward_bench,
        "id, subset, scores_chosen, scores_rejected, results",
    ),
    "RM-Bench": _Form(
        lambda row: "score_chosen" in row and "score_rejected" in row,
        _read_rm_bench,
        "id, domain, score_chosen, score_rejected",
    ),
    "RewardBench 2": _Form(
        lambda row: "scores" in row and "num_correct" in row,
        _read_reward_bench_2,
        "id, subset, scores, num_correct",
    ),
    "JudgeBench": _Form(
        lambda row: "label" in row and ("scores" in row or "judgments" in row or "decision" in row),
        _read_judge_bench,
        "pair_id, subset, label, judge_model, scores, decision",
    ),
}
"""Forms of tables by whose they are, in the order in which they are tried."""


def detect_form(row: Row) -> str:
    """The form that a row's fields fit.

    Raises:
        DataError: If they fit none.
    """
    for name, form in FORMS.items():
        if form.fits(row):
            return name
    known = "; ".join(f"{name}: {form.fields}" for name, form in FORMS.items())
    raise DataError(f"no known table of scores has the fields of this row: {listed(row)}", hint=f"Known are {known}")
