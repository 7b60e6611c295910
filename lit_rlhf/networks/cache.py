"""A key-value cache that grows in place: a decoding step writes one column instead of copying all of them."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

_ROOM = 32  # columns of spare room that a copy makes


class GrowingLayer(DynamicLayer):
    """One layer's keys and values ``(N, heads, length, head_dim)``, views into tensors with room behind them."""

    _stores: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append new columns; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._stores is None or self._stores[0].shape[-2] < end:
            self._stores = (self._roomy(self.keys, key_states, end), self._roomy(self.values, value_states, end))
        for store, new in zip(self._stores, (key_states, value_states), strict=True):
            store[..., start:end, :] = new
        self.keys, self.values = (store[..., :end, :] for store in self._stores)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row; the copies have no room yet."""
        super().batch_repeat_interleave(repeats)
        self._stores = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows; the copies have no room yet."""
        super().batch_select_indices(indices)
        self._stores = None

    @staticmethod
    def _roomy(old: Tensor | None, new: Tensor, length: int) -> Tensor:
        rows, heads, _, width = new.shape
        store = torch.empty(rows, heads, length + _ROOM, width, dtype=new.dtype, device=new.device)
        if old is not None and old.numel():
            store[..., : old.shape[-2], :] = old
        return store


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """The architecture's own cache, with plain layers replaced by growing ones.

    Args:
        config: Of the model; layers of other kinds (sliding windows, for example) stay as they are.
    """
    cache = DynamicCache(config=config)
    if not cache.layers:  # created layer by layer
        cache.layer_class_to_replicate = GrowingLayer
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_arguments(model: PreTrainedModel, cache: DynamicCache) -> dict[str, Any]:
    """What a model is called with to read and fill a cache, by the name that its architecture knows.

    transformers 5.24 renamed ``past_key_values`` to ``cache``; it warns of the former name, and drops it with 5.40.
    """
    return {_argument(type(model)): cache, "use_cache": True}


@functools.cache
def _argument(architecture: type[PreTrainedModel]) -> str:
    # Of the class, since wrappers and hooks may stand in the place of a model's own forward.
    return "cache" if "cache" in inspect.signature(architecture.forward).parameters else "past_key_values"
