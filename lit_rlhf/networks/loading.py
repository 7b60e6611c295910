"""Reading a model's weights, such that none is ever random in silence, and none is lost in silence."""

# A layer may have no bias, whatever torch's types say.
# pyright: reportUnnecessaryComparison=false

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.model_config import scores_by_name
from lit_rlhf.networks.weight_files import Stored
from lit_rlhf.networks.weight_names import ADAPTER, Names, head_weights, plain_name

_SHOWN = 3
_HINT = "Give a complete directory of this architecture, as save_pretrained writes it."


def set_labels(config: PreTrainedConfig, stored: dict[str, Stored]) -> bool:
    """Let a scalar model's head have as many numbers as the one in the files; returns whether there is one.

    Args:
        config: Changed in place: a language model's, which has no such head, gets one of one number.
        stored: The weights by name.
    """
    heads = head_weights(stored)
    named = next((heads[key] for key in heads if plain_name(key).startswith(("score.", "classif"))), None)
    head = named or next(iter(heads.values()), None)
    count: int = head.shape[0] if head is not None else (config.num_labels or 1) if scores_by_name(config) else 1
    if config.num_labels != count:
        config.num_labels = count
    return head is not None or scores_by_name(config)


def read_weights(kind: Any, config: PreTrainedConfig, path: str, names: Names, dtype: torch.dtype) -> PreTrainedModel:
    """Load all weights; the model's ``fresh`` are the names of those that the files do not hold.

    Args:
        kind: The model's class.
        config: Its config.
        path: Directory or Hub id.
        names: Which weight goes where.
        dtype: Of the loaded weights.

    Raises:
        DataError: If a weight in the files has no place in the model, or another shape.
    """
    options: dict[str, Any] = {"config": config, "dtype": dtype, "output_loading_info": True}
    options["ignore_mismatched_sizes"] = True  # they are refused here, by name
    if names.foreign:
        weights = {name: stored.whole() for name, stored in names.stored.items()}
        model, told = kind.from_pretrained(None, state_dict=weights, **options)
        model.config.name_or_path = path
        if model.can_generate():
            model.generation_config = generation_config(path, model)
    else:
        model, told = kind.from_pretrained(path, **options)
    _check_shapes(told["mismatched_keys"], names, path)
    ignored = {*names.aside, *names.values}
    _check_left_over([names.original(key) for key in told["unexpected_keys"]], ignored, path)
    model.fresh = frozenset(told["missing_keys"])
    return model


def settle_head(model: PreTrainedModel, names: Names) -> None:
    """Keep the last layer of a head for scores in fp32, and add the bias that the files hold, if it has no place there.

    Args:
        model: Loaded, its weights in any dtype; a head on the meta device is left there.
        names: Which weight goes where.
    """
    head = None if names.head is None else model.get_submodule(names.head)
    if not isinstance(head, nn.Linear):
        return
    head.float()
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            stored = names.stored.get(f"{names.head}.{name}")
            if stored is not None and stored.shape == tuple(parameter.shape):
                parameter.copy_(stored.read())
    if names.bias is not None:
        head.bias = nn.Parameter(names.bias.read().reshape(head.out_features))


def as_many_numbers(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give a new head as many numbers as one that is going to take its place.

    Args:
        model: A scalar model with a head of one number.
        shapes: Of the weights that are going to be put into it, by names that end as the model's own.
    """
    for name, head in list(model.named_modules()):
        shape = next((each for key, each in shapes.items() if key.endswith(f".{name}.weight")), None)
        new = f"{name}.weight" in model.fresh  # type: ignore[operator]
        if new and isinstance(head, nn.Linear) and head.out_features == 1 and shape is not None and shape[0] > 1:
            parent, _, child = name.rpartition(".")
            wider = nn.Linear(head.in_features, shape[0], head.bias is not None, dtype=head.weight.dtype)
            setattr(model.get_submodule(parent), child, wider)
            model.config.num_labels = shape[0]


def check_complete(model: PreTrainedModel, new_head: bool, names: Names, path: str) -> None:
    """Refuse a model with weights that the files do not hold; one that begins from a language model lacks a head only.

    Args:
        model: Loaded; ``fresh`` are the names of what would be random.
        new_head: Whether it begins from a language model, and is to get a head for scores.
        names: Says which heads for values are left aside.
        path: Where the files are.

    Raises:
        DataError: Names them.
    """
    fresh: Collection[str] = model.fresh  # type: ignore[assignment]
    missing = [name for name in fresh if not (new_head and is_new_head(model, name))]
    if missing:
        total = len(model.state_dict())
        message = f"its files lack {_listed(missing)} of {total} weights, which would be random"
        raise DataError(message, path, _HINT)
    if names.values:
        rank_zero_info(
            f"warning: {path}: its head for values is left aside ({', '.join(sorted(names.values)[:_SHOWN])})"
        )


def is_new_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight belongs to what a language model lacks for scores: all behind the body, and a pooler."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in f".{name}"


def generation_config(path: str, model: PreTrainedModel) -> GenerationConfig:
    """What a directory or Hub id says about sampling, or what its config does."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        return GenerationConfig.from_model_config(model.config)


def _check_shapes(mismatched: Iterable[tuple[str, Iterable[int], Iterable[int]]], names: Names, path: str) -> None:
    for name, theirs, ours in sorted(mismatched):
        shapes = f"{tuple(theirs)} in the files, {tuple(ours)} by the config"
        raise DataError(f"{names.original(name)} has another shape than its config says: {shapes}", path, _HINT)


def _check_left_over(keys: Iterable[str], ignored: Collection[str], path: str) -> None:
    left = [key for key in keys if key not in ignored]
    if any(ADAPTER.search(key) for key in left):
        hint = "Merge them first: model.merge_and_unload(), then save_pretrained."
        raise DataError(f"holds adapters beside the weights ({_listed(left)})", path, hint)
    if left:
        layers = any(plain_name(key).split(".")[1].isdigit() for key in left if "." in plain_name(key))
        why = ": a head of several layers, and no file says what stands between them" if layers else ""
        raise DataError(f"the architecture has no place for {_listed(left)} of its weights{why}", path, _HINT)


def _listed(keys: Iterable[str]) -> str:
    """How many, and the first few names."""
    names = sorted(keys)
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
