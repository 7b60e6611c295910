"""Opening the tokenizer of a model's folder; where that fails, what is missing and what helps."""

import os
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import check_folder, near_names

_VOCABULARIES = (".json", ".model", ".txt", ".spm", ".tiktoken", ".bpe", ".codes")
_NO_VOCABULARIES = ("config.json", "index.json", "generation_config.json", "tokenizer_config.json")
_OTHER = (
    "Name the folder or Hub id of its tokenizer (data.tokenizer of a stage, tokenizer of RewardModel.load and "
    "ScalarReward), or write it there: AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER)."
)


def open_tokenizer(path: str) -> Any:
    """The transformers tokenizer of a Hugging Face directory or Hub id.

    Raises:
        DataError: If there is none, it needs a package or code of its own, or its files are damaged.
    """
    from transformers import AutoTokenizer

    check_folder(path)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # damaged files raise anything, tokenizers' own bare Exception among it
        raise _refusal(path, error) from None
    if len(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)) == 0:  # made up, without any file
        raise DataError("no tokenizer could be loaded: there is none in it", path, _OTHER)
    return tokenizer


def _refusal(path: str, error: Exception) -> DataError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    hint = near_names(path) if not os.path.exists(path) else ""
    names = [name for name in os.listdir(path) if _may_hold_vocabulary(name)] if os.path.isdir(path) else None
    pointers = [name for name in names or [] if _is_pointer(os.path.join(path, name))]
    if pointers:
        reason, hint = f"{pointers[0]} is a git-lfs pointer", "In the clone: git lfs install, then git lfs pull."
    elif names == []:
        reason, hint = "there is none in it", _OTHER
    elif "custom code" in str(error):
        reason = "it is code that lies in the folder, and such code is never run"
        hint = f"Take a tokenizer that transformers knows. {_OTHER}"
    elif names is not None and not os.path.exists(os.path.join(path, "tokenizer.json")):
        pieces = [name for name in names if name.endswith((".model", ".spm", ".tiktoken"))]
        if pieces and any(package in str(error) for package in ("tiktoken", "sentencepiece")):
            reason = f"{pieces[0]} cannot be read without another package, or is damaged"
            hint = "pip install sentencepiece tiktoken, or take a folder with tokenizer.json."
    return DataError(f"no tokenizer could be loaded: {reason}", path, hint or "Give a Hugging Face directory.")


def _may_hold_vocabulary(name: str) -> bool:
    return name.endswith(_VOCABULARIES) and not name.endswith(_NO_VOCABULARIES) and _is_own(name)


def _is_own(name: str) -> bool:
    """Whether a name is one of a tokenizer's: reports, notes and states of training end alike."""
    words = ("token", "vocab", "merges", "spiece", "sentencepiece", "tekken", "source", "target", "bpe", "qwen")
    return any(word in name.lower() for word in words)


def _is_pointer(file: str) -> bool:
    with open(file, "rb") as opened:
        return opened.read(23) == b"version https://git-lfs"
