"""From tokenised rows to the typed batch of a view."""

import torch

from lit_rlhf.data.batches import Batch, PairBatch, PromptBatch, ResponseBatch, pad_rows, stack_sequences
from lit_rlhf.data.loader import Idle
from lit_rlhf.data.preparation import Row, View


def collate_rows(rows: list[Row], view: View, pad_id: int, sources: list[str]) -> Batch:
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
        source=torch.tensor([sources.index(row.record.source) if row.record.source in sources else -1 for row in rows]),
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
