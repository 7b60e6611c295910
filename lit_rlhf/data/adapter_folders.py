"""Folders that hold low-rank adapters alone, as peft writes them: what they say of their base model."""

import json
import os
from pathlib import Path
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import check_folder, is_hub_id, near_names

CONFIG = "adapter_config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_WEIGHTS = ("model", "pytorch_model")


def adapter_config(path: str) -> dict[str, Any] | None:
    """What a folder or Hub id says of the adapters in it; None where it holds none, or may not be asked.

    Raises:
        DataError: If the file is no JSON object, or the weights of a whole model lie beside the adapters.
    """
    file = _file(path)
    if file is None:
        return None
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"is no JSON: {error}", str(file), "Copy the adapters anew.") from None
    if not isinstance(content, dict):
        raise DataError("is no JSON object", str(file), "Copy the adapters anew.")
    whole = [each.name for each in file.parent.iterdir() if each.name.startswith(_WEIGHTS) and _is_weights(each.name)]
    if whole:
        hint = f"Move {CONFIG} and adapter_model.safetensors into a folder of their own, and name the one you mean."
        raise DataError(f"holds the weights of a whole model ({min(whole)}) and adapters, too", path, hint)
    return content  # type: ignore[return-value]


def base_of(path: str, config: dict[str, Any]) -> str:
    """Directory or Hub id of the model that adapters were trained on, as their config names it.

    A relative path is looked for from the working directory, then from the adapters' folder.

    Raises:
        DataError: If it names none, or a folder that is not there.
    """
    base = config.get("base_model_name_or_path")
    hint = f"Write its directory or Hub id into {CONFIG}: base_model_name_or_path."
    if not isinstance(base, str) or not base:
        raise DataError("holds adapters whose config names no base model", path, hint)
    base = os.path.expanduser(base)
    if os.path.isdir(path) and os.path.realpath(base) == os.path.realpath(path):
        raise DataError("holds adapters whose config names this folder as their base model", path, hint)
    for candidate in (base, os.path.join(path, base)):
        if os.path.isdir(candidate):
            return candidate
    if is_hub_id(base) and not os.path.isabs(base):
        return base
    near = near_names(base)
    hint = " ".join(filter(None, [near, f"If the model has moved, write where it is into {CONFIG}:"]))
    message = f"holds adapters for {base}, and there is no such folder"
    raise DataError(message, path, f"{hint} base_model_name_or_path.")


def tokenizer_folder(path: str) -> str:
    """Where the tokenizer of a model lies: the model's folder, or its base model's for adapters that bring none."""
    check_folder(path)
    config = adapter_config(path)
    if config is None or any(_file(path, name) for name in _TOKENIZER):
        return path
    return tokenizer_folder(base_of(path, config))


def _file(path: str, name: str = CONFIG) -> Path | None:
    if os.path.isdir(path):
        return Path(path, name) if os.path.exists(os.path.join(path, name)) else None
    if not is_hub_id(path):
        return None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError:  # no such repository, or none that may be asked: whoever loads the model says so
        return None
    return Path(found) if found else None


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json"))
