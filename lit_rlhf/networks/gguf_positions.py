"""Rotary positions as a GGUF file describes them, where transformers' reader passes over what the file says."""

import math
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.gguf_files import Header

FACTORS = "rope_freqs.weight"
"""The tensor in which llama.cpp keeps Llama 3's factors of the wavelengths, one for each."""

_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192  # of every Llama 3.1, 3.2 and 3.3
_NEEDED = {"linear": ("factor",), "yarn": ("factor", "original_context_length")}
_PARTIAL = ("phi3", "stablelm", "nemotron")  # architectures that may turn a part of each head only


def take_over_positions(config: Any, header: Header) -> set[str]:
    """Let a config turn positions as the file says: stretched for longer texts, or a part of each head only.

    Args:
        config: The language model's; changed in place.
        header: Of the file that it comes from.

    Returns:
        Names of tensors that are now said by the config.

    Raises:
        DataError: If the file says something about positions that cannot be taken over.
    """
    _take_over_width(config, header)
    if FACTORS in header.tensors:
        factors = torch.tensor(header.tensors[FACTORS].data.astype("float64").reshape(-1))
        if not bool((factors == 1).all()):
            _set(config, header, _llama3(config, header, factors))
        return {FACTORS}
    kind = header.fact("rope.scaling.type")
    if kind in (None, "none") or _parameters(config).get("rope_type", "default") != "default":
        return set()
    needed = _NEEDED.get(kind)
    if needed is None or any(header.fact(f"rope.scaling.{name}") is None for name in needed):
        raise _refusal(header, f"they are stretched in the way {kind!r}")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": float(header.fact("rope.scaling.factor"))}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = int(header.fact("rope.scaling.original_context_length"))
    _set(config, header, scaling)
    return set()


def _take_over_width(config: Any, header: Header) -> None:
    """How many of a head's features turn with the position."""
    width, parameters = header.fact("rope.dimension_count"), _parameters(config)
    if width is None or "rope_theta" not in parameters:
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    present = parameters.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", 1.0))
    if int(head * (1.0 if present is None else present)) == width:
        return
    if config.model_type not in _PARTIAL:
        raise _refusal(header, f"{width} of a head's {head} features turn with them")
    config.rope_parameters = {**parameters, "partial_rotary_factor": width / head}


def _llama3(config: Any, header: Header, factors: Tensor) -> dict[str, Any]:
    """The rule of Llama 3.1, of which the file holds the result only: taken if it gives the same factors."""
    factor, theta, width = float(factors.max()), _parameters(config).get("rope_theta"), 2 * len(factors)
    if theta is None:
        raise _refusal(header, f"{FACTORS} stretches them")
    wavelengths = 2 * math.pi * theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    short = ((_ORIGINAL / wavelengths - _LOW) / (_HIGH - _LOW)).clamp(0, 1)  # 1 where a wavelength stays as it is
    if not torch.allclose(1 / ((1 - short) / factor + short), factors, rtol=1e-4):
        raise _refusal(header, f"{FACTORS} stretches them, and not as in Llama 3.1")
    rule = {"low_freq_factor": _LOW, "high_freq_factor": _HIGH, "original_max_position_embeddings": _ORIGINAL}
    return {"rope_type": "llama3", "factor": factor, **rule}


def _set(config: Any, header: Header, scaling: dict[str, Any]) -> None:
    present = _parameters(config)
    if "rope_theta" in present:
        config.rope_parameters = {**present, **scaling}
    elif (
        config.model_type == "gemma3_text" and "full_attention" in present
    ):  # its layers with a window stay as they are
        config.rope_parameters = {**present, "full_attention": {**present["full_attention"], **scaling}}
    else:
        raise _refusal(header, f"they are stretched in the way {scaling['rope_type']!r}")


def _parameters(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _refusal(header: Header, reason: str) -> DataError:
    message = f"its positions cannot be taken over: {reason}, which would be lost"
    return DataError(message, str(header.path), "Take the model's Hugging Face directory instead of a GGUF file.")
