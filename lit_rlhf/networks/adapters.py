"""Low-rank adapters: a small trainable change beside frozen weights."""

import copy
from dataclasses import dataclass
from typing import Literal

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.low_rank import quicken
from lit_rlhf.networks.sharding import assembled
from lit_rlhf.networks.slices import standing_in
from lit_rlhf.networks.together import rank


@dataclass
class LoRA:
    """Low-rank adapters: W x + (alpha / r) B A x, of which only A and B are trained; B begins at zero.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), equation 3.

    Attributes:
        r: Rank, at least 1.
        alpha: The change is scaled by ``alpha / r``.
        dropout: Share of an adapter's input that is dropped in training, from 0 to below 1.
        targets: ``all-linear``, or names of the body's linear layers, such as ``[q_proj, v_proj]``.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Literal["all-linear"] | list[str] = "all-linear"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.r < 1:
            raise DataError(f"is {self.r}", "lora.r", "Give a rank of 1 or more.")
        if not 0 <= self.dropout < 1:
            raise DataError(f"is {self.dropout}", "lora.dropout", "Give a share from 0 to below 1.")

    def add(self, model: PreTrainedModel, name: str = "default") -> None:
        """Freeze a model's body and put adapters into it; whatever stands behind the body goes on to train.

        Args:
            model: Changed in place; it keeps its class, and its scores until the adapters have been trained.
            name: Of these adapters, where there are several.

        Raises:
            DataError: If a target names no linear layer of the body.
        """
        body: PreTrainedModel = model.base_model  # type: ignore[assignment]
        words = model.get_output_embeddings()  # T5 and its kin count them to the body; they may be the input's, too
        linear = {
            path.removesuffix(".base_layer"): part
            for path, part in body.named_modules()
            if isinstance(part, nn.Linear | Conv1D) and "lora_" not in path and not path.startswith("pooler.")
            if part is not words
        }
        for target in [] if self.targets == "all-linear" else self.targets:
            if not any(f".{path}".endswith(f".{target}") for path in linear):
                known = ", ".join(sorted({path.rpartition(".")[2] for path in linear}))
                raise DataError(f"{target!r} is no linear layer of the model", "lora.targets", f"It has {known}.")
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=list(linear) if self.targets == "all-linear" else self.targets,
            fan_in_fan_out=any(isinstance(part, Conv1D) for part in linear.values()),  # GPT-2 keeps weights transposed
        )
        inject(model, config, name)
        pooler = getattr(body, "pooler", None)
        if pooler is not None:
            pooler.requires_grad_(True)  # often new and random: it belongs to the head


def inject(model: PreTrainedModel, config: LoraConfig, name: str) -> None:
    """Freeze a model's body and put fresh adapters of a name into it, as a config of peft's says."""
    body: PreTrainedModel = model.base_model  # type: ignore[assignment]
    with standing_in(model):
        inject_adapter_in_model(config, body, name)
    quicken(body)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with the adapters added to the weights: a plain Hugging Face model; the model itself can go on training.

    A model without adapters is given back as it is, and one that is split as `assembled` gives it.
    """
    model = assembled(model)
    if rank() or not any(isinstance(part, LoraLayer) for part in model.modules()):
        return model
    plain = copy.deepcopy(model)
    for name, part in list(plain.named_modules()):
        if isinstance(part, LoraLayer):
            part.merge()  # type: ignore[operator]
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, part.get_base_layer())
    del plain.base_model.peft_config
    return plain


def activate(body: nn.Module, name: str) -> None:
    """Use the adapters of a name, and train these alone."""
    for part in body.modules():
        if isinstance(part, LoraLayer):
            part.set_adapter(name)
