"""Policy samples from a keyed store, tokenised for a reward model: what MetaRM learns to tell apart."""

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.cutting import cut_prompt
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.data.tool_turns import from_row
from lit_rlhf.functional import difference_loss


@dataclass(frozen=True)
class _Prompt:
    """A prompt with its distinct sampled responses, as token ids."""

    ids: list[int]
    responses: list[list[int]]


class PolicySamples:
    """Prompts with at least two different sampled responses each, in seeded batches.

    Identical responses to a prompt count once: two equal scores give each other no gradient.

    Args:
        store: Folder that a ``predict`` run of ``BaselineModule`` wrote.
        renderer: The reward model's way from text to ids.
        batch_size: Prompts per batch.
        max_length: Most tokens of prompt and response; longer prompts lose their beginning.
        seed: Of the order.

    Raises:
        DataError: If no prompt has two different responses.
    """

    def __init__(self, store: str, renderer: Renderer, batch_size: int, max_length: int, seed: int = 0) -> None:
        rows = Store(store).rows()
        tokenised = [_tokenised(_messages(row, store), row, renderer, max_length) for row in rows]
        self.prompts = [prompt for prompt in tokenised if len(prompt.responses) > 1]
        if not self.prompts:
            hint = "Sample more responses per prompt, or at a higher temperature."
            raise DataError(f"none of its {len(rows):,} prompts has two different responses", store, hint)
        self.alike = len(rows) - len(self.prompts)
        self.batch_size, self.seed, self.pad_id = min(batch_size, len(self.prompts)), seed, renderer.pad_id

    def batch(self, step: int) -> tuple[Sequences, list[int]]:
        """The batch of a step, a function of the step alone: rows prompt by prompt, and the number of each prompt's."""
        per_epoch = len(self.prompts) // self.batch_size
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        chosen = [self.prompts[i] for i in order[place * self.batch_size : (place + 1) * self.batch_size]]
        prompts = [prompt.ids for prompt in chosen for _ in prompt.responses]
        responses = [response for prompt in chosen for response in prompt.responses]
        return stack_sequences(prompts, responses, self.pad_id), [len(prompt.responses) for prompt in chosen]


def mean_difference(scores: Tensor, counts: list[int]) -> Tensor:
    """Mean over prompts of the difference loss J, where prompts may have different numbers of responses.

    Args:
        scores: Of all responses, prompt by prompt ``(R,)``.
        counts: Responses of each prompt; their sum is R.

    Returns:
        A scalar.
    """
    return torch.stack([difference_loss(part[None]) for part in scores.split(counts)]).mean()


def _messages(row: dict[str, Any], store: str) -> tuple[Message, ...]:
    if "messages" not in row:
        raise DataError("was written by an older version, without the prompts' messages", store, "Write it again.")
    return tuple(map(from_row, row["messages"]))


def _tokenised(prompt: tuple[Message, ...], row: dict[str, Any], renderer: Renderer, max_length: int) -> _Prompt:
    distinct = dict(zip(row["responses"], row["truncated"], strict=True))
    ids, responses = renderer.encoded(prompt, list(distinct), list(distinct.values()))
    room = max_length - max(map(len, responses))
    if len(ids) > room:
        ids = cut_prompt(prompt, renderer, room, list(distinct))
    if ids is None:
        raise DataError(f"a sampled response leaves no room for its prompt in {max_length} tokens", "data.max_length")
    return _Prompt(ids, responses)
