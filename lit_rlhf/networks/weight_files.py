"""The weights of a model's directory or Hub id: names and shapes first, values when they are asked for."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from lit_rlhf.data.errors import DataError

_FILES = ("model.safetensors", "pytorch_model.bin")  # transformers looks for them in this order
_INSIDE = ("state_dict", "model_state_dict", "model", "module")  # where a trainer's own checkpoint has the weights
_POINTER = b"version https://git-lfs"
_AGAIN = "Copy or download all of it again."


@dataclass
class Stored:
    """A weight in a file.

    Attributes:
        file: Its path.
        key: Its name there.
        shape: As it is there.
        values: Its values, mapped into memory, where the file is in PyTorch's format; None for safetensors.
    """

    file: str
    key: str
    shape: tuple[int, ...]
    values: Tensor | None = None

    @property
    def rows(self) -> int:
        """Entries along its first dimension; 0 for a single number."""
        return self.shape[0] if self.shape else 0

    def whole(self) -> Tensor:
        """All of it, in the dtype of the file."""
        if self.values is not None:
            return self.values
        with safe_open(self.file, "pt") as opened:
            return opened.get_tensor(self.key)

    def read(self, start: int = 0, end: int | None = None) -> Tensor:
        """Some of its rows, in fp32."""
        if not self.rows or self.values is not None:  # a single number has no rows to be cut
            return self.whole().float() if not self.rows else self.whole()[start:end].float()
        with safe_open(self.file, "pt") as opened:
            return opened.get_slice(self.key)[start : self.rows if end is None else end].float()


def stored_weights(path: str) -> dict[str, Stored]:
    """Every weight in a directory's or Hub id's files by its name there.

    Raises:
        DataError: If there are no weights, a file is missing, or stands for one that was never downloaded.
    """
    for name in _FILES:
        files = _files_of(path, name)
        if files:
            read = _of_safetensors if name.endswith(".safetensors") else _of_pickle
            return {key: stored for file in files for key, stored in read(_no_pointer(path, file)).items()}
    raise DataError(f"holds no weights: there is neither {' nor '.join(_FILES)}", path, _other_format(path))


def _files_of(path: str, name: str) -> list[str]:
    """The file of that name, or the parts that an index names; none where there is neither."""
    file = _find(path, name)
    if file is not None:
        return [file]
    index = _find(path, f"{name}.index.json")
    if index is None:
        return []
    index = _no_pointer(path, index)
    try:
        parts = sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DataError(f"{name}.index.json is damaged: it holds no map of weights", path, _AGAIN) from None
    files = {part: _find(path, part) for part in parts}
    absent = [part for part, file in files.items() if file is None]
    if absent:
        count, names = f"{len(absent)} of {len(parts)}", absent[0]
        raise DataError(f"{count} files with weights are missing that its index names, such as {names}", path, _AGAIN)
    return [file for file in files.values() if file is not None]


def _find(path: str, name: str) -> str | None:
    options = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    return cached_file(path, name, **options)


def _no_pointer(path: str, file: str) -> str:
    """The file itself; a clone without git-lfs leaves a few lines in the place of each large one."""
    with open(file, "rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            hint = "In the clone: git lfs install, then git lfs pull."
            raise DataError(f"{Path(file).name} is a git-lfs pointer: its content was never downloaded", path, hint)
    return file


def _of_safetensors(file: str) -> dict[str, Stored]:
    with safe_open(file, "pt") as opened:
        keys: list[str] = list(opened.keys())
        return {key: Stored(file, key, tuple(opened.get_slice(key).get_shape())) for key in keys}


def _of_pickle(file: str) -> dict[str, Stored]:
    """Nothing is unpickled but tensors and plain values."""
    try:
        try:
            content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of PyTorch before 1.6 cannot be mapped
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged file, or one with code in it, leads to
        hint = "Take a copy in the safetensors format."
        raise DataError("is no file of plain weights: it is damaged, or would run code", file, hint) from None
    while isinstance(content, dict) and (inner := [each for each in _INSIDE if isinstance(content.get(each), dict)]):
        content = content[inner[0]]
    if not isinstance(content, dict):
        raise DataError(f"holds a {type(content).__name__}, no weights by name", file, "Save model.state_dict().")
    return {key: Stored(file, key, tuple(value.shape), value) for key, value in content.items() if _is_tensor(value)}


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _other_format(path: str) -> str:
    """What to do about a folder whose weights are in another format."""
    names = os.listdir(path) if os.path.isdir(path) else []
    if any(name.endswith(".gguf") for name in names):
        return "It holds a GGUF file: lit-rlhf model FILE FOLDER makes a Hugging Face directory of it."
    if any(name.endswith((".h5", ".msgpack")) for name in names):
        return "It holds weights of TensorFlow or Flax: write them with PyTorch first."
    if any(name.endswith((".ckpt", ".pt", ".pth")) for name in names):
        return "Write the model with save_pretrained, or, if lit-rlhf trained it, with lit-rlhf export."
    return "Give a Hugging Face directory; an earlier stage writes one at its end."
