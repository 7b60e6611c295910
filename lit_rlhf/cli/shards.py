"""Reading checkpoints, files and folders alike, without running anything that they may hold.

Strategies that split a network write a folder: parts by each process, and what is no tensor in ``meta.pt``.
"""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner  # pyright: ignore[reportPrivateUsage]
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict  # pyright: ignore[reportPrivateUsage]

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import file_digest, write_json
from lit_rlhf.networks.together import listed_from_all, processes, rank

_DIGESTS = "sha256.json"
_WEIGHTS = ("state_dict", "model")  # as FSDP2 and FSDP name them in their folders
_METADATA = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties"),
        *("ChunkStorageMetadata", "BytesStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
}
"""What the metadata of a folder may be made of, by module."""


def is_folder(path: str) -> bool:
    """Whether a checkpoint was written in parts."""
    return (Path(path) / "meta.pt").is_file()


def read_checkpoint(path: str, weights: bool = True) -> dict[str, Any]:
    """A checkpoint's content, on the CPU. Of a folder, without the optimiser's state.

    Args:
        path: File or folder.
        weights: Whether a folder's weights are read as ``state_dict``; whoever only asks what it is needs none.

    Raises:
        DataError: If it cannot be read, is something else, or holds anything but tensors and plain values.
    """
    try:
        if is_folder(path):
            content = torch.load(Path(path) / "meta.pt", map_location="cpu", weights_only=True)
            content["state_dict"] = _read_folder(path, weights)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content["callbacks"].get("SaveConfig")
        return content
    except OSError as error:
        hint = "A run writes its last one to checkpoints/last.ckpt in its folder."
        raise DataError(f"cannot be read: {error.strerror or error}", f"checkpoint {path}", hint) from None
    except Exception as error:  # whatever unpickling some other file raises
        hint = "Name a file of a checkpoints folder. If it is one, it is damaged: go on from another, or start anew."
        raise DataError(f"is no checkpoint: {type(error).__name__}", f"checkpoint {path}", hint) from None


def write_digests(folder: Path) -> None:
    """Write down what the files of a folder are, when all are there; a meeting of all processes, each reads some."""
    names = sorted(path.name for path in folder.iterdir())
    found = dict(listed_from_all([(name, file_digest(folder / name)) for name in names[rank() :: processes()]]))
    if rank() == 0:
        write_json(folder / _DIGESTS, found)


def check_bytes(path: str, number: int = 0, among: int = 1) -> None:
    """Refuse a checkpoint whose bytes are not those that were written, which reading it does not look at.

    A file brings a checksum of each of its tensors. Of a folder, each process looks at some files.

    Args:
        path: File or folder.
        number: Of this process among those that look.
        among: How many these are.

    Raises:
        DataError: Names the file.
    """
    hint = "Go on from another checkpoint, or start the run anew."
    if not is_folder(path):
        try:
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            damaged = str(error)
        if damaged is not None:
            raise DataError("is damaged: these are not the bytes that were written", f"checkpoint {path}", hint)
    elif (Path(path) / _DIGESTS).exists():  # earlier versions wrote none
        digests = _digests(Path(path))
        for name in [_DIGESTS] if "meta.pt" not in digests else sorted(digests)[number::among]:
            file = Path(path) / name
            if not file.is_file() or file_digest(file) != digests.get(name):
                raise DataError("is damaged: not the bytes that were written", f"checkpoint {path}, {name}", hint)


def _digests(folder: Path) -> dict[str, str]:
    """What the files of a folder should be; nothing if that itself cannot be read."""
    try:
        found = json.loads((folder / _DIGESTS).read_text("utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def written_by(path: str) -> str | None:
    """Name of the strategy that can go on from a folder; None of a file, from which all can."""
    if not is_folder(path):
        return None
    keys = _SafeReader(path).read_metadata().state_dict_metadata
    return "FSDPStrategy" if any(key.startswith("model.") for key in keys) else "ModelParallelStrategy"


def _read_folder(path: str, weights: bool) -> dict[str, Tensor]:
    """The weights, if they are wanted.

    What is no tensor is read in any case: were there code in it, the strategy that goes on from here would run it.
    """

    def wanted(key: str, metadata: Metadata) -> bool:
        is_weight = key.startswith(tuple(f"{name}." for name in _WEIGHTS))
        return isinstance(metadata.state_dict_metadata[key], BytesStorageMetadata) or (weights and is_weight)

    reader = _SafeReader(path)
    reader.read_metadata()
    found: dict[str, Any] = {}
    try:
        _load_state_dict(found, storage_reader=reader, planner=_Planner(wanted), no_dist=True)
    except CheckpointException as error:  # wraps what was wrong, by process
        raise next(iter(error.failures.values()))[0] from None
    values: dict[str, Any] = next((found[name] for name in _WEIGHTS if name in found), {})
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class _OnlyMetadata(pickle.Unpickler):
    """Knows the few classes that describe tensors, and calls nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if global_name not in _METADATA.get(module_name, ()):
            raise pickle.UnpicklingError(f"{module_name}.{global_name} describes no tensor")
        return super().find_class(module_name, global_name)


class _SafeReader(FileSystemReader):
    """Its own way to the metadata: torch's would unpickle anything."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata: Metadata = _OnlyMetadata(io.BytesIO((Path(self.path) / ".metadata").read_bytes())).load()
        return metadata


class _Planner(_EmptyStateDictLoadPlanner):
    """Reads the entries that are wanted; what is no tensor must be plain values.

    Args:
        wanted: From an entry's name and the metadata to whether it is read.
    """

    def __init__(self, wanted: Callable[[str, Metadata], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def _should_include_key(self, key: str, metadata: Metadata) -> bool:
        return self._wanted(key, metadata)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # nobody asks for the values; what runs code is an error
