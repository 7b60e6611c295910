"""The typed batches that travel between DataModule and modules. Masks are bool, ``True`` = a real token."""

from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_rlhf.data.records import Record


@dataclass
class Batch:
    """Base of all batches: moves its tensors between devices and leaves everything else alone."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor (and nested batch) as ``Tensor.to`` does."""
        moved = {
            each.name: value.to(*args, **kwargs) if isinstance(value, Tensor | Batch) else value
            for each in fields(self)
            for value in [getattr(self, each.name)]
        }
        return type(self)(**moved)


@dataclass
class Sequences(Batch):
    """Prompts with their responses, one row each, padded on the right.

    Attributes:
        ids: Token ids ``(N, S)``.
        prompt_length: Tokens of the prompt ``(N,)``.
        length: Tokens of prompt and response, end-of-sequence included ``(N,)``.
    """

    ids: Tensor
    prompt_length: Tensor
    length: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> "Sequences":
        """A part of the rows, cut to its longest one."""
        length = self.length[rows]
        return Sequences(self.ids[rows][:, : int(length.max())], self.prompt_length[rows], length)

    def joined(self, other: "Sequences") -> "Sequences":
        """These rows followed by the other's, padded to the longer width."""
        width = max(self.ids.shape[1], other.ids.shape[1])
        ids = [F.pad(each.ids, (0, width - each.ids.shape[1])) for each in (self, other)]
        return Sequences(
            torch.cat(ids),
            torch.cat([self.prompt_length, other.prompt_length]),
            torch.cat([self.length, other.length]),
        )

    @property
    def mask(self) -> Tensor:
        """Real tokens ``(N, S)``."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.length[:, None]

    @property
    def response_length(self) -> Tensor:
        """Tokens of the response, end-of-sequence included ``(N,)``."""
        return self.length - self.prompt_length

    @property
    def response_mask(self) -> Tensor:
        """Real response tokens ``(N, T)``, T being the longest response."""
        lengths = self.response_length
        return torch.arange(int(lengths.max()), device=self.ids.device) < lengths[:, None]

    @property
    def response_positions(self) -> Tensor:
        """Where response token t stands in ``ids`` ``(N, T)``; padding points at the row's last real token."""
        steps = torch.arange(int(self.response_length.max()), device=self.ids.device)
        return (self.prompt_length[:, None] + steps).minimum(self.length[:, None] - 1)

    @property
    def responses(self) -> Tensor:
        """Response token ids ``(N, T)``; meaningless where `response_mask` is False."""
        return self.ids.gather(1, self.response_positions)

    def response_lists(self) -> list[list[int]]:
        """Response ids as Python lists without padding."""
        rows, lengths = self.responses.tolist(), self.response_length.tolist()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@dataclass
class Loaded(Batch):
    """Base of what a loader gives.

    Attributes:
        idle: Whether no row was left for this process in a step that others still have rows for. One of theirs stands
            in, so that it can take part in what all processes do together; nothing of it counts.
    """

    idle: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def counted(self) -> int:
        """Rows that count."""
        return 0 if self.idle else len(self)


@dataclass
class ResponseBatch(Loaded):
    """Demonstrations, for supervised fine-tuning."""

    sequences: Sequences

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass
class PairBatch(Loaded):
    """Preference pairs, for reward models.

    Attributes:
        chosen: The responses that are to score higher.
        rejected: The others.
        chosen_is_better: True label where known: 1 or 0, and -1 where nobody knows ``(N,)``.
        flipped: Whether a treatment swapped the two; the original label says the opposite ``(N,)``.
        margin: Score difference that the loss asks for, in score units ``(N,)``.
        target: Probability that the label is right, for the loss ``(N,)``.
        strength: Mean preference strength of the label as it stands here; NaN where unknown ``(N,)``.
        records: The records that the pairs came from, as they were read.
    """

    chosen: Sequences
    rejected: Sequences
    chosen_is_better: Tensor
    flipped: Tensor
    margin: Tensor
    target: Tensor
    strength: Tensor
    records: list[Record]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: slice) -> "PairBatch":
        """Part of the pairs."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return PairBatch(**{name: each if name == "idle" else each[rows] for name, each in own.items()})


@dataclass
class PromptBatch(Loaded):
    """Prompts to be answered, for baselines and policy optimisation.

    Attributes:
        ids: Token ids ``(B, P)``, padded on the right.
        length: Tokens of each prompt ``(B,)``.
        records: The records that the prompts came from.
    """

    ids: Tensor
    length: Tensor
    records: list[Record]

    def __len__(self) -> int:
        return self.ids.shape[0]


@dataclass
class Completions(Loaded):
    """Sampled responses, and all that a reward may want to know of them.

    Attributes:
        sequences: Prompts with responses, one row each.
        truncated: Responses that reached the length limit without ending ``(N,)``.
        records: The record of each row's prompt.
        texts: The responses as text.
    """

    sequences: Sequences
    truncated: Tensor
    records: list[Record]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: slice) -> "Completions":
        """Part of the rows."""
        return Completions(self.sequences[rows], self.truncated[rows], self.records[rows], self.texts[rows])


def pad_rows(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Stack ragged rows into ``(N, S)``, padded on the right, with their lengths ``(N,)``."""
    length = torch.tensor([len(row) for row in rows])
    width = int(length.max())
    return torch.tensor([row + [pad_id] * (width - len(row)) for row in rows]), length


def stack_sequences(prompts: list[list[int]], responses: list[list[int]], pad_id: int) -> Sequences:
    """Join prompts with their responses and pad them on the right."""
    joined = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    ids, length = pad_rows(joined, pad_id)
    return Sequences(ids, torch.tensor([len(prompt) for prompt in prompts]), length)
