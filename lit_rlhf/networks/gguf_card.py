"""The model card of a directory that was made of a GGUF file."""

from collections import Counter
from importlib.metadata import version
from math import prod
from typing import Any

import yaml

from lit_rlhf.networks.gguf_files import Header

_UNKNOWN = "The file names no licence: look for it where the model comes from, before you pass anything on."


def gguf_card(header: Header, name: str, model: Any, dtype: str, tokenizer: str | None) -> str:
    """The text of a card, in Markdown, with a head that the Hugging Face Hub understands.

    Args:
        header: Of the file.
        name: What the card calls the model.
        model: As it was written.
        dtype: Of its weights.
        tokenizer: Where the tokenizer comes from, if not from the file.
    """
    package, facts = header.packaged, header.facts
    title = package.title if package else facts.get("general.name") or header.path.stem
    licence = package.licence if package else facts.get("general.license")
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "license": licence}
    listed = yaml.safe_dump({key: value for key, value in head.items() if value}, sort_keys=False)
    kinds: Counter[str] = Counter()
    for tensor in header.tensors.values():
        kinds[str(tensor.tensor_type.name)] += prod(tensor.shape.tolist())
    packed = [f"{count / kinds.total():.1%} {kind}" for kind, count in kinds.most_common()]
    parameters = sum(each.numel() for each in model.parameters())
    notes = "".join(f"\n- Note: {note}." for note in header.notes)
    where = f" of the package {package.distribution} {version(package.distribution)}" if package else ""
    return f"""---
{listed}---

# {name}

{title}, as it stands in `{header.path.name}`{where}.
Nothing was trained.

## What was done

- The weights ({", ".join(packed)}) were unpacked to {dtype}: {parameters:,} parameters of the
  architecture `{model.config.model_type}`. What quantisation had rounded stays rounded.
- The tokenizer and the chat template are {f"those of `{tokenizer}`" if tokenizer else "the file's"}.
- Generation stops at the tokens {_ends(model)}.{notes}

By lit-rlhf {version("lit-rlhf")} with transformers {version("transformers")} and gguf {version("gguf")};
every weight was read again and compared.

## Source and licence

{_source(header, licence)}
"""


def _ends(model: Any) -> str:
    ends = model.generation_config.eos_token_id
    return ", ".join(map(str, ends if isinstance(ends, list) else [ends])) if ends is not None else "(none is known)"


def _source(header: Header, licence: str | None) -> str:
    keys = ("general.organization", "general.author", "general.source.url", "general.repo_url", "general.url")
    said = [f"- {key}: {header.facts[key]}" for key in keys if header.facts.get(key)]
    if header.packaged is not None:
        said.insert(0, f"- The model: {header.packaged.origin}")
    terms = f"- Licence: {licence}" if licence else f"- {_UNKNOWN}"
    return "\n".join([*said, terms])
