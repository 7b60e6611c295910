"""What the report is made of: the studies' results, the demo's samples, token rewards."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.heatmap import TokenRow
from research.claims import Measurement, Summary, rejudged

STUDIES = ("reward", "seq2seq", "ppo")


@dataclass
class Results:
    """What one study left behind.

    Attributes:
        name: The study's name.
        folder: Where it lies.
        summary: Its claims, settings, times and versions.
    """

    name: str
    folder: Path
    summary: Summary

    @cached_property
    def measurements(self) -> list[Measurement]:
        """All figures of every seed, nested as they were measured; none where the table is missing."""
        path = self.folder / "measurements.parquet"
        if not path.exists():
            return []
        table = pd.read_parquet(path)
        return [_nested(of_seed) for _, of_seed in table.groupby("seed")]


def _nested(table: pd.DataFrame) -> Measurement:
    """Figures by their place, ``flips/0.1/ppo/seen/gold``, as nested dicts and lists."""
    found: dict[str, Any] = {}
    for figure, value in zip(table["figure"], table["value"], strict=True):
        *way, last = (step.replace("~1", "/").replace("~0", "~") for step in str(figure).split("/"))
        inner = found
        for name in way:
            inner = inner.setdefault(name, {})
        inner[last] = float(value)
    return _with_lists(found)


def _with_lists(found: Any) -> Any:
    """Dicts whose keys are 0, 1, 2 and so on as lists."""
    if not isinstance(found, dict):
        return found
    values = {name: _with_lists(value) for name, value in found.items()}
    return list(values.values()) if list(values) == [str(i) for i in range(len(values))] else values


def find_studies(folders: list[str]) -> list[Results]:
    """Each study from the first of some folders that has its results.

    Args:
        folders: Folders of studies, in the order of preference.

    Raises:
        DataError: If none has any, or a summary cannot be read.
    """
    found = []
    for name in STUDIES:
        for folder in (Path(each) / name for each in folders):
            if (folder / "summary.json").exists():
                found.append(Results(name, folder, _summary(folder / "summary.json")))
                break
    if not found:
        hint = f"`make study NAME={STUDIES[0]}` makes them; a clone of the repository has them in docs/results."
        raise DataError("there are no results of studies", ", ".join(folders), hint)
    return found


def _summary(path: Path) -> Summary:
    try:
        summary = json.loads(path.read_text("utf-8"))
        return rejudged(summary)
    except (ValueError, KeyError, TypeError) as error:
        hint = "`make study` writes it anew from what was measured."
        raise DataError(f"is no summary of a study ({error})", str(path), hint) from error


def find_demo(folders: list[str]) -> Path | None:
    """The first of some folders that has the samples of policies.

    Args:
        folders: Folders of experiments, in the order of preference.
    """
    return next((Path(folder) for folder in folders if (Path(folder) / "samples.jsonl").exists()), None)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; none where there is no such file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def rewriter_tokens(studies: list[Results]) -> list[TokenRow]:
    """What a rewriter gives each token of some answers, if the study of rewriters was run."""
    rows = [row for each in studies for row in read_lines(each.folder / "heatmap.jsonl")]
    return [TokenRow(**row) for row in rows]


def generation_tokens(demo: Path, policy: str, what: str, n: int = 4) -> list[TokenRow]:
    """Token rewards or advantages of the last answers that a training of the demo wrote down.

    Args:
        demo: The experiment's folder.
        policy: Name of the training's folder.
        what: ``token_rewards`` or ``token_advantages``.
        n: How many answers.
    """
    rows = [row for row in read_lines(demo / policy / "generations.jsonl") if what in row and "tokens" in row]
    last = max((row["step"] for row in rows), default=0)
    kept = [row for row in rows if row["step"] == last][:n]
    return [TokenRow.of(row, what) for row in kept]
