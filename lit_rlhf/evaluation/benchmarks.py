"""Public benchmarks of reward models from files: one small reader per format, and which one a file is of."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_rlhf.data import fields
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import Conversation, Row, describe, field, has, require
from lit_rlhf.data.rows import find_files, read_rows, source_name
from lit_rlhf.evaluation.benchmark_ties import check_ties_id, is_ties

BenchmarkFormat = Literal["reward-bench", "rm-bench", "best-of-n"]

STYLES = ("concise", "detailed", "markdown")
"""The order of RM-Bench's responses: concise, detailed plain text, detailed with markdown."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark.

    Attributes:
        prompt: The conversation.
        responses: What is scored: chosen before rejected ones.
        gold: How good each response is: 1 for chosen and 0 for rejected ones, or the scores that came with them.
        subset: The part of the benchmark that the question belongs to.
        location: ``file:line``.
        id: The question's own name, where the file gives one.
    """

    prompt: Conversation
    responses: tuple[str, ...]
    gold: tuple[float, ...]
    subset: str = "all"
    location: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The questions of one file."""

    name: str
    file: str
    format: BenchmarkFormat
    items: list[Item]


def read_benchmarks(path: str | list[str], format: BenchmarkFormat | None = None) -> list[Benchmark]:
    """Read benchmark files.

    Args:
        path: Files (.jsonl, .ndjson, .json, each also gzipped; .parquet), patterns of them, or Hub ids.
        format: The format of all of them; None takes, for each file, the one that its first row fits.

    Raises:
        DataError: For a row that cannot be read: which file and line, which field, and what was expected.
    """
    if format is not None and format not in FORMATS:
        raise DataError(f"'{format}' is unknown", "option format", f"Known are {', '.join(FORMATS)}.")
    found: list[Benchmark] = []
    for file in find_files(path):
        benchmark = _read(file, format)
        same = sum(other.name.split("~")[0] == benchmark.name for other in found)
        found.append(replace(benchmark, name=f"{benchmark.name}~{same + 1}") if same else benchmark)
    return found


def _read(file: str, format: BenchmarkFormat | None) -> Benchmark:
    items: list[Item] = []
    domain = _DOMAIN_FILES.get(source_name(file))
    for location, row in read_rows(file):
        try:
            if isinstance(row, DataError):
                raise row
            if domain and not has(row, "domain") and _many(row, "chosen", "rejected"):
                row = row | {"domain": domain}
            format = format or detect_benchmark(row)
            item = replace(FORMATS[format].read(row), location=location, id=row_id(row))
            if format == "best-of-n" and is_ties(item.subset) and item.id:
                check_ties_id(item.id)
            items.append(item)
        except DataError as error:
            raise DataError(str(error), location) from None
    assert format is not None  # a file without rows is an error
    return Benchmark(source_name(file), file, format, items)


def row_id(row: Row) -> str:
    """The ``id`` of a row as text; empty where it has none."""
    value = row.get("id")
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True, default=str)


def detect_benchmark(row: Row) -> BenchmarkFormat:
    """The format that a row's fields fit.

    Raises:
        DataError: If they fit none.
    """
    for name, kind in FORMATS.items():
        if kind.fits(row):
            return name
    message = f"no known benchmark has the fields of this row: {', '.join(map(str, row)) or '(none)'}"
    raise DataError(message, hint="Known are " + "; ".join(f"{name}: {kind.fields}" for name, kind in FORMATS.items()))


# ---------------------------------------------------------------------- the formats


def read_reward_bench(row: Row) -> Item:
    """RewardBench (Lambert et al. 2024, arXiv 2403.13787): ``prompt``, ``chosen``, ``rejected`` and ``subset``.

    Without ``subset``, plain preference pairs, all in one subset.
    """
    asked = fields.prompt(require(row, "prompt"))
    responses = tuple(_response(require(row, name), name, asked) for name in ("chosen", "rejected"))
    return Item(asked, responses, (1.0, 0.0), _subset(row, "subset"))


def read_rm_bench(row: Row) -> Item:
    """RM-Bench (Liu et al. 2024, arXiv 2410.16184): three ``chosen`` and three ``rejected``, and their ``domain``.

    Each list is in the order of style: concise, detailed plain text, detailed with markdown. The authors' files of one
    domain each, such as ``chat_filtered.json``, do without ``domain``: there it is taken from the file's name.
    """
    asked = fields.prompt(require(row, "prompt"))
    fields.text(require(row, "domain"), "domain")
    responses: list[str] = []
    for name in ("chosen", "rejected"):
        three = _responses(row, name, asked)
        if len(three) != len(STYLES):
            raise DataError(f"expected three responses ({', '.join(STYLES)}), found {len(three)}", field(name))
        responses += three
    return Item(asked, tuple(responses), (1.0,) * 3 + (0.0,) * 3, _subset(row, "domain"))


def read_best_of_n(row: Row) -> Item:
    """Several responses to one prompt: ``responses`` with gold ``scores``, or lists of ``chosen`` and ``rejected``.

    The second is RewardBench 2 (Malik et al. 2025, arXiv 2506.01937). ``subset`` may name a part. Its ``num_correct``,
    ``num_incorrect`` and ``total_completions`` are checked where they are there.
    """
    asked = fields.prompt(require(row, "prompt"))
    if has(row, "chosen") or has(row, "rejected"):
        good, bad = (_responses(row, name, asked) for name in ("chosen", "rejected"))
        counts = {"num_correct": len(good), "num_incorrect": len(bad), "num_rejected": len(bad)}
        for name, count in (counts | {"total_completions": len(good) + len(bad)}).items():
            if has(row, name) and fields.number(row[name], name) != count:
                raise DataError(f"says {row[name]}, but the row has {count}", field(name))
        return Item(asked, (*good, *bad), (1.0,) * len(good) + (0.0,) * len(bad), _subset(row, "subset"))
    responses, scores = _responses(row, "responses", asked), require(row, "scores")
    if not isinstance(scores, list) or len(scores) != len(responses):
        found = f"{len(scores)} of them" if isinstance(scores, list) else describe(scores)
        raise DataError(f"expected one number for each of {len(responses)} responses, found {found}", field("scores"))
    gold = tuple(fields.number(score, f"scores[{i}]") for i, score in enumerate(scores))
    return Item(asked, tuple(responses), gold, _subset(row, "subset"))


def _responses(row: Row, name: str, asked: Conversation) -> list[str]:
    value = require(row, name)
    if not isinstance(value, list) or not value:
        found = "an empty one" if isinstance(value, list) else describe(value)
        raise DataError(f"expected a list of responses, found {found}", field(name))
    return [_response(item, f"{name}[{i}]", asked) for i, item in enumerate(value)]


def _response(value: Any, name: str, asked: Conversation) -> str:
    """A response as text or messages. It may be empty: a benchmark is scored as it was published."""
    return fields.reply(value, name, asked) if isinstance(value, list) else fields.text(value, name)


def _subset(row: Row, name: str) -> str:
    return fields.text(row[name], name) if has(row, name) else "all"


def _many(row: Row, *names: str) -> bool:
    """Whether these fields are lists of responses, not texts or the messages of one."""
    values = [row.get(name) for name in names]
    return all(isinstance(value, list) and not (value and isinstance(value[0], dict)) for value in values)


_DOMAIN_FILES = {f"{name}_filtered": name for name in ("chat", "code", "math", "safety-refuse", "safety-response")}


@dataclass(frozen=True, slots=True)
class _Kind:
    fits: Callable[[Row], bool]
    read: Callable[[Row], Item]
    fields: str


FORMATS: dict[BenchmarkFormat, _Kind] = {
    "rm-bench": _Kind(
        lambda row: has(row, "domain") and _many(row, "chosen", "rejected"),
        read_rm_bench,
        "prompt, lists of three chosen and rejected, domain",
    ),
    "best-of-n": _Kind(
        lambda row: has(row, "responses", "scores") or _many(row, "chosen", "rejected"),
        read_best_of_n,
        "prompt, responses with scores, or lists of chosen and rejected",
    ),
    "reward-bench": _Kind(
        lambda row: has(row, "chosen", "rejected"),
        read_reward_bench,
        "prompt, chosen, rejected, subset",
    ),
}
"""Benchmark formats by name, in the order in which they are tried."""
