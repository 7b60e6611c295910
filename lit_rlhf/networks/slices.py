"""Models whose weights stay in their files at first: each process of several reads its own slices alone."""

# Torch and transformers offer no other way.
# pyright: reportPrivateUsage=false

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils.hub import cached_file

_wanted: ContextVar[bool] = ContextVar("models are built without weights", default=False)


@dataclass
class Stored:
    """A weight in a file.

    Attributes:
        file: In the safetensors format.
        key: Its name there.
        rows: Entries along its first dimension.
    """

    file: str
    key: str
    rows: int

    def read(self, start: int = 0, end: int | None = None) -> Tensor:
        """Some of its rows, in fp32."""
        with safe_open(self.file, "pt") as opened:
            if not self.rows:  # a single number has no rows to be cut
                return opened.get_tensor(self.key).float()
            return opened.get_slice(self.key)[start : self.rows if end is None else end].float()


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


def without_weights(kind: Any, config: Any, path: str) -> PreTrainedModel | None:
    """A model whose body's weights stay in the files.

    Args:
        kind: transformers' automatic class.
        config: The model's config.
        path: Directory or Hub id.

    Returns:
        None unless that is wanted (see `weights_in_files`), or where the files have other names than the model, or
        another format.
    """
    if not _wanted.get():
        return None
    stored = _stored(path)
    with no_init_weights(), _meta_parameters():
        model: PreTrainedModel = kind.from_config(config, dtype=torch.float32)
    model.tie_weights()
    body = {id(each) for each in model.base_model.parameters()}
    _fill_buffers(model, stored)
    fresh = []
    for name, parameter in list(model.named_parameters()):
        found = _of(model, name, stored)
        if found is not None and _shape(found) == tuple(parameter.shape):
            parameter.stored = found  # type: ignore[attr-defined]
        elif found is None and stored and (id(parameter) not in body or ".pooler." in f".{name}"):
            fresh.append(name)
        else:
            logging.getLogger(__name__).info("%s: %s is not in the files as such; each process loads all", path, name)
            return None
    _initialise(model, fresh)
    model.fresh = frozenset(fresh)  # type: ignore[assignment]
    if kind.__name__ == "AutoModelForSequenceClassification":  # a small head, which others may scale or read
        for parameter in list(model.parameters()):
            if parameter.is_meta and id(parameter) not in body:
                _replace(model, parameter, parameter.stored.read())  # type: ignore[attr-defined]
    if model.can_generate():
        model.generation_config = _generation_config(path, model)
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


def _stored(path: str) -> dict[str, Stored]:
    """Every weight in a directory's or Hub id's files by its name there; nothing if they are of another format."""
    index = cached_file(path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    names = set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()) if index else {"model.safetensors"}
    files = [cached_file(path, name, _raise_exceptions_for_missing_entries=False) for name in sorted(names)]
    found = {}
    for file in filter(None, files):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  it is no dictionary
                shape = opened.get_slice(key).get_shape()
                found[key] = Stored(str(file), key, shape[0] if shape else 0)
    return found


def _of(model: PreTrainedModel, name: str, stored: dict[str, Stored]) -> Stored | None:
    return stored.get(name) or stored.get(name.removeprefix(f"{model.base_model_prefix}."))


def _fill_buffers(model: PreTrainedModel, stored: dict[str, Stored]) -> None:
    """Some architectures keep a few numbers beside their weights, such as Gemma 4 a factor for each layer."""
    kept = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        found = _of(model, name, stored) if name in kept else None
        if found is not None:
            buffer.copy_(found.read())


def _shape(stored: Stored) -> tuple[int, ...]:
    with safe_open(stored.file, "pt") as opened:
        return tuple(opened.get_slice(stored.key).get_shape())


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


def _generation_config(path: str, model: PreTrainedModel) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        return GenerationConfig.from_model_config(model.config)
