"""The tokenizer of a GGUF file, and at which tokens its model ends an answer."""

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.gguf_files import Header

_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""llama.cpp's names of tokenizers that split text as GPT-2's, but digits one by one."""

_AS_GPT2 = ("gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "trillion", "granite-docling")
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "tekken", "lfm2")
"""Those that take a word of the vocabulary as it is, even where no merges lead to it."""

_MARKS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_OTHER_ENDS = ("eot_token_id", "eom_token_id")
_OWN = "Give the tokenizer of the model's makers: --tokenizer FOLDER."


def read_tokenizer(header: Header, own: str | None = None) -> Any:
    """The tokenizer with the model's chat template; what is doubtful about it is added to the notes of the header.

    Args:
        header: Of the file.
        own: Directory or Hub id of a tokenizer to take instead of the file's.

    Raises:
        DataError: If there is none, or it cannot be read.
    """
    if own is not None:
        return Renderer.load(own, exact=True).tokenizer
    if "tokenizer.ggml.model" not in header.facts or not header.facts.get("tokenizer.ggml.tokens"):
        raise DataError("holds no tokenizer", str(header.path), _OWN)
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(header.path.parent), gguf_file=header.path.name)
    except Exception as error:  # whatever a description that is not understood leads to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"its tokenizer cannot be read: {reason}", str(header.path), _OWN) from None
    if header.facts["tokenizer.ggml.model"] == "gpt2":
        _split_as_trained(tokenizer, header)
    tokenizer = _plain(tokenizer, header)
    if tokenizer.chat_template is None:
        header.notes.append(
            "it has no chat template, so it may be a model that was not trained to chat: prompts are written as the "
            "option data.template says, by default `dialogue`"
        )
    return tokenizer


def _plain(tokenizer: Any, header: Header) -> Any:
    """The same of the general class: those of GPT-2 and others split text their own way whenever they are loaded."""
    from transformers import PreTrainedTokenizerFast

    options: dict[str, Any] = {"chat_template": tokenizer.chat_template, "clean_up_tokenization_spaces": False}
    for name, key in _MARKS.items():
        place = header.facts.get(f"tokenizer.ggml.{key}")
        options[name] = None if place is None else tokenizer.convert_ids_to_tokens(place)
    for name in ("add_bos_token", "add_eos_token"):
        options[name] = getattr(tokenizer, name, None)
    given = {name: value for name, value in options.items() if value is not None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **given)


def _split_as_trained(tokenizer: Any, header: Header) -> None:
    """Split text into words as the model's makers did; transformers' reader knows some ways, and else takes GPT-2's."""
    core, way = tokenizer.backend_tokenizer, header.facts.get("tokenizer.ggml.pre", "default")
    if way in _WHOLE_WORDS:
        with suppress(AttributeError):  # no such tokens there
            core.model.ignore_merges = True
    splitting = json.loads(core.to_str())["pre_tokenizer"] or {}
    if splitting.get("type") != "ByteLevel" or way in _AS_GPT2:
        return
    if way in _DIGITS:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        core.pre_tokenizer = pre_tokenizers.Sequence(parts)
        return
    header.notes.append(
        f"how its makers split text into words ({way!r}) is not known, so it is split as for GPT-2, which may give "
        f"other tokens than in training. {_OWN}"
    )


def end_ids(tokenizer: Any, header: Header) -> list[int]:
    """Ids at which the model ends an answer: the tokenizer's end, that of the template, and those that the file names.

    Args:
        tokenizer: Of the model; it is not changed.
        header: Of the file.
    """
    known = [header.facts.get(f"tokenizer.ggml.{name}") for name in _OTHER_ENDS]
    declared = [int(each) for each in known if each is not None and each < len(tokenizer)]
    if tokenizer.eos_token_id is None or tokenizer.chat_template is None:
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        return list(dict.fromkeys([*own, *declared]))
    return list(dict.fromkeys([*Renderer(copy.deepcopy(tokenizer), exact=True).end_ids, *declared]))


def check_saved(directory: Path, tokenizer: Any) -> None:
    """Refuse a directory whose tokenizer gives other ids than the one that was written there.

    Raises:
        DataError: If it does.
    """
    from transformers import AutoTokenizer

    text = "It's 2024:\n\n1. Hello  world!\n12 naïve cafés\t<b>日本語</b>" + "".join(tokenizer.all_special_tokens)
    again = AutoTokenizer.from_pretrained(str(directory))
    if again(text)["input_ids"] != tokenizer(text)["input_ids"] or again.chat_template != tokenizer.chat_template:
        raise DataError("the tokenizer reads otherwise once it has been written", str(directory), _OWN)
