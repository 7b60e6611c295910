"""What a file was read as: `FileReport`, which the screen, the run's folder and ``lit-rlhf inspect`` show."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lit_rlhf.data import columns
from lit_rlhf.data.fields import said
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.values import Row, listed

_SHOWN = 3  # records


class WatchedRow(dict[str, Any]):
    """A row that remembers which of its columns were taken out. Asking whether one is there does not count."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.used.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a column, which counts as used from then on."""
        self.used.add(name)
        return super().get(name, default)


@dataclass
class FileReport:
    """What was read from one file, and what was not.

    Attributes:
        path: The file.
        format: The format that its rows were read as.
        rows: How many were read.
        bad: How many could not be read, and were skipped as asked.
        used: The columns that records were made of, in the file's order.
        left_aside: The other columns.
        counts: How often what may surprise was seen, by its name.
        records: The first records.
    """

    path: str
    format: str
    rows: int = 0
    bad: int = 0
    used: list[str] = field(default_factory=list)
    left_aside: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    records: list[Record] = field(default_factory=list)
    _known: dict[str, bool] = field(default_factory=dict)

    def add(self, row: WatchedRow, record: Record, original: dict[str, str]) -> None:
        """Count a row and the record that was made of it.

        Args:
            row: The row, with the columns that were used.
            record: What was made of it.
            original: The file's own names of the columns that an option renamed.
        """
        self.rows += 1
        if len(self.records) < _SHOWN:
            self.records.append(record)
        for name in row:
            used = name in row.used
            if self._known.get(name) is not used and not self._known.get(name):
                self._known[name] = used
                self.used = [original.get(each, each) for each, taken in self._known.items() if taken]
                self.left_aside = [original.get(each, each) for each, taken in self._known.items() if not taken]
        self.counts.update(surprises(row, record))

    @property
    def warnings(self) -> list[str]:
        """What may surprise, each with the number of rows."""
        return _warnings(self.counts, self.rows)

    def asdict(self) -> dict[str, Any]:
        """The report as plain values, as ``lit-rlhf inspect`` writes it."""
        return {
            "path": self.path,
            "format": self.format,
            "used": self.used,
            "left_aside": self.left_aside,
            "rows": self.rows,
            "bad_rows": self.bad,
            "warnings": self.warnings,
            "records": [shown_record(record) for record in self.records],
        }


def lines(reports: Iterable[FileReport]) -> list[str]:
    """What the screen shows of files: a line for all that were read alike, and what may surprise in them."""
    alike: dict[tuple[Any, ...], list[FileReport]] = {}
    for report in reports:
        alike.setdefault((report.format, tuple(report.used), tuple(report.left_aside)), []).append(report)
    shown: list[str] = []
    for group in alike.values():
        first, rows = group[0], sum(report.rows for report in group)
        more = f" and {len(group) - 1:,} more" if len(group) > 1 else ""
        aside = f"; left aside: {listed(first.left_aside)}" if first.left_aside else ""
        shown.append(f"data, {first.path}{more}: format {first.format}, from {listed(first.used)}{aside}")
        counts = sum((report.counts for report in group), Counter[str]())
        shown += [f"data, {first.path}{more}: {said}" for said in _warnings(counts, rows)]
    return shown


def _warnings(counts: Counter[str], rows: int) -> list[str]:
    return [f"{count:,} of {rows:,} rows: {WARNINGS[name]}" for name, count in counts.items() if count]


WARNINGS = {
    "reversed": "the chosen response has a lower score than the rejected one",
    "tie": "the two responses are tied; such pairs are left out of training",
    "marked_bad": "the response is marked as bad: it is no demonstration, and no chosen response",
    "more": "only the best and the worst of several responses make a pair; `pairs: all` takes every two of them",
    "other_prompt": "the prompt's column is not in the conversation that comes with the responses, which was used",
    "other_system": "the conversation has a system turn of its own; the column is not used there",
    "repeats_prompt": "the chosen response begins with the prompt's own text",
    "no_prompt": "the prompt is empty",
}
"""What may surprise, by the name that it is counted under."""


def surprises(row: Row, record: Record) -> Iterable[str]:
    """What may surprise of a record, given its row."""
    asked = "\n".join(turn.content for turn in record.prompt)
    if (_difference(record) or 0.0) < 0:
        yield "reversed"
    if record.tie:
        yield "tie"
    if record.chosen is None and record.rejected is not None:
        yield "marked_bad"
    if len(record.responses) > 2:
        yield "more"
    if isinstance(prompt := dict.get(row, "prompt"), str) and isinstance(said(prompt), str):
        if prompt.strip() and not _words_in(prompt, asked):
            yield "other_prompt"
        if len(prompt.split()) > 1 and record.chosen is not None and record.chosen.startswith(prompt.strip()):
            yield "repeats_prompt"
    system = columns.find(row, columns.SYSTEMS)
    if system is not None and str(dict.get(row, system)).strip() not in asked:
        yield "other_system"
    if not asked.strip():
        yield "no_prompt"


def _words_in(text: str, whole: str) -> bool:
    """Whether the words of a text all stand in another one: a transcript's marks and blanks do not count."""
    return text.strip() in whole or set(text.replace("Human:", " ").replace("Assistant:", " ").split()) <= set(
        whole.split()
    )


def _difference(record: Record) -> float | None:
    """By how much the chosen response is better, by what came with the data; None where nothing did."""
    if record.chosen_scores and record.rejected_scores:
        mean = [sum(scores) / len(scores) for scores in (record.chosen_scores, record.rejected_scores)]
        return mean[0] - mean[1]
    if record.strength is None and record.grades and record.rejected is not None:
        return max(record.grades) - min(record.grades)
    return record.strength


def shown_record(record: Record) -> dict[str, Any]:
    """A record as plain values; what does not apply is None."""
    return {
        "prompt": [shown_message(message) for message in record.prompt],
        "chosen": record.chosen,
        "rejected": record.rejected,
        "responses": list(record.responses) or None,
        "grades": list(record.grades) or None,
        "margin": _difference(record) if record.strength is None else record.strength,
        "tie": record.tie if record.chosen is not None and record.rejected is not None else None,
    }


def shown_message(message: Message) -> dict[str, Any]:
    """A message as plain values."""
    extra = {"extra": message.extra} if message.extra else {}
    return {"role": message.role, "content": message.content, **extra}
