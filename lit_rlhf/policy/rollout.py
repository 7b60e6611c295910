"""From prompts to completions: what baselines, policy optimisation and comparisons share."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions, PromptBatch, Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.networks.sharding import gathered
from lit_rlhf.networks.together import from_all


def complete(
    policy: PolicyNetwork,
    batch: PromptBatch,
    renderer: Renderer,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    k: int = 1,
    together: bool = False,
) -> Completions:
    """Sample ``k`` responses per prompt; row ``b * k + j`` is response j of prompt b.

    With ``together``, the prompts are one process's part of what all processes sample, see `sample`. The weights of a
    policy that is split over processes are gathered once.
    """
    counted = batch.counted if together else None
    with gathered(policy):
        sequences, truncated = sample(
            policy.model, batch.ids, batch.length, end_ids(policy, renderer), sampling, generator, k, counted
        )
    texts = [renderer.response_text(ids) for ids in sequences.response_lists()]
    records = [record for record in batch.records for _ in range(k)]
    return Completions(sequences, truncated, records, texts, idle=batch.idle)


def end_ids(policy: PolicyNetwork, renderer: Renderer) -> list[int]:
    """Ids at which a policy's responses end: those of the template, and those that its generation config names.

    A generation config that transformers made up from the model's config counts where it names special tokens.
    """
    config: Any = getattr(policy.model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    listed = [ends] if isinstance(ends, int) else list(ends or [])
    if getattr(config, "_from_model_config", False):
        listed = [end for end in listed if renderer.is_special(end)]
    return list(dict.fromkeys([*renderer.end_ids, *listed]))


def sequences_of_all(completions: Completions) -> Sequences:
    """Prompts with responses of all processes."""
    own, counted = completions.sequences, completions.counted
    return Sequences(*(from_all(each[:counted]) for each in (own.ids, own.prompt_length, own.length)))


def seeded_generator(device: torch.device, *parts: int | str) -> torch.Generator:
    """A generator whose stream is a function of the parts, such as a seed and a batch number."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def set_state(generator: torch.Generator, state: Tensor) -> None:
    """Let a generator go on from the state of another one.

    Raises:
        DataError: If that was one of another kind of device, whose numbers are others.
    """
    try:
        generator.set_state(state.cpu())
    except RuntimeError:
        hint = "Go on where it was written, or start a new run from the model that `lit-rlhf export` makes of it."
        message = f"its random numbers are not those of a generator on {generator.device.type}"
        raise DataError(message, "the checkpoint", hint) from None
