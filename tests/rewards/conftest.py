from collections.abc import Callable
from itertools import islice

import pytest
import torch

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.records import Record
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.world import WorldPairs

Complete = Callable[..., Completions]


@pytest.fixture(scope="session")
def renderer(tiny_model) -> Renderer:
    return Renderer.load(tiny_model)


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Six pairs of the world, prompts and responses of different lengths."""
    return list(islice(WorldPairs(6, seed=3).records(), 6))


@pytest.fixture(scope="session")
def complete(renderer) -> Complete:
    """Make completions out of records and texts; rows named in ``cut`` end without their last three tokens."""

    def make(records: list[Record], texts: list[str] | None = None, cut: tuple[int, ...] = ()) -> Completions:
        texts = [record.chosen or "" for record in records] if texts is None else texts
        responses = [renderer.response_ids(text) for text in texts]
        for row in cut:
            responses[row] = responses[row][:-3]
        prompts = [renderer.prompt_ids(record.prompt) for record in records]
        return Completions(
            stack_sequences(prompts, responses, renderer.pad_id),
            torch.tensor([row in cut for row in range(len(records))]),
            records,
            [renderer.response_text(ids) for ids in responses],
        )

    return make


@pytest.fixture(scope="session")
def completions(complete, records) -> Completions:
    """One response per record; the second and fifth are cut off by the length limit."""
    return complete(records, cut=(1, 4))
