"""What people look at of several models' scores: a table of the models, and one of their differences."""

from typing import Any

_SHOWN = 40


def print_leaderboard(result: dict[str, Any]) -> None:
    """Print each model's figures by both ways of counting, the models' differences, and the warning."""
    from rich.table import Table

    from lit_rlhf.evaluation.reward_pictures import wide_print

    models = result["models"]
    title = f"{result['benchmark']}, {result['rows']:,} rows that all tables have"
    table = Table(title=title)
    for column in ("figure", *models, *(f"{name} wins" for name in _baselines(result))):
        table.add_column(column, justify="left" if column == "figure" else "right", overflow="fold")
    for name, cells in _figures(result).items():
        table.add_row(name, *cells)
    wide_print(table)
    for way, rule in result["counting"].items():
        if rule and way != "comparisons":
            wide_print(f"{way}: {rule}")
    if result["comparisons"]:
        wide_print(_differences(result["comparisons"]))
        wide_print(result["warning"])


def _baselines(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = result["baselines"] or {}
    return {name: found[name] for name in ("longest", "shortest") if name in found}


def _figures(result: dict[str, Any]) -> dict[str, list[str]]:
    """Rows of the first table: the official score and sections, then ours, then the subsets."""
    all_of = [*result["models"].values(), *_baselines(result).values()]
    first = all_of[0]
    rows: dict[str, list[str]] = {}
    if first["official"]:
        partial = " (partial)" if first["official"]["partial"] else ""
        rows[f"official score{partial}"] = [_number(each["official"]["score"]) for each in all_of]
        for section in first["official"]["sections"]:
            values = [_number(each["official"]["sections"][section]["score"]) for each in all_of]
            rows[f"official {section}"] = values
        rows["ours: score"] = [_number(each["ours"]["score"]["share"]) for each in all_of]
    rows["ours: all rows"] = [_number(each["overall"]["share"]) for each in all_of]
    for subset in first["subsets"] if len(first["subsets"]) > 1 else ():
        rows[f"ours: {subset}"] = [_number(each["subsets"][subset]["share"]) for each in all_of]
    return rows


def _differences(comparisons: list[dict[str, Any]]) -> Any:
    """The table of differences: of many, those in the score and over all rows, and then the smallest p."""
    from rich.table import Table

    order = {"score": 0, "all rows": 0, "section": 1, "subset": 1}
    ranked = sorted(comparisons, key=lambda each: (order[each["kind"]], each["p"]))
    whole = sum(order[each["kind"]] == 0 for each in comparisons)
    shown = ranked[: max(_SHOWN, whole)]
    more = len(comparisons) - len(shown)
    title = "first minus second, by our counting" + (f" ({more:,} more in leaderboard.json)" if more else "")
    table = Table(title=title)
    for column in ("first", "second", "figure"):
        table.add_column(column, overflow="fold")
    for column in ("rows", "difference [95 %]", "better : worse", "p", "p_holm"):
        table.add_column(column, justify="right")
    for each in shown:
        interval = f"{each['difference']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]"
        counts = f"{each['first_better']:,} : {each['second_better']:,}"
        ps = [_probability(each[name]) for name in ("p", "p_holm")]
        table.add_row(each["first"], each["second"], each["figure"], f"{each['n']:,}", interval, counts, *ps)
    return table


def _probability(value: float) -> str:
    return "< .0001" if value < 0.0001 else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
