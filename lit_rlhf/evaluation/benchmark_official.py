"""What a reward model's scores on a public benchmark come to by its authors' own rules."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.evaluation.benchmark_sections import PRIOR_SETS, REWARD_BENCH, REWARD_BENCH_2, Layout, find_rules, lay_out
from lit_rlhf.evaluation.benchmark_ties import Answers, is_ties, ties_figures
from lit_rlhf.evaluation.benchmarks import Benchmark, BenchmarkFormat, Item

Column = NDArray[np.float64]
Parts = dict[str, float]


def official_figures(benchmark: Benchmark, scores: Sequence[Sequence[float] | None]) -> dict[str, Any] | None:
    """Figures of a benchmark as its authors count them; the rules stand in `benchmark_sections` and `ties_figures`.

    Args:
        benchmark: The questions.
        scores: The model's, for each question's responses; None where a text was too long for it.

    Returns:
        None where no subset is one of a known benchmark's. Else the ``benchmark``, the ``rule``, its ``source``, the
        ``score``, ``subsets`` (each ``score`` and ``n``) and ``sections`` (also with their ``missing`` subsets). For
        RM-Bench all with ``easy``, ``normal`` and ``hard``; for RewardBench 2 with the parts of ``ties``; for
        RewardBench with ``score_with_prior_sets`` where the file has some of those.

        The figures are ``partial`` where subsets are ``missing``, ``incomplete`` (rows, of the published number), or
        rows were left out as too long (``over_length``): a section without rows then has the score null and is left
        out of the mean, where the authors' code would give it 0 or stop. ``other_subsets`` belong to no section.
    """
    subsets = list(dict.fromkeys(item.subset for item in benchmark.items))
    rules = find_rules(benchmark.format, subsets)
    if rules is None or not all(_chosen_first(item) for item in benchmark.items):
        return None
    ties: dict[str, Any] | None = None
    counted: dict[str, list[Parts]] = {name: [] for name in subsets}
    tied: dict[str, list[Answers]] = {}
    for item, given in zip(benchmark.items, scores, strict=True):
        if given is None:
            continue
        counted[item.subset].append(_COUNTS[benchmark.format](np.array(given, dtype=float)))
        if rules is REWARD_BENCH_2 and is_ties(item.subset):
            correct = int(sum(item.gold))
            tied.setdefault(item.subset, []).append(Answers(item.id, list(given[:correct]), list(given[correct:])))
    means = {name: _means(rows) for name, rows in counted.items() if rows}
    for name, rows in tied.items():
        ties = _ties(rows)
        means[name] = {"score": ties["score"]}
    layout = lay_out(rules, {name: len(rows) for name, rows in counted.items()})
    over_length = sum(given is None for given in scores)
    found = _partial(layout, {name: len(rows) for name, rows in counted.items()}, over_length)
    return {
        "benchmark": rules.name,
        "rule": rules.rule,
        "source": rules.source,
        **_weighted(means, layout.score),
        **found,
        "sections": {
            section: _weighted(means, layout.sections.get(section, {}))
            | {"n": sum(len(counted[name]) for name in layout.sections.get(section, {})), "missing": missing}
            for section, missing in layout.missing.items()
        },
        "subsets": {name: means[name] | {"n": len(rows)} for name, rows in counted.items() if rows},
        **({"ties": ties} if ties else {}),
        **(_prior_sets(layout, means) if rules is REWARD_BENCH else {}),
    }


# ---------------------------------------------------------------------- one row


def _pair(scores: Column) -> Parts:
    return {"score": float(scores[0] > scores[1])}


def _styles(scores: Column) -> Parts:
    """RM-Bench: easy is a fancier chosen style against a plainer rejected one, below the diagonal; hard above it."""
    wins = scores[:3, None] > scores[None, 3:]
    return {
        "score": float(wins.mean()),
        "easy": float(wins[np.tril_indices(3, -1)].mean()),
        "normal": float(wins.diagonal().mean()),
        "hard": float(wins[np.triu_indices(3, 1)].mean()),
    }


def _best(scores: Column) -> Parts:
    """The authors look at the first response alone: in all subsets but Ties there is one that is right."""
    top = scores.max()
    return {"score": 1 / float((scores == top).sum()) if scores[0] == top else 0.0}


_COUNTS: dict[BenchmarkFormat, Callable[[Column], Parts]] = {
    "reward-bench": _pair,
    "rm-bench": _styles,
    "best-of-n": _best,
}


def _chosen_first(item: Item) -> bool:
    """Whether responses are right or wrong, and the right ones come first: others have no official rule."""
    right = int(sum(item.gold))
    return 0 < right < len(item.gold) and item.gold == (1.0,) * right + (0.0,) * (len(item.gold) - right)


# ---------------------------------------------------------------------- many rows


def _means(rows: list[Parts]) -> dict[str, float | None]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _ties(rows: list[Answers]) -> dict[str, Any]:
    if all(row.id for row in rows):
        found = ties_figures(rows)
        unpaired = "no question is there both as ref:N and as tied:N" if found["score"] is None else None
        return found | ({"reason": unpaired} if unpaired else {})
    return {"score": None, "reason": "rows have no id of the form ref:N or tied:N"}


def _weighted(means: dict[str, dict[str, float | None]], weights: dict[str, float]) -> dict[str, float | None]:
    """The weighted mean of each figure; null without subsets, or where one of them has no score."""
    names = next((list(means[subset]) for subset in weights), ["score"])
    return {name: _sum([(means[subset][name], weight) for subset, weight in weights.items()]) for name in names}


def _sum(terms: list[tuple[float | None, float]]) -> float | None:
    known = [value * weight for value, weight in terms if value is not None]
    return sum(known) if terms and len(known) == len(terms) else None


def _partial(layout: Layout, rows: dict[str, int], over_length: int) -> dict[str, Any]:
    published = {name.lower(): count for name, count in layout.rules.rows.items()}
    sizes = {name: (count, published.get(name.lower(), count)) for name, count in rows.items() if count}
    incomplete = {name: {"rows": count, "of": whole} for name, (count, whole) in sizes.items() if count != whole}
    missing = [name for names in layout.missing.values() for name in names]
    return {
        "partial": bool(missing or incomplete or over_length),
        "missing": missing,
        "incomplete": incomplete,
        "over_length": over_length,
        "other_subsets": layout.others,
    }


def _prior_sets(layout: Layout, means: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """The leaderboard's fifth section: the mean of the older test sets, at half the weight of the other four.

    Source: allenai/reward-bench, analysis/get_benchmark_results.py (weights 2, 2, 2, 2 and 1; sets that a model was not
    run on are left out). The leaderboard shows models with and without it in one column.
    """
    prior = {name: means[name] for name in PRIOR_SETS if name in means}
    if not prior or not layout.sections:
        return {}
    score = _sum([(each["score"], 1 / len(prior)) for each in prior.values()])
    sections = [_weighted(means, weights)["score"] for weights in layout.sections.values()]
    total = len(sections) + 0.5
    both = _sum([(each, 1 / total) for each in sections] + [(score, 0.5 / total)])
    return {"prior_sets": score, "score_with_prior_sets": both}
