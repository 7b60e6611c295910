"""Models whose weights stay in their files at first: each process of several reads its own slices alone."""

# Torch and transformers offer no other way.
# pyright: reportPrivateUsage=false

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from lit_rlhf.networks.loading import generation_config, is_new_head
from lit_rlhf.networks.weight_files import Stored
from lit_rlhf.networks.weight_names import Names

_wanted: ContextVar[bool] = ContextVar("models are built without weights", default=False)


@contextmanager
def weights_in_files(wanted: bool = True) -> Generator[None]:
    """Models that are loaded meanwhile leave their weights in the files; `lit_rlhf.networks.sharding.split` reads them.

    Until then these are on torch's meta device. What the files do not hold, such as a new head, is there at once.
    """
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def without_weights(kind: Any, config: Any, path: str, names: Names, new_head: bool) -> PreTrainedModel | None:
    """A model whose body's weights stay in the files.

    Args:
        kind: transformers' automatic class.
        config: The model's config.
        path: Directory or Hub id.
        names: Which weight of the files goes where.
        new_head: Whether a head for scores may be a new one, with random weights.

    Returns:
        None unless that is wanted (see `weights_in_files`), or where the model's weights are not in the files as they
        are: in another format, converted when they are loaded, or missing.
    """
    if not _wanted.get() or any(each.values is not None for each in names.stored.values()):
        return None
    with no_init_weights(), _meta_parameters():
        model: PreTrainedModel = kind.from_config(config, dtype=torch.float32)
    model.tie_weights()
    body = {id(each) for each in model.base_model.parameters()}
    _fill_buffers(model, names.stored)
    fresh: list[str] = []
    other: list[str] = []
    for name, parameter in list(model.named_parameters()):
        stored = names.stored.get(name)
        if stored is not None and stored.shape == tuple(parameter.shape):
            parameter.stored = stored  # type: ignore[attr-defined]
        elif stored is None and new_head and is_new_head(model, name):
            fresh.append(name)
        else:
            other.append(name)
    other += names.stored.keys() - model.state_dict().keys()
    if other:
        told = "%s: %s is not in the files as such; each process loads all"
        logging.getLogger(__name__).info(told, path, other[0])
        return None
    _initialise(model, fresh)
    model.fresh = frozenset(fresh)  # type: ignore[assignment]
    if kind.__name__ == "AutoModelForSequenceClassification":  # a small head, which others may scale or read
        for parameter in list(model.parameters()):
            if parameter.is_meta and id(parameter) not in body:
                _replace(model, parameter, parameter.stored.read())  # type: ignore[attr-defined]
    if model.can_generate():
        model.generation_config = generation_config(path, model)
    return model.eval()


@contextmanager
def standing_in(model: nn.Module) -> Generator[None]:
    """Real parameters of four bytes stand for those that are still in files: peft puts adapters where these are."""
    pairs = [(each, nn.Parameter(torch.zeros(1).expand(each.shape))) for each in model.parameters() if stored_of(each)]
    for parameter, placeholder in pairs:
        put(model, parameter, placeholder.requires_grad_(parameter.requires_grad))
    try:
        yield
    finally:
        for parameter, placeholder in pairs:
            put(model, placeholder, parameter.requires_grad_(placeholder.requires_grad))


def stored_of(parameter: Tensor) -> Stored | None:
    """Where a weight's values are, if they were left in a file."""
    return getattr(parameter, "stored", None) if parameter.is_meta else None


def values_of(parameter: Tensor) -> Tensor:
    """A weight's values, from its file if they were left there."""
    stored = stored_of(parameter)
    return parameter if stored is None else stored.read()


def put(network: nn.Module, old: Tensor, new: Tensor) -> None:
    """Let all modules that hold a parameter, several where weights are tied, hold another one."""
    for part in network.modules():
        for name in [name for name, each in part._parameters.items() if each is old]:
            setattr(part, name, new)


def _fill_buffers(model: PreTrainedModel, stored: dict[str, Stored]) -> None:
    """Some architectures keep a few numbers beside their weights, such as Gemma 4 a factor for each layer."""
    kept = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in kept and name in stored:
            buffer.copy_(stored[name].read())


@contextmanager
def _meta_parameters() -> Generator[None]:
    """Parameters go to the meta device as they are made; buffers, which are small, stay."""
    register = nn.Module.register_parameter

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = to_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _initialise(model: PreTrainedModel, names: list[str]) -> None:
    """Fill new weights as transformers does, with the same random numbers."""
    for name in names:
        _replace(model, model.get_parameter(name), torch.empty(model.get_parameter(name).shape))
    for path in dict.fromkeys(name.rpartition(".")[0] for name in names):
        model._init_weights(model.get_submodule(path))


def _replace(model: nn.Module, parameter: Tensor, values: Tensor) -> None:
    put(model, parameter, nn.Parameter(values, parameter.requires_grad))
