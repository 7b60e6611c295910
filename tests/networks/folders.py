"""Model folders as other people leave them, made from tiny random models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]


def folder(source: str, target: Path, change: Callable[[Weights], Weights] | None = None, **config: Any) -> str:
    """A copy of a model's folder, with other weights and with config entries changed; None takes one out."""
    shutil.copytree(source, target)
    if change is not None:
        file = target / "model.safetensors"
        save_file(
            {name: each.clone() for name, each in change(load_file(file)).items()}, file, metadata={"format": "pt"}
        )
    content = {**json.loads((target / "config.json").read_text()), **config}
    (target / "config.json").write_text(json.dumps({name: each for name, each in content.items() if each is not None}))
    return str(target)


def renamed(prefix: str) -> Callable[[Weights], Weights]:
    """All weights with a prefix."""
    return lambda weights: {prefix + name: each for name, each in weights.items()}


def with_head(name: str, rows: int = 1, bias: bool = False, seed: int = 3) -> Callable[[Weights], Weights]:
    """A head of that name for one number, or several, in the place of the model's own."""
    generator = torch.Generator().manual_seed(seed)

    def change(weights: Weights) -> Weights:
        kept = {key: each for key, each in weights.items() if key not in ("score.weight", "lm_head.weight")}
        width = next(each.shape[1] for key, each in weights.items() if "embed_tokens" in key or "wte" in key)
        added = {f"{name}.weight": torch.randn(rows, width, generator=generator)}
        return kept | added | ({f"{name}.bias": torch.randn(rows, generator=generator)} if bias else {})

    return change
