"""Per-item scores of reward models: how `evaluate` writes them, and those that others have published."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import prompt_hash
from lit_rlhf.data.rows import RawRow, find_files, read_rows, source_name
from lit_rlhf.evaluation.benchmarks import Benchmark, Item
from lit_rlhf.evaluation.score_forms import FORMS, ScoredItem, detect_form


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of one model."""

    model: str
    file: str
    items: list[ScoredItem]


_PER_ROW = ("id", "subset", "results", "num_correct")
"""Fields of which a row has one value: where one is a list, the object holds columns."""


def write_scores(path: Path, model: str, benchmark: Benchmark, scores: Sequence[Sequence[float] | None]) -> None:
    """Write the scores of a benchmark's questions as JSON Lines, whole or not at all: what `read_score_tables` reads.

    Args:
        path: The file.
        model: What the table calls the model.
        benchmark: The questions.
        scores: The model's, for each question's responses; null is written where a text was too long for it.
    """
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        for item, given in zip(benchmark.items, scores, strict=True):
            row = {
                "model": model,
                "benchmark": benchmark.name,
                "format": benchmark.format,
                "id": item.id or None,
                "digest": _digest(item),
                "location": item.location,
                "subset": item.subset,
                "gold": item.gold,
                "lengths": [len(response) for response in item.responses],
                "scores": given,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.rename(path)


def _digest(item: Item) -> str:
    content = json.dumps([prompt_hash(item.prompt), *item.responses])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_score_tables(path: str | list[str]) -> list[ScoreTable]:
    """Read tables of scores, one for each model in each file.

    A model is named as its rows name it (``model``, ``judge_model``), else by its file; the second of a name gets ~2.

    Args:
        path: Files, or patterns of them. A JSON file may hold one object of columns, as RewardBench publishes its
            scores.

    Raises:
        DataError: For a row that is in none of the known forms, or cannot be read.
    """
    found: list[ScoreTable] = []
    for file in find_files(path):
        models: dict[str, list[ScoredItem]] = {}
        form: str | None = None
        for location, row in _rows(file):
            try:
                if isinstance(row, DataError):
                    raise row
                form = form or detect_form(row)
                model, item = FORMS[form].read(row)
            except DataError as error:
                raise DataError(str(error), location) from None
            models.setdefault(model or source_name(file), []).append(replace(item, location=location))
        for model, items in models.items():
            same = sum(other.model.split("~")[0] == model for other in found)
            found.append(ScoreTable(f"{model}~{same + 1}" if same else model, file, items))
    return found


def as_benchmark(name: str, items: Sequence[ScoredItem]) -> Benchmark:
    """Scored questions of one format as a benchmark without texts, for `counted_figures`."""
    bare = [
        Item((), ("",) * len(item.gold), item.gold, item.subset, item.location, item.id)
        for item in items
    ]  # fmt: skip
    return Benchmark(name, name, items[0].format, bare)


def _rows(file: str) -> Iterator[RawRow]:
    """The rows of a file; an object of columns is turned into rows, its plain values repeated in each."""
    for location, row in read_rows(file):
        columns = () if isinstance(row, DataError) else [name for name in _PER_ROW if isinstance(row.get(name), list)]
        if isinstance(row, DataError) or not columns:
            yield location, row
            continue
        sizes = {name: len(column) for name, column in row.items() if isinstance(column, list)}
        if len(set(sizes.values())) != 1:
            told = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise DataError(f"its columns differ in length: {told}", location, "Was it written to its end?")
        for place in range(sizes[columns[0]]):
            turned = {name: value[place] if isinstance(value, list) else value for name, value in row.items()}
            yield f"{location}, item {place + 1}", turned
