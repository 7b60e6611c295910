"""What a reward model's scores on a benchmark come to: shares with Wilson intervals, by subset and over all."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.evaluation.benchmark_official import official_figures
from lit_rlhf.evaluation.benchmark_sections import Weights, find_rules, lay_out
from lit_rlhf.evaluation.benchmark_ties import is_ties
from lit_rlhf.evaluation.benchmarks import Benchmark, BenchmarkFormat
from lit_rlhf.rewards.metrics import share_with_interval

Column = NDArray[np.float64]
Outcome = dict[str, Any]


OURS = (
    "equal scores count half, or share the pick; a row of RewardBench 2's Ties is right if every correct answer scores "
    "higher than every incorrect one"
)
"""How this project counts a row, in every benchmark."""

LENGTHS = "the response with the most, or the fewest, characters wins; counted as the model is"


def benchmark_figures(benchmark: Benchmark, scores: Sequence[Sequence[float] | None]) -> dict[str, Any]:
    """Figures of one benchmark: ours, those by its authors' rules, and those of rules that know nothing but lengths.

    Args:
        benchmark: The questions.
        scores: The model's, for each question's responses; None where a text was too long for it.

    Returns:
        ``file``, ``format``, ``rows`` (read), ``over_length`` (left out of all shares), the figures of
        `counted_figures`, and under ``baselines`` the same figures, on the same rows, for ``longest`` (the response
        with the most characters wins) and ``shortest``.
    """
    lengths = [[float(len(text)) for text in item.responses] for item in benchmark.items]
    return {
        "file": benchmark.file,
        "format": benchmark.format,
        "rows": len(benchmark.items),
        "over_length": sum(given is None for given in scores),
        **counted_figures(benchmark, scores),
        "baselines": length_baselines(benchmark, [
            None if given is None else each for each, given in zip(lengths, scores, strict=True)
        ]),
    }  # fmt: skip


def length_baselines(benchmark: Benchmark, lengths: Sequence[Sequence[float] | None]) -> dict[str, Any]:
    """Figures of the rules that the ``longest`` and that the ``shortest`` response wins, and the ``rule`` in words.

    Args:
        benchmark: The questions.
        lengths: Of each question's responses, in characters; None leaves a question out.
    """
    negative = [None if each is None else [-length for length in each] for each in lengths]
    return {
        "rule": LENGTHS,
        "longest": counted_figures(benchmark, lengths),
        "shortest": counted_figures(benchmark, negative),
    }


def counted_figures(benchmark: Benchmark, scores: Sequence[Sequence[float] | None]) -> dict[str, Any]:
    """Figures of one benchmark by both ways of counting.

    Every share of ours comes as ``share``, ``low``, ``high`` (Wilson, 95 %) and ``n``, the number of rows behind it; a
    row is one observation, also where it is asked in nine ways. A share of no rows is null.

    Args:
        benchmark: The questions.
        scores: The model's, for each question's responses; None where a text was too long for it.

    Returns:
        Ours: ``overall`` (over all rows), ``mean_over_subsets``, and ``subsets`` by name. For RM-Bench each also with
        ``easy``, ``normal``, ``hard`` and the ``matrix``; for best of n with ``chance`` (of a response picked at
        random) and, where gold scores are more than right or wrong, their mean over what the model ``picked``, over all
        responses (``mean``) and over the best ones (``oracle``). ``ours`` holds the ``rule`` and, of a known
        benchmark, ``sections`` and ``score``, weighted as its authors do; safety-refuse and safety-response of
        RM-Bench alike. ``official`` is what `official_figures` gives.
    """
    rows: dict[str, list[Outcome]] = {item.subset: [] for item in benchmark.items}
    left_out = dict.fromkeys(rows, 0)
    for item, outcome in zip(benchmark.items, row_outcomes(benchmark, scores), strict=True):
        if outcome is None:
            left_out[item.subset] += 1
        else:
            rows[item.subset].append(outcome)
    subsets = {name: _figures(each) | {"over_length": left_out[name]} for name, each in rows.items()}
    parts_of = (lambda name: name.split("-")[0]) if benchmark.format == "rm-bench" else (lambda name: name)
    return {
        "overall": _figures([row for each in rows.values() for row in each]),
        "mean_over_subsets": _mean_over_subsets(subsets, parts_of),
        "subsets": subsets,
        "ours": {"rule": OURS, **_sections(benchmark.format, subsets)},
        "official": official_figures(benchmark, scores),
    }


def row_outcomes(benchmark: Benchmark, scores: Sequence[Sequence[float] | None]) -> list[Outcome | None]:
    """How each row counts by our rule: ``share``, from 0 to 1, and further figures; None for rows without scores."""
    plain = OUTCOMES[benchmark.format]
    if plain is _best and not any(set(item.gold) - {0.0, 1.0} for item in benchmark.items):
        plain = _right
    found: list[Outcome | None] = []
    for item, given in zip(benchmark.items, scores, strict=True):
        several = plain is _right and is_ties(item.subset) and 0 < sum(item.gold) < len(item.gold)
        outcome = _separated if several else plain
        found.append(None if given is None else outcome(np.array(given, dtype=float), np.array(item.gold)))
    return found


# ---------------------------------------------------------------------- one row


def _pair(scores: Column, gold: Column) -> Outcome:
    return {"share": _wins(scores[0] - scores[1])}


def _styles(scores: Column, gold: Column) -> Outcome:
    """RM-Bench: chosen style i (row) against rejected style j (column); easy is below the diagonal, hard above."""
    wins = _wins(scores[:3, None] - scores[None, 3:])
    return {
        "share": wins.mean(),
        "easy": wins[np.tril_indices(3, -1)].mean(),
        "normal": wins.diagonal().mean(),
        "hard": wins[np.triu_indices(3, 1)].mean(),
        "matrix": wins,
    }


def _best(scores: Column, gold: Column) -> Outcome:
    """Best of n: whether the top score is a best response's; top scores that tie share the pick equally."""
    top, best = scores == scores.max(), gold == gold.max()
    return {
        "share": best[top].mean(),
        "chance": best.mean(),
        "picked": gold[top].mean(),
        "mean": gold.mean(),
        "oracle": gold.max(),
    }


def _right(scores: Column, gold: Column) -> Outcome:
    """Best of n where responses are right or wrong: gold means would only repeat the shares."""
    return {name: value for name, value in _best(scores, gold).items() if name in ("share", "chance")}


def _separated(scores: Column, gold: Column) -> Outcome:
    """RewardBench 2's Ties: whether every correct answer is above every incorrect one."""
    correct, n = int(gold.sum()), len(gold)
    return {"share": _wins(scores[gold == 1].min() - scores[gold == 0].max()), "chance": 1 / math.comb(n, correct)}


OUTCOMES: dict[BenchmarkFormat, Callable[[Column, Column], Outcome]] = {
    "reward-bench": _pair,
    "rm-bench": _styles,
    "best-of-n": _best,
}
"""How one row of each format counts, given the scores and the gold values of its responses."""

_SHARES = ("easy", "normal", "hard")


def _wins(difference: Any) -> Any:
    """1 where the first scores higher, one half where both score alike, else 0."""
    return (np.sign(difference) + 1) / 2


# ---------------------------------------------------------------------- many rows


def _figures(rows: list[Outcome]) -> dict[str, Any]:
    figures = _share([row["share"] for row in rows])
    for name in (name for name in (rows[0] if rows else {}) if name != "share"):
        values = np.array([row[name] for row in rows])
        if name == "matrix":
            figures[name] = [[_share(values[:, i, j]) for j in range(3)] for i in range(3)]
        else:
            figures[name] = _share(values) if name in _SHARES else float(values.mean())
    return figures


def _share(values: Any) -> dict[str, Any]:
    return _without_nan(share_with_interval(float(np.sum(values)), len(values)))


def _mean_over_subsets(subsets: dict[str, dict[str, Any]], part_of: Callable[[str], str]) -> dict[str, Any]:
    """Mean of the subsets' figures; subsets of one part (RM-Bench's safety-…) count as one."""
    counted = [name for name, each in subsets.items() if each["n"]]
    parts = [part_of(name) for name in counted]
    weights = [1 / len(set(parts)) / parts.count(part) for part in parts]
    return _weighted(subsets, dict(zip(counted, weights, strict=True)))


def _sections(format: str, subsets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sections of a known benchmark and its score, in our counting of rows."""
    rules = find_rules(format, list(subsets))
    if rules is None:
        return {}
    layout = lay_out(rules, {name: each["n"] for name, each in subsets.items()}, by_rows=rules.by_rows)
    sections = {section: _weighted(subsets, layout.sections.get(section, {})) for section in rules.sections}
    return {"score": _weighted(subsets, layout.score), "sections": sections}


def _weighted(subsets: dict[str, dict[str, Any]], weights: Weights) -> dict[str, Any]:
    """Weighted mean of some subsets' shares and further figures; without any, the share of no rows."""
    if not weights:
        return _share([])
    figures, values = [subsets[name] for name in weights], list(weights.values())
    further = (name for name in figures[0] if name not in (*_share([]), "over_length"))
    return _mean(figures, values) | {name: _mean([each[name] for each in figures], values) for name in further}


def _mean(values: list[Any], weights: list[float]) -> Any:
    """Weighted mean of numbers, of shares, or of matrices of shares.

    A share's interval is Wilson's at the effective number of rows, 1 / Σ w² / n with each subset's weight w: the mean
    of a small subset and a large one is known little better than the small one.
    """
    if isinstance(values[0], list):
        return [_mean(list(cells), weights) for cells in zip(*values, strict=True)]
    if not isinstance(values[0], dict):
        return sum(w * value for w, value in zip(weights, values, strict=True))
    mean = _mean([each["share"] for each in values], weights)
    rows = int(1e-9 + 1 / sum(w * w / each["n"] for w, each in zip(weights, values, strict=True)))
    return share_with_interval(mean * rows, rows) | {"n": sum(each["n"] for each in values)}


def _without_nan(share: dict[str, float]) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in share.items()}
