"""Dropout for models that have none of their own, as modern decoders do."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

_BLOCKS = ("attn", "attention", "mlp", "feed_forward", "ffn", "moe")


def add_dropout(model: PreTrainedModel, rate: float) -> None:
    """Put dropout at a rate on the state that the head reads, on attention, and before each residual sum.

    What the architecture drops by itself gets the rate: ``nn.Dropout`` modules and numbers such as Llama's
    ``attention_dropout``. Where a layer has none before its residual sums, the outputs of its attention and MLP get
    it, and so does the final hidden state where nothing drops what the head reads. Adapters keep their own rate.

    In training mode only; weights, their names and the config stay as they are, and so does all that is exported.
    Source: two views of each input under dropout, Wang et al. 2024 (arXiv 2401.06080); where it goes is this
    project's choice.

    Args:
        model: A scalar model; changed in place.
        rate: Share that is dropped, from 0 to below 1.
    """
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and not _drops_before_residual(module):
            for part, block in module.named_children():
                if any(word in part for word in _BLOCKS) and "Norm" not in type(block).__name__:
                    block.register_forward_hook(_dropping(rate))
        if "lora_" not in name:
            _set_rate(module, rate)
    body = set(model.base_model.modules())
    if not any(isinstance(module, nn.Dropout) for module in model.modules() if module not in body):
        model.base_model.register_forward_hook(_dropping(rate))


def _dropping(rate: float) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, Tensor):
            return F.dropout(output, rate)
        if isinstance(output, tuple):  # attention gives its weights too
            return F.dropout(output[0], rate), *output[1:]
        output.last_hidden_state = F.dropout(output.last_hidden_state, rate)
        return output

    return hook


def _set_rate(module: nn.Module, rate: float) -> None:
    if isinstance(module, nn.Dropout):
        module.p = rate
    for name in _rates(module):
        setattr(module, name, rate)


def _rates(module: nn.Module) -> Iterator[str]:
    """Names of a module's numbers that are dropout rates."""
    for name, value in list(vars(module).items()):
        if "dropout" in name and isinstance(value, float | int) and not isinstance(value, bool):
            yield name


def _drops_before_residual(layer: nn.Module) -> bool:
    """Whether a layer has dropout other than that of attention probabilities and adapters."""
    for name, module in layer.named_modules():
        own = name.rpartition(".")[2]
        names = [own] if isinstance(module, nn.Dropout) else _rates(module)
        if "lora_" not in name and any(not each.startswith(("attn", "attention")) for each in names):
            return True
    return False
