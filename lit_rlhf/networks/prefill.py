"""The first step of decoding: all prompts at once, into a cache that decoding goes on with."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lit_rlhf.data.batches import Sequences
from lit_rlhf.networks.cache import GrowingLayer, cache_arguments, growing_cache
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.packing import pack
from lit_rlhf.networks.states import asked_only, packed_inputs, packs


def prefill(
    model: PreTrainedModel, prompts: Tensor, lengths: Tensor, filler: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Read prompts.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids ``(B, P)``, padded on the right.
        lengths: Tokens of each prompt ``(B,)``.
        filler: Token id that stands in the place of padding.

    Returns:
        Logits of the first new token ``(B, V)``; a cache whose rows are padded on the left; real tokens ``(B, P)``.
    """
    width = int(lengths.max())
    columns = torch.arange(width, device=prompts.device) - (width - lengths)[:, None]
    mask, positions = columns >= 0, columns.clamp(min=0)
    ragged = not bool(mask.all())
    found = _packed(model, prompts, lengths, positions) if ragged and FastPaths.current().packing else None
    if found is not None:
        return *found, mask
    cache = growing_cache(model.config)
    output = model(
        input_ids=prompts.gather(1, positions).masked_fill(~mask, filler),
        attention_mask=mask if ragged else None,
        position_ids=positions,
        logits_to_keep=1,
        **cache_arguments(model, cache),
    )
    return output.logits[:, -1], cache, mask


def _packed(
    model: PreTrainedModel, prompts: Tensor, lengths: Tensor, positions: Tensor
) -> tuple[Tensor, DynamicCache] | None:
    """The same without computing padding; None where the architecture does not allow it."""
    cache = growing_cache(model.config)
    plain = all(type(layer) is GrowingLayer for layer in cache.layers)  # no windows, no states of another kind
    if not plain or "logits_to_keep" not in inspect.signature(model.forward).parameters or not packs(model):
        return None
    packed, row = pack(Sequences(prompts, torch.zeros_like(lengths), lengths)), growing_cache(model.config)
    last = packed.index(lengths[:, None] - 1)[:, 0]
    with asked_only(model, last):
        output = model(**packed_inputs(packed), **cache_arguments(model, row), logits_to_keep=last)
    if not packed.calls:  # the model did not hand it on
        return None
    places = packed.index(positions)  # (B, P); what stands at padding is never seen
    layers: list[Any] = row.layers
    for number, layer in enumerate(layers):
        keys, values = (each[0][:, places].transpose(0, 1) for each in (layer.keys, layer.values))  # (B, heads, P, D)
        cache.update(keys, values, number)
        layers[number] = None  # both caches whole would be twice the memory
    return output.logits[0], cache
