"""Weights in the form that suits decoding: adapters added, and laid out for products with few rows."""

# Peft's method would make adapters trainable.
# pyright: reportPrivateUsage=false

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D


@contextmanager
def for_decoding(model: nn.Module) -> Generator[None]:
    """Exchange the weights of a model's linear layers for a while; afterwards they are what they were, bit for bit.

    Active adapters are added to the weights: a step then costs what it costs without them. On a CPU the weights are
    laid out by columns, which makes a product with a few rows about a third faster.

    Args:
        model: A language model that is about to decode many steps; takes memory for one more copy of these weights.
    """
    kept: list[tuple[nn.Parameter, Tensor]] = []
    disabled: list[LoraLayer] = []
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    users = Counter(id(module.weight) for module in linear)
    try:
        for module in model.modules():
            if isinstance(module, LoraLayer) and not module.disable_adapters and not module.merged:
                layer, change = module.get_base_layer(), _change(module)
                # A weight that several layers share cannot hold the change of one of them.
                if change is not None and users[id(layer.weight)] < 2 and _exchange(layer, kept, change):
                    disabled.append(module)
        done = {id(parameter) for parameter, _ in kept}
        for module in linear:
            if id(module.weight) not in done and module.weight.device.type == "cpu":
                done.add(id(module.weight))
                _exchange(module, kept, None)
        for module in disabled:
            module._disable_adapters = True  # the method would make adapters trainable when it enables them again
        yield
    finally:
        for parameter, weight in reversed(kept):
            parameter.data = weight
        for module in disabled:
            module._disable_adapters = False


def _exchange(layer: nn.Module, kept: list[tuple[nn.Parameter, Tensor]], change: Tensor | None) -> bool:
    """Change a layer's weight and its layout; False where it is left alone."""
    weight: nn.Parameter = layer.weight  # type: ignore[assignment]
    if isinstance(weight, DTensor) or (change is None and weight.numel() < 2**12):
        return False
    kept.append((weight, weight.data))
    wanted = weight.data if change is None else weight.data + change.to(weight.dtype)
    by_columns = weight.device.type == "cpu" and not isinstance(layer, Conv1D)  # which keeps them like that
    weight.data = wanted.t().contiguous().t() if by_columns else wanted
    return True


def _change(layer: LoraLayer) -> Tensor | None:
    """What the active adapters add to a layer's weights; None where it has none of them."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    return torch.stack([layer.get_delta_weight(name) for name in names]).sum(0) if names else None  # type: ignore[operator]
