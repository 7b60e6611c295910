"""Strength tables: by how much each voter scores the chosen response of a pair above the rejected one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import describe, field, require, text
from lit_rlhf.data.fields import number as number_of
from lit_rlhf.data.records import Record
from lit_rlhf.data.store import Store

OWN_SCORES = "data"
"""Stands where a table's folder could be named, for scores that came with the records themselves."""


def strengths(where: str, records: Sequence[Record], optional: bool = False) -> NDArray[np.float64]:
    """Differences of M voters for each record, for the label as it was read ``(N, M)``.

    Args:
        where: Folder of a strength table, or `OWN_SCORES`.
        records: Preference pairs.
        optional: Give NaN for pairs without a strength instead of an error.

    Raises:
        DataError: If a pair is not in the table, or brings no scores.
    """
    known = {} if where == OWN_SCORES else {row["pair_hash"]: row["differences"] for row in table_rows(where)}
    rows: list[list[float] | None] = []
    for record in records:
        row = known.get(record.pair_hash) if where != OWN_SCORES else own_differences(record, optional)
        if row is None and not optional:
            hint = "Run `lit-rlhf strength` on the same pairs, with the same data options, as this run."
            raise DataError(f"no strength for the pair from {record.location or 'an unnamed source'}", where, hint)
        rows.append(row)
    voters = {len(row) for row in rows if row is not None}
    if len(voters) > 1:
        raise DataError(f"pairs come with different numbers of scores: {sorted(voters)}", "option data.strength")
    width = max(voters, default=1)
    unknown = [float("nan")] * width
    return np.array([unknown if row is None else row for row in rows]).reshape(len(rows), width)


def own_differences(record: Record, optional: bool = False) -> list[float] | None:
    """Differences by the scores or grades that came with a record: one per scoring model, or the mean strength alone.

    Raises:
        DataError: If the record brings neither, unless that is ``optional`` and gives None.
    """
    if record.chosen_scores and record.rejected_scores:
        if len(record.chosen_scores) != len(record.rejected_scores):
            counts = f"{len(record.chosen_scores)} and {len(record.rejected_scores)}"
            raise DataError(f"chosen and rejected come with {counts} scores", record.location)
        differences = [good - bad for good, bad in zip(record.chosen_scores, record.rejected_scores, strict=True)]
        if not all(map(math.isfinite, differences)):
            raise DataError("the difference of two scores is no finite number", record.location)
        return differences
    if record.strength is not None:
        return [record.strength]
    if record.grades and record.rejected is not None:  # the best and the worst of several responses
        return [max(record.grades) - min(record.grades)]
    if optional:
        return None
    hint = "Train voters (`lit-rlhf strength`) and name their table in data.strength."
    raise DataError("the pair brings neither scores nor a strength", record.location, hint)


def strength_row(record: Record, differences: list[float], part: str) -> dict[str, Any]:
    """One row of a strength table.

    Args:
        record: The pair.
        differences: One per voter.
        part: ``train`` where the voters saw the pair in training (or could have), ``validation`` where not.
    """
    values = np.array(differences)
    return {
        "pair_hash": record.pair_hash,
        "part": part,
        "source": record.source,
        "differences": list(map(float, differences)),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "true_label": record.chosen_is_better,
        "judge_label": None if (judge := record.meta.get("gpt4_label")) is None else bool(judge),
    }


def table_rows(where: str | Path) -> list[dict[str, Any]]:
    """All rows of a finished strength table; the folder of the ``strength`` command, which holds it, will do too.

    Raises:
        DataError: If there is no such table, it is damaged, or a row is none of a strength table.
    """
    inside = Path(where) / "table"
    rows = Store(inside if inside.is_dir() else where).rows()
    for number, row in enumerate(rows, 1):
        try:
            text(require(row, "pair_hash"), "pair_hash")
            differences = require(row, "differences")
            if not isinstance(differences, list) or not differences:
                raise DataError(f"expected a list of numbers, found {describe(differences)}", field("differences"))
            for index, value in enumerate(differences):
                number_of(value, f"differences[{index}]")
        except DataError as error:
            hint = "Is this the folder of a strength table? `lit-rlhf strength` writes one."
            raise DataError(str(error), f"{where}:row {number}", hint) from None
    return rows
