"""Low-rank adapters: a small trainable change beside frozen weights."""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import naming, write_json
from lit_rlhf.networks.low_rank import quicken
from lit_rlhf.networks.sharding import assembled, full_weights
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
        linear = {
            path.removesuffix(".base_layer"): part
            for path, part in body.named_modules()
            if isinstance(part, nn.Linear | Conv1D) and "lora_" not in path and not path.startswith("pooler.")
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
        with standing_in(model):
            inject_adapter_in_model(config, body, name)
        quicken(body)
        pooler = getattr(body, "pooler", None)
        if pooler is not None:
            pooler.requires_grad_(True)  # often new and random: it belongs to the head


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


def save_adapters(body: nn.Module, head: nn.Linear | None, lora: LoRA, base: str, directory: Path) -> None:
    """Write what was trained beside frozen weights on its own, so that several adapters can share these.

    Args:
        body: With adapters.
        head: The one-number head behind it; None for a policy.
        lora: What the adapters are.
        base: Fingerprint of the frozen weights.
        directory: Where to: ``adapters.safetensors`` and ``adapters.json``.
    """
    weights = full_weights(body, everywhere=False, wanted=lambda name: _of(name, "default"))
    if head is not None:
        weights |= {f"head.{name}": value for name, value in full_weights(head, everywhere=False).items()}
    if rank():  # the first process writes
        return
    directory.mkdir(parents=True)
    weights = {name: value.contiguous() for name, value in weights.items()}
    with naming(directory / "adapters.safetensors"):
        save_file(weights, directory / "adapters.safetensors")
    write_json(directory / "adapters.json", {"base": base, "lora": asdict(lora), "head": head is not None})


def add_saved(model: PreTrainedModel, directory: Path, base: str, name: str) -> Tensor | None:
    """Put saved adapters into a model beside its own; returns the head's weight ``(1, H)``.

    Args:
        model: Has adapters called ``default``, which stay the active and trained ones.
        directory: What `save_adapters` wrote.
        base: Fingerprint of the model's frozen weights; None is returned where the adapters belong to others.
        name: What the added ones are to be called.
    """
    found = _saved(directory)
    if found is None or found["base"] != base or not found["head"]:
        return None
    body: PreTrainedModel = model.base_model  # type: ignore[assignment]
    LoRA(**found["lora"]).add(model, name)
    head = _load(body, directory, name)
    activate(body, "default")
    return head


def start_from(model: PreTrainedModel, directory: Path, base: str, lora: LoRA) -> None:
    """Let a model's adapters begin as those that an earlier training on the same frozen weights wrote.

    Args:
        model: Has fresh adapters called ``default``.
        directory: A policy that was trained with adapters.
        base: Fingerprint of the model's frozen weights.
        lora: What the model's adapters are.

    Raises:
        DataError: If there are none, or they belong to other weights or are of another kind.
    """
    found = _saved(directory / "adapters")
    where = str(directory)
    hint = "Start from the reference, or from a policy that was trained with the same lora on the reference's weights."
    if found is None:
        raise DataError("has no adapters, and lora needs some where the policy is not the reference", where, hint)
    for what, theirs, ours in (("frozen weights", found["base"], base), ("lora", found["lora"], asdict(lora))):
        if theirs != ours:
            raise DataError(f"its adapters belong to other {what}: {theirs}, not {ours}", where, hint)
    _load(model.base_model, directory / "adapters", "default")


def _saved(directory: Path) -> dict[str, Any] | None:
    file = directory / "adapters.json"
    return {"head": True, **json.loads(file.read_text("utf-8"))} if file.exists() else None


def _load(body: nn.Module, directory: Path, name: str) -> Tensor | None:
    """Fill adapters of a name with saved weights; returns the head's weight, if there is one."""
    weights, own = load_file(directory / "adapters.safetensors"), body.state_dict()
    head = weights.pop("head.weight", None)
    for key, value in weights.items():
        own[key.replace(".default.", f".{name}.")].copy_(value)
    return head


def _of(key: str, name: str) -> bool:
    return ".lora_" in key and f".{name}." in key


def activate(body: nn.Module, name: str) -> None:
    """Use the adapters of a name, and train these alone."""
    for part in body.modules():
        if isinstance(part, LoraLayer):
            part.set_adapter(name)
