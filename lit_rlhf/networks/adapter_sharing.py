"""Adapters of several models on one trunk: reward models beside a policy, and what a training goes on from."""

import math
import os
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.adapter_files import SavedAdapters, saved_adapters
from lit_rlhf.networks.adapters import activate


def add_saved(model: PreTrainedModel, directory: Path, base: str, path: str, name: str) -> Tensor | None:
    """Put a reward model's adapters into a model beside its own; returns the head's weight ``(1, H)``.

    Args:
        model: Has adapters called ``default``, which stay the active and trained ones.
        directory: The reward model's.
        base: Fingerprint of the model's frozen weights; None is returned where the adapters belong to others, or are
            of a kind that cannot share them.
        path: Where the frozen weights come from.
        name: What the added ones are to be called.
    """
    found = saved_adapters(directory)
    if found is None or found.head is None or found.special or not _on(found, base, path):
        return None
    found.add(model, name)
    activate(model.base_model, "default")
    return found.head


def start_from(model: PreTrainedModel, directory: Path, base: str, path: str) -> None:
    """Let a model's adapters begin as those that an earlier training on the same frozen weights wrote.

    Args:
        model: Has fresh adapters called ``default``.
        directory: A policy that was trained with adapters.
        base: Fingerprint of the model's frozen weights.
        path: Where these come from.

    Raises:
        DataError: If there are none, or they belong to other weights or are of another kind.
    """
    found, where = saved_adapters(directory), str(directory)
    hint = "Start from the reference, or from a policy that was trained with the same lora on the reference's weights."
    if found is None:
        raise DataError("has no adapters, and lora needs some where the policy is not the reference", where, hint)
    if not _on(found, base, path):
        theirs, ours = (found.base, base) if found.base else (found.config.base_model_name_or_path, path)
        raise DataError(f"its adapters belong to other frozen weights: {theirs}, not {ours}", where, hint)
    beside = sorted(name for name in found.weights if ".lora_" not in name)
    special = found.special or (f"{beside[0]} beside them" if beside else None)
    if special:
        hint = "Leave reference out: training then starts on top of them."
        raise DataError(f"its adapters have {special}, with which no training goes on", where, hint)
    body: Any = model.base_model
    theirs, ours = found.layers(body), layers_of(body)
    if theirs.keys() != ours.keys() or any(not _alike(theirs[name], ours[name]) for name in ours):
        raise DataError(f"its adapters are of another lora: {_told(theirs)}, not {_told(ours)}", where, hint)
    found.fill(body, "default")


def layers_of(body: nn.Module, name: str = "default") -> dict[str, tuple[int, float]]:
    """Rank and scale of each layer's adapters of a name."""
    parts = {path: part for path, part in body.named_modules() if isinstance(part, LoraLayer) and name in part.r}
    return {path: (part.r[name], part.scaling[name]) for path, part in parts.items()}


def _on(found: SavedAdapters, base: str, path: str) -> bool:
    """Whether adapters belong to frozen weights: by their fingerprint, or else by the folder or id that they name."""
    if found.base is not None:
        return found.base == base
    theirs = found.config.base_model_name_or_path or ""
    places = [os.path.realpath(each) for each in (theirs, os.path.join(found.folder, theirs))]
    return bool(theirs) and (theirs == path or os.path.realpath(path) in places)


def _alike(first: tuple[int, float], second: tuple[int, float]) -> bool:
    return first[0] == second[0] and math.isclose(first[1], second[1])


def _told(layers: dict[str, tuple[int, float]]) -> str:
    """Ranks, alphas and names of adapted layers, in words."""
    kinds = sorted({(rank, round(rank * scale, 6)) for rank, scale in layers.values()})
    names = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
    numbers = " and ".join(f"r {rank}, alpha {alpha:g}" for rank, alpha in kinds)
    return f"{numbers} on {len(layers)} layers ({names})"
