"""Adapters on disk, in peft's own format: what was trained beside frozen weights, so that several can share these."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.data.adapter_folders import CONFIG, adapter_config
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import naming, write_json
from lit_rlhf.networks.adapters import LoRA, inject
from lit_rlhf.networks.sharding import full_weights, named_weights
from lit_rlhf.networks.together import rank
from lit_rlhf.networks.wrapping import unwrapped

WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"
"""Holds the fingerprint of the frozen weights, and what the model's config says beside theirs; peft ignores it."""

_PREFIX = "base_model.model."
_OWN = ("pad_token_id", "problem_type", "read_at", "calibration", "rewriting")
_TOKENIZER = (
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "chat_template",
    "vocab",
    "merges",
    "spiece",
    "sentencepiece",
)
_OLD_CONFIG, _OLD_WEIGHTS = "adapters.json", "adapters.safetensors"  # of earlier versions
_SCALED = {"bias": "none", "use_dora": False, "lora_bias": False, "layer_replication": None, "target_parameters": None}
"""Options of peft's under which adapters are no more than W x + s B A x."""


# ---------------------------------------------------------------------- writing


def save_adapters(model: PreTrainedModel, lora: LoRA, base: str, path: str, directory: Path) -> None:
    """Write a model's adapters, with all else that was trained, in the format of peft.

    ``PeftModel.from_pretrained(base_model, directory)`` loads them; a reward model's head lies among its
    ``modules_to_save``.

    Args:
        model: With adapters called ``default``; may be split, and all processes must call this together then.
        lora: What the adapters are.
        base: Fingerprint of the body's frozen weights.
        path: Directory or Hub id of these, for whoever loads the adapters.
        directory: Where to: a folder in that of the exported model, whose tokenizer is copied.
    """
    beside = [name for name, each in named_weights(model).items() if each.requires_grad and ".lora_" not in name]
    weights = full_weights(model, everywhere=False, wanted=lambda name: _of(name, "default") or name in beside)
    if rank():  # the first process writes
        return
    directory.mkdir(parents=True)
    config = _config(model, lora, path, beside)
    weights = {
        f"{_PREFIX}{name.replace('.default.weight', '.weight')}": value.contiguous() for name, value in weights.items()
    }
    with naming(directory / WEIGHTS):
        save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    values = {name: sorted(each) if isinstance(each, set) else each for name, each in config.to_dict().items()}
    write_json(directory / CONFIG, values)
    own = {name: getattr(model.config, name) for name in _OWN if getattr(model.config, name, None) is not None}
    write_json(directory / BASE, {"fingerprint": base, "config": own if config.task_type != "CAUSAL_LM" else {}})
    for file in directory.parent.iterdir():  # the template that was trained with travels with the adapters, too
        if file.name.startswith(_TOKENIZER):
            shutil.copyfile(file, directory / file.name)


def _config(model: PreTrainedModel, lora: LoRA, path: str, beside: list[str]) -> LoraConfig:
    """The adapters as peft describes them."""
    injected: LoraConfig = model.base_model.peft_config["default"]  # type: ignore[index]
    task = "SEQ_CLS" if type(model).__name__.endswith("ForSequenceClassification") else "CAUSAL_LM"
    return LoraConfig(
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder and task == "CAUSAL_LM" else task,  # type: ignore[arg-type]
        base_model_name_or_path=_portable(path),
        inference_mode=True,
        r=lora.r,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_targets(model),
        fan_in_fan_out=injected.fan_in_fan_out,
        modules_to_save=sorted({_part(name, _prefix(model)) for name in beside}) or None,
    )


def _targets(model: PreTrainedModel) -> list[str]:
    """Names by which peft finds the layers with adapters, and no others: short ones where they suffice."""
    parts = {unwrapped(name): part for name, part in model.named_modules()}
    layers = {name for name, part in parts.items() if isinstance(part, LoraLayer)}
    short = {name.rpartition(".")[2] for name in layers}
    others = [name for name in parts if ".lora_" not in name and not name.endswith(".base_layer")]
    if {name for name in others if name.rpartition(".")[2] in short} == layers:
        return sorted(short)
    return sorted(layers)


def _part(name: str, body: str) -> str:
    """The module to which a trained weight belongs: a head, or a part of the body such as its pooler."""
    return name.removeprefix(body).split(".")[0]


def _prefix(model: PreTrainedModel) -> str:
    """What names of the body's modules begin with in the model: ``model.`` or nothing."""
    body = next(name for name, part in model.named_modules() if part is model.base_model)
    return f"{unwrapped(body)}." if body else ""


def _portable(path: str) -> str:
    """A folder below the working directory as seen from there: the run may be copied to another machine."""
    if not os.path.isabs(path):
        return path
    seen = os.path.relpath(path)
    return path if seen.startswith(os.pardir) else seen


def _of(key: str, name: str) -> bool:
    return ".lora_" in key and f".{name}." in key


# ---------------------------------------------------------------------- reading


@dataclass
class SavedAdapters:
    """Adapters from files.

    Attributes:
        folder: Where they lie.
        config: As peft describes them.
        base: Fingerprint of the frozen weights; None where somebody else wrote them.
        weights: By name, as peft has it, without the beginning that all have in common.
    """

    folder: Path
    config: LoraConfig
    base: str | None
    weights: dict[str, Tensor]

    @cached_property
    def head(self) -> Tensor | None:
        """Weight ``(1, H)`` of a head without bias, if that is all there is beside adapters."""
        beside = {name: each for name, each in self.weights.items() if ".lora_" not in name}
        head = beside.get("score.weight")
        return head if len(beside) == 1 and head is not None and head.shape[0] == 1 else None

    @property
    def special(self) -> str | None:
        """What makes them more than a low-rank change of layers; None if nothing does."""
        for name, plain in _SCALED.items():
            if getattr(self.config, name, plain) != plain:
                return f"{name}: {getattr(self.config, name)}"
        if self.config.init_lora_weights not in (True, False, "gaussian"):
            return f"init_lora_weights: {self.config.init_lora_weights}"
        kinds = {name.rpartition(".lora_")[2] for name in self.weights if ".lora_" in name}
        odd = sorted(kinds - {"A.weight", "B.weight"})
        return f"lora_{odd[0]}" if odd else None

    def layers(self, body: nn.Module) -> dict[str, tuple[int, float]]:
        """Rank and scale of each layer's adapters, by the layer's name in a body."""
        found = {}
        for name, value in self.weights.items():
            layer, kind, _ = name.rpartition(".lora_A.weight")
            if kind:
                alphas = self.config.alpha_pattern or {}
                alpha = alphas.get(get_pattern_key(list(alphas), layer), self.config.lora_alpha)
                rank = value.shape[0]
                found[_inside(body, layer)] = (rank, alpha / (math.sqrt(rank) if self.config.use_rslora else rank))
        return found

    def add(self, model: PreTrainedModel, name: str) -> None:
        """Put them into a model, under a name of their own."""
        body: PreTrainedModel = model.base_model  # type: ignore[assignment]
        layers = self.layers(body)
        config = LoraConfig(
            target_modules=list(layers),
            rank_pattern={f"^{layer}": rank for layer, (rank, _) in layers.items()},
            alpha_pattern={f"^{layer}": rank * scale for layer, (rank, scale) in layers.items()},
            fan_in_fan_out=self.config.fan_in_fan_out,
        )
        inject(model, config, name)
        self.fill(body, name)

    def fill(self, body: nn.Module, name: str) -> None:
        """Copy the weights into a body's adapters of a name."""
        own = body.state_dict()
        for key, value in self.weights.items():
            layer, _, kind = key.rpartition(".lora_")
            if layer:
                own[f"{_inside(body, layer)}.lora_{kind.replace('.', f'.{name}.', 1)}"].copy_(value)


def _inside(body: nn.Module, layer: str) -> str:
    """A layer's name in a body, from its name in a model around it."""
    known, rest = {name.removesuffix(".base_layer") for name, _ in body.named_modules()}, layer
    while rest and rest not in known:
        rest = rest.partition(".")[2]
    if not rest:
        raise DataError(f"there is no layer {layer}", "adapters", "They belong to another model.")
    return rest


def saved_adapters(path: str | os.PathLike[str]) -> SavedAdapters | None:
    """Adapters that lie in a model's folder, on their own in it or in its folder ``adapters``; None without any.

    Raises:
        DataError: If their files cannot be read.
    """
    for folder in (Path(path), Path(path, "adapters")):
        try:
            if (folder / _OLD_CONFIG).exists():
                return _of_old_version(folder)
            if folder.is_dir() and (config := adapter_config(str(folder))) is not None:
                return None if config.get("peft_type") != "LORA" else _of_peft(folder)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"adapters that cannot be read: {error}", str(folder), "Copy the folder anew.") from None
    return None


def _of_peft(folder: Path) -> SavedAdapters:
    file = folder / WEIGHTS
    weights = load_file(file) if file.exists() else torch.load(folder / "adapter_model.bin", "cpu", weights_only=True)
    weights = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
    base = folder / BASE
    known = json.loads(base.read_text("utf-8"))["fingerprint"] if base.exists() else None
    config: Any = LoraConfig.from_pretrained(str(folder))
    return SavedAdapters(folder, config, known, weights)


def _of_old_version(folder: Path) -> SavedAdapters:
    content: dict[str, Any] = json.loads((folder / _OLD_CONFIG).read_text("utf-8"))
    lora = LoRA(**content["lora"])
    weights = {
        "score.weight" if name == "head.weight" else name.replace(".default.weight", ".weight"): value
        for name, value in load_file(folder / _OLD_WEIGHTS).items()
    }
    return SavedAdapters(folder, LoraConfig(r=lora.r, lora_alpha=lora.alpha), content["base"], weights)  # type: ignore[arg-type]
