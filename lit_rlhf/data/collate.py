"""From rows, of tokens or of text, to the typed batch of a view."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lit_rlhf.data.batches import Batch, PairBatch, PromptBatch, ResponseBatch, pad_rows, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.formats import detect_format, get_reader
from lit_rlhf.data.loader import Idle
from lit_rlhf.data.preparation import Row, View, encoded, fitted
from lit_rlhf.data.records import Record
from lit_rlhf.data.rendering import Renderer


class Collate:
    """The ``collate_fn`` of a plain DataLoader: makes the batch of a view out of rows of text.

    Args:
        view: What the module is trained on: its ``view``.
        renderer: How text becomes tokens: the module's ``renderer``.
        max_length: Most tokens of prompt and response; a longer prompt loses its beginning. None cuts nothing.
    """

    def __init__(self, view: View, renderer: Renderer, max_length: int | None = None) -> None:
        self.view: View = view
        self.renderer, self.max_length = renderer, max_length

    def __call__(self, rows: Sequence[Mapping[str, Any] | Record]) -> Batch:
        """Make the batch.

        Args:
            rows: Records, or mappings in any of the known formats, with texts or lists of messages, such as
                ``{"prompt": …, "chosen": …, "rejected": …}``.

        Raises:
            DataError: If a row cannot be read, lacks what the view needs, or has a response that alone is too long.
        """
        records = [row if isinstance(row, Record) else _read(row, place) for place, row in enumerate(rows)]
        for place, record in enumerate(records):
            needed = {"pairs": ("chosen", "rejected"), "responses": ("chosen",), "prompts": ()}[self.view]
            for name in needed:
                if getattr(record, name) is None:
                    raise DataError(f"has no {name} response, which {self.view} need", _place(record, place))
        tokenised = encoded(records, self.renderer, self.view)
        if self.max_length is not None:
            tokenised = [self._fitted(row, place, self.max_length) for place, row in enumerate(tokenised)]
        return collate_rows(tokenised, self.view, self.renderer.pad_id)

    def _fitted(self, row: Row, place: int, max_length: int) -> Row:
        found = fitted(row, self.renderer, max_length, cut=True)
        if found is None:
            hint = "Raise max_length, or leave such rows out."
            raise DataError(f"leaves no room for its prompt in {max_length} tokens", _place(row.record, place), hint)
        return found


def _read(row: Mapping[str, Any], place: int) -> Record:
    fields = dict(row)
    name = detect_format(fields)
    if name is None:
        hint = "Give prompt, chosen and rejected, or another of the formats in docs/data_formats.md."
        raise DataError(f"looks like no known format; it has {', '.join(map(str, fields))}", f"row {place}", hint)
    return get_reader(name)(fields)


def _place(record: Record, place: int) -> str:
    return record.location or f"row {place} of the batch"


def collate_rows(rows: list[Row], view: View, pad_id: int) -> Batch:
    """Make the typed batch of a view out of tokenised rows."""
    prompts, idle = [row.prompt for row in rows], isinstance(rows, Idle)
    if view == "prompts":
        return PromptBatch(*pad_rows(prompts, pad_id), [row.record for row in rows], idle=idle)
    chosen = stack_sequences(prompts, [row.chosen for row in rows], pad_id)
    if view == "responses":
        return ResponseBatch(chosen, idle=idle)
    labels = [row.label for row in rows]
    return PairBatch(
        chosen=chosen,
        rejected=stack_sequences(prompts, [row.rejected for row in rows], pad_id),
        chosen_is_better=torch.tensor([_truth(row) for row in rows]),
        flipped=torch.tensor([label.flipped for label in labels]),
        margin=torch.tensor([label.margin for label in labels]),
        target=torch.tensor([label.target for label in labels]),
        strength=torch.tensor([label.strength for label in labels]),
        records=[row.record for row in rows],
        idle=idle,
    )


def _truth(row: Row) -> int:
    """1 where the row's chosen response is truly better, 0 where it is not, -1 where nobody knows."""
    known = row.record.chosen_is_better
    return -1 if known is None else int(known != row.label.flipped)
