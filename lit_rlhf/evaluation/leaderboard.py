"""The ``leaderboard`` command: reward models side by side, from tables of their scores."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.store import write_json
from lit_rlhf.evaluation.benchmark_comparison import Values, comparison_targets, holm, paired_difference
from lit_rlhf.evaluation.benchmark_figures import OURS, counted_figures, length_baselines, row_outcomes
from lit_rlhf.evaluation.evaluate import listed
from lit_rlhf.evaluation.leaderboard_tables import print_leaderboard
from lit_rlhf.evaluation.score_tables import ScoredItem, ScoreTable, as_benchmark, read_score_tables

Key = tuple[str, ...]


def leaderboard(
    tables: str | list[str], out: str, figures: str | list[str] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Compare reward models on the same rows of one benchmark, from tables of their scores; writes JSON and tables.

    Each model's figures come by the official rule of a known benchmark and by ours. Every two models are compared in
    the score, over all rows, and in each section and subset, by our counting: the difference with a 95 % interval, and
    the probability of one as large by chance, as it is and corrected for the number of comparisons (Holm).

    Args:
        tables: Files with scores: ``scores_NAME.jsonl`` of ``lit-rlhf evaluate``, or what others published of
            RewardBench, RewardBench 2, RM-Bench and JudgeBench. One, a pattern, or a list.
        out: Folder for ``leaderboard.json``.
        figures: Compare the models in these alone, chosen before looking: fewer comparisons are corrected for. One, or
            a list, of ``score``, ``all rows``, ``section``, ``subset``, and names of sections and subsets.
        seed: Of the random draws behind intervals and probabilities.

    Returns:
        ``benchmark``, ``rows`` that all tables have, ``left_out`` (rows of each model that others lack, or that were
        too long for one), ``models`` (figures of each, on the common rows), ``baselines`` (where the responses' lengths
        are known), ``comparisons`` and a ``warning`` about picking among them.

    Raises:
        DataError: If a table cannot be read, or the tables have no rows in common or disagree about one.
    """
    read = read_score_tables(listed(tables))
    keyed = _keyed(read)
    common = _common(read, keyed)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    items = [keyed[0][key] for key in common]
    benchmark = as_benchmark(source(read), items)
    scores = {table.model: [rows[key].scores for key in common] for table, rows in zip(read, keyed, strict=True)}
    models: dict[str, Any] = {
        table.model: {"file": table.file, **counted_figures(benchmark, scores[table.model])} for table in read
    }
    official = models[read[0].model]["official"]
    lengths = _lengths(keyed, common)
    result: dict[str, Any] = {
        "benchmark": official["benchmark"] if official else benchmark.format,
        "rows": len(common),
        "left_out": {table.model: len(table.items) - len(common) for table in read},
        "models": models,
        "baselines": None if lengths is None else length_baselines(benchmark, lengths),
        "counting": {"official": official["rule"] if official else None, "ours": OURS, "comparisons": "ours"},
    }
    outcomes = {model: _values(benchmark.items, row_outcomes(benchmark, given)) for model, given in scores.items()}
    chosen = None if figures is None else listed(figures)
    result["comparisons"] = compare_models(benchmark.format, outcomes, chosen, seed)
    result["warning"] = _warning(result["comparisons"])
    for model, count in result["left_out"].items():
        if count:
            rank_zero_info(
                f"leaderboard: {count:,} rows of {model} are left out: others lack them, or a text was too long"
            )
    print_leaderboard(result)
    write_json(folder / "leaderboard.json", result)
    return result


def compare_models(
    format: str, outcomes: dict[str, Values], figures: str | list[str] | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Every two models in every figure of a benchmark.

    Args:
        format: The benchmark's format.
        outcomes: For each model, how each row counts, by subset ``(N,)``; the same rows in the same order.
        figures: Names or kinds of the figures that are compared; None compares all.
        seed: Of the random draws.

    Returns:
        One entry per pair of models and figure: ``first``, ``second``, ``figure``, ``kind``, what `paired_difference`
        gives, and ``p_holm``, corrected over all entries.

    Raises:
        DataError: If there is no such figure.
    """
    rows = {name: len(values) for name, values in next(iter(outcomes.values())).items()}
    targets = comparison_targets(format, rows)
    if figures is not None:
        chosen = [figures] if isinstance(figures, str) else figures
        known = dict.fromkeys(name for target in targets for name in (target.kind, target.name))
        for name in chosen:
            if name not in known:
                raise DataError(
                    f"there is no figure '{excerpt(name)}'", "option figures", f"Known are {', '.join(known)}."
                )
        targets = [target for target in targets if target.kind in chosen or target.name in chosen]
    found: list[dict[str, Any]] = [
        {"first": first, "second": second, "figure": target.name, "kind": target.kind}
        | paired_difference(outcomes[first], outcomes[second], target.weights, seed)
        for first, second in combinations(outcomes, 2)
        for target in targets
    ]
    corrected = holm([each["p"] for each in found])
    return [each | {"p_holm": p} for each, p in zip(found, corrected, strict=True)]


def source(tables: list[ScoreTable]) -> str:
    """The files that tables come from."""
    return "+".join(dict.fromkeys(table.file for table in tables))


# ---------------------------------------------------------------------- the same rows


def _keyed(tables: list[ScoreTable]) -> list[dict[Key, ScoredItem]]:
    """Each table's rows by what names them in all tables: their ids, or else the digests of their texts."""
    items = [item for table in tables for item in table.items]
    named, hashed = all(item.id for item in items), all(item.digest for item in items)
    if named:
        found = [{(item.subset, item.id): item for item in table.items} for table in tables]
        twice = [table for rows, table in zip(found, tables, strict=True) if len(rows) < len(table.items)]
        if not twice:
            return found
        if not hashed:
            raise _named_twice(twice[0])
    if not hashed:
        bare = next(item for item in items if not item.id)
        message = "has no id, so that its question cannot be found in the other tables"
        raise DataError(message, bare.location, "Add the benchmark's id to every row of every table.")
    keyed: list[dict[Key, ScoredItem]] = []
    for table in tables:
        seen: Counter[Key] = Counter()
        rows: dict[Key, ScoredItem] = {}
        for item in table.items:
            key = (item.subset, item.digest)
            seen[key] += 1
            rows[*key, str(seen[key])] = item
        keyed.append(rows)
    return keyed


def _named_twice(table: ScoreTable) -> DataError:
    first: dict[Key, str] = {}
    item = next(
        item for item in table.items if first.setdefault((item.subset, item.id), item.location) != item.location
    )
    before = first[item.subset, item.id]
    message = f"id '{excerpt(item.id)}' of subset '{excerpt(item.subset)}' is there twice, first at {before}"
    return DataError(message, item.location, "A table has each question once; is it two tables in one?")


def _common(tables: list[ScoreTable], keyed: list[dict[Key, ScoredItem]]) -> list[Key]:
    """The rows that every table has scores of, in the order of the first; an error where tables disagree about one."""
    first, *others = keyed
    shared = [key for key in first if all(key in rows for rows in others)]
    if not shared:
        names = " and ".join(dict.fromkeys(table.file for table in tables))
        hint = "Compare one benchmark at a time; rows are the same if subset and id are."
        raise DataError("the tables have no rows in common", names, hint)
    for key in shared:
        for rows in others:
            _check_same(first[key], rows[key])
    odd = next((first[key] for key in shared if first[key].format != first[shared[0]].format), None)
    if odd is not None:
        message = f"a row of format {odd.format} among rows of format {first[shared[0]].format}"
        raise DataError(message, odd.location, "Compare one benchmark at a time.")
    common = [key for key in shared if all(rows[key].scores is not None for rows in keyed)]
    if not common:
        raise DataError("no row has scores of every model: some text of each was too long for one", tables[0].file)
    return common


def _check_same(one: ScoredItem, other: ScoredItem) -> None:
    what = ""
    if one.format != other.format or len(one.gold) != len(other.gold):
        what = f"{len(one.gold)} responses of format {one.format} there, {len(other.gold)} of {other.format} here"
    elif one.gold != other.gold:
        what = "other responses are right there"
    elif one.digest and other.digest and one.digest != other.digest:
        what = "its texts are others there"
    if what:
        hint = "Were they scored on versions of the benchmark that differ?"
        raise DataError(f"is not the same question as at {one.location}: {what}", other.location, hint)


def _lengths(keyed: list[dict[Key, ScoredItem]], common: list[Key]) -> list[tuple[float, ...]] | None:
    """The lengths of the responses, from the first table that has them."""
    for rows in keyed:
        found = [rows[key].lengths for key in common]
        if all(each is not None for each in found):
            return [tuple(map(float, each or ())) for each in found]
    return None


def _values(items: Any, outcomes: Any) -> Values:
    found: dict[str, list[float]] = {}
    for item, outcome in zip(items, outcomes, strict=True):
        found.setdefault(item.subset, []).append(float(outcome["share"]))
    return {name: np.array(values) for name, values in found.items()}


def _warning(comparisons: list[dict[str, Any]]) -> str:
    if not comparisons:
        return ""
    n = len(comparisons)
    below = sum(each["p"] < 0.05 for each in comparisons)
    holds = sum(each["p_holm"] < 0.05 for each in comparisons)
    return (
        f"{n:,} comparisons were made; if no two models differed, about {0.05 * n:.1f} of them would have p < .05 by "
        f"luck. Here {below:,} have, and {holds:,} have p_holm < .05. A model or a subset that is picked because it "
        "looks best here looks better than it is: choose the figure before you look, or go by p_holm."
    )
