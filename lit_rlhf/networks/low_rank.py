"""A linear layer with low-rank adapters that passes over its wide results once."""

# A layer may have no bias, whatever torch's types say.
# pyright: reportUnnecessaryComparison=false

from typing import Any

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from lit_rlhf.networks.fast import FastPaths


class QuickLinear(Linear):
    """peft's layer, W x + (alpha / r) B A x, with the last product added in place.

    peft's own forward writes B A x, its multiple and the sum one after the other, each as wide as the layer's result.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer ``(..., in)`` to ``(..., out)``; anything unusual is left to peft."""
        plain = not (args or kwargs or self.disable_adapters or self.merged or self.lora_variant)
        if not plain or not FastPaths.current().adapters or x.dim() < 2:
            return super().forward(x, *args, **kwargs)
        rows = x.flatten(0, -2)  # (M, in)
        parts: Any = self
        result = parts.base_layer(rows)  # (M, out)
        for name in self.active_adapters:
            if name in self.lora_A:
                down, up = parts.lora_A[name].weight, parts.lora_B[name].weight
                narrow = F.linear(parts.lora_dropout[name](rows), down.to(rows.dtype)) * self.scaling[name]  # (M, r)
                result = result.addmm_(narrow.to(result.dtype), up.t().to(result.dtype))
        return result.unflatten(0, x.shape[:-1])


def quicken(model: nn.Module) -> None:
    """Let all plain linear layers with adapters be of this kind; weights and names stay."""
    for part in model.modules():
        if type(part) is Linear and not any(bias.bias is not None for bias in part.lora_B.values()):
            part.__class__ = QuickLinear
