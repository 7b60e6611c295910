"""From records to tokenised rows: what is kept, what is left out, and how many of each."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.cutting import cut_prompt
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Record, Source
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.strength import strengths
from lit_rlhf.data.treatments import UNTREATED, Label, Labels, Treatment

_BLOCK = 1000  # records tokenised in one call

View = Literal["responses", "pairs", "prompts"]
"""What a stage wants to see of the records: demonstrations, preference pairs, or prompts alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised record; the responses that the view does not need are empty.

    Where a treatment flipped the label, ``chosen`` and ``rejected`` are swapped here, and the record is as it was read.
    """

    record: Record
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    label: Label = UNTREATED

    @property
    def length(self) -> int:
        """Tokens of the longest sequence that the row leads to."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass
class Counts:
    """How many records were kept, and why the others were not.

    Attributes:
        kept: Rows in use.
        cut: Rows in use whose prompt lost its beginning (``over_length: cut_prompt``).
        over_length: Longer than ``max_length`` tokens.
        identical: Pairs whose two responses are the same.
        tie: Pairs on which the annotators saw no difference.
        incomplete: Records without the responses that the view needs.
        repeated: Prompts that had come before (prompt view only).
        treated_out: Pairs that a treatment leaves out.
        flipped: Pairs in use whose label a treatment swapped.
        in_validation: Records that the training part leaves to validation (and the other way round, with a split).
        bad: Rows that could not be read and were skipped as asked.
    """

    kept: int = 0
    cut: int = 0
    over_length: int = 0
    identical: int = 0
    tie: int = 0
    incomplete: int = 0
    repeated: int = 0
    treated_out: int = 0
    flipped: int = 0
    in_validation: int = 0
    bad: int = 0

    def __str__(self) -> str:
        names = {"cut": "of them with a prompt that was cut"}
        parts = [
            f"{count:,} {names.get(name, name.replace('_', ' '))}"
            for name, count in asdict(self).items()
            if count or name == "kept"
        ]
        return ", ".join(parts)

    def advice(self, view: View) -> str:
        """What to do where nothing was kept: about the most common of the reasons."""
        hints = {
            "over_length": "Raise data.max_length, or shorten prompts by data.over_length cut_prompt; responses are "
            "never cut.",
            "identical": "The chosen and the rejected response are the same text in each row: which field is which?",
            "tie": "Equal responses teach nothing: look at the labels, or at the scores that they come from.",
            "incomplete": f"These rows have not what {view} need: look at the file, and at the format it was read as.",
            "treated_out": "Look at data.treatments: they leave everything out.",
            "in_validation": "Lower data.val_fraction, or give more prompts.",
            "bad": "Read without on_bad_row skip to see what is wrong with them.",
        }
        counted = asdict(self)
        most = max(hints, key=lambda name: counted[name])
        return hints[most] if counted[most] else "Look at the format."


def validation_share(split_hash: str) -> float:
    """A number in [0, 1) that a prompt keeps for ever: below ``val_fraction`` it belongs to validation."""
    return int(hashlib.sha256(f"validation {split_hash}".encode()).hexdigest()[:12], 16) / 16**12


def weighted(source: Source, seed: int) -> Iterator[Record]:
    """The source's records, thinned out or repeated by its weight; the choice depends on the seed alone."""
    whole, part = divmod(source.weight, 1.0)
    choice = random.Random(f"{seed} {source.name}")
    for record in source.records():
        for _ in range(int(whole) + (choice.random() < part)):
            yield record


def tokenise(
    records: Iterable[Record],
    renderer: Renderer,
    view: View,
    counts: Counts,
    max_length: int,
    cut: bool = False,
) -> Iterator[Row]:
    """Tokenise what the view needs and leave out what cannot be used, counting both.

    Args:
        records: What the sources gave.
        renderer: The one way from text to ids.
        view: What the stage wants to see.
        counts: Counted up in place.
        max_length: Most tokens of a row, end-of-sequence included.
        cut: Leave out the beginning of a prompt that is too long instead of leaving out the record, see `cut_prompt`.
    """
    seen: set[str] = set()
    usable = (record for record in records if _usable(record, view, seen, counts))
    while block := list(islice(usable, _BLOCK)):
        for row in encoded(block, renderer, view):
            kept = fitted(row, renderer, max_length, cut)
            if kept is None:
                counts.over_length += 1
            else:
                counts.kept += 1
                counts.cut += kept is not row
                yield kept


def _usable(record: Record, view: View, seen: set[str], counts: Counts) -> bool:
    reason = _unusable(record, view, seen)
    if reason is not None:
        setattr(counts, reason, getattr(counts, reason) + 1)
    return reason is None


def _unusable(record: Record, view: View, seen: set[str]) -> str | None:
    if view == "prompts":
        if record.prompt_hash in seen:
            return "repeated"
        seen.add(record.prompt_hash)
    elif record.chosen is None or (view == "pairs" and record.rejected is None):
        return "incomplete"
    elif view == "pairs" and record.tie:
        return "tie"
    elif view == "pairs" and record.chosen == record.rejected:
        return "identical"
    return None


def encoded(records: list[Record], renderer: Renderer, view: View) -> list[Row]:
    """Tokenise what the view needs of some records, each of which has it."""
    try:
        prompts = renderer.prompts_ids([record.prompt for record in records])
    except DataError:
        prompts = [_prompt_ids(record, renderer) for record in records]  # says which row it is
    if view != "prompts":  # only a reward that is a function asks for all columns
        records = [replace(record, row={}) if record.row else record for record in records]
    rows = [Row(record, prompt, [], []) for record, prompt in zip(records, prompts, strict=True)]
    sides = _SIDES[view]
    texts = {side: [getattr(record, side) or "" for record in records] for side in sides}
    cut = {side: [side in record.meta.get("truncated", ()) for record in records] for side in sides}
    answers = {side: renderer.responses_ids(texts[side], cut[side]) for side in sides}
    for number, record in enumerate(records):
        prompt, ids = rows[number].prompt, {side: answers[side][number] for side in sides}
        said = [texts[side][number] for side in sides]
        if renderer.reasons(said):
            prompt, reasoned = renderer.encoded(record.prompt, said, [cut[side][number] for side in sides])
            ids = dict(zip(sides, reasoned, strict=True))
        if not prompt:
            hint = "Use a template that writes something, such as the beginning-of-sequence token."
            raise DataError("the rendered prompt has no tokens", record.location, hint)
        rows[number] = Row(record, prompt, ids.get("chosen", []), ids.get("rejected", []))
    return rows


_SIDES: dict[View, tuple[str, ...]] = {"prompts": (), "responses": ("chosen",), "pairs": ("chosen", "rejected")}


def _prompt_ids(record: Record, renderer: Renderer) -> list[int]:
    try:
        return renderer.prompt_ids(record.prompt)
    except DataError as error:
        message, _, hint = str(error).removeprefix(f"{error.location}: ").partition("\n  ")
        raise DataError(message, record.location, hint) from None


def fitted(row: Row, renderer: Renderer, max_length: int, cut: bool) -> Row | None:
    """A row that is short enough, if need be (and wanted) without the beginning of its prompt; None if none can be."""
    excess = row.length - max_length
    if excess <= 0:
        return row
    room = len(row.prompt) - excess
    if not cut or room < 1:
        return None
    sides = (row.record.chosen, row.chosen), (row.record.rejected, row.rejected)
    said = [text for text, ids in sides if ids and text]
    prompt = cut_prompt(row.record.prompt, renderer, room, said)
    return None if prompt is None else Row(row.record, prompt, row.chosen, row.rejected)


@dataclass
class Preparation:
    """All that lies between the records of the training part and its rows, whether they come at once or in parts.

    Attributes:
        renderer: The one way from text to ids.
        view: What the stage wants to see.
        max_length: Most tokens of a row, end-of-sequence included.
        cut_prompt: Leave out the beginning of a prompt that is too long instead of leaving out the record.
        val_fraction: Share of the prompts that the split by hash gives to validation.
        held_out: Further prompts that belong to validation, by ``split_hash``.
        strength: Folder of a strength table, or ``data``; None labels nothing.
        treatments: What is done with the labels.
    """

    renderer: Renderer
    view: View
    max_length: int
    cut_prompt: bool = False
    val_fraction: float = 0.0
    held_out: set[str] = field(default_factory=set)
    strength: str | None = None
    treatments: Sequence[Treatment] = ()

    def __call__(self, records: Iterable[Record], counts: Counts) -> list[Row]:
        """The training rows among ``records``, with their labels; ``counts`` is counted up."""
        mine = self._training_records(records, counts)
        rows = list(tokenise(mine, self.renderer, self.view, counts, self.max_length, self.cut_prompt))
        if self.view != "pairs" or self.strength is None:
            return rows
        treated = labelled(rows, strengths(self.strength, [row.record for row in rows]), self.treatments)
        counts.kept -= len(rows) - len(treated)
        counts.treated_out += len(rows) - len(treated)
        counts.flipped += sum(row.label.flipped for row in treated)
        return treated

    @property
    def fingerprint(self) -> str:
        """Names all that decides over what becomes of a record."""
        treatments = [(type(each).__name__, vars(each)) for each in self.treatments]
        options = (self.max_length, self.cut_prompt, self.val_fraction, self.strength)
        known = f"{self.renderer.fingerprint} {options} {treatments} {sorted(self.held_out)}"
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    def _training_records(self, records: Iterable[Record], counts: Counts) -> Iterator[Record]:
        for record in records:
            if validation_share(record.split_hash) < self.val_fraction or record.split_hash in self.held_out:
                counts.in_validation += 1
            else:
                yield record


def labelled(rows: list[Row], differences: NDArray[np.float64], treatments: Sequence[Treatment] = ()) -> list[Row]:
    """Give rows the labels that treatments make of the voters' differences ``(N, M)``; some may leave.

    Args:
        rows: N tokenised pairs.
        differences: Of the label as it was read.
        treatments: Applied in their order.
    """
    labels = Labels.untouched(differences)
    for treatment in treatments:
        labels = treatment.apply(labels)
    return [_relabelled(row, label) for row, label in zip(rows, labels.listed(), strict=True) if label is not None]


def _relabelled(row: Row, label: Label) -> Row:
    chosen, rejected = (row.rejected, row.chosen) if label.flipped else (row.chosen, row.rejected)
    return Row(row.record, row.prompt, chosen, rejected, label)
