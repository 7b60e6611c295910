"""From a GGUF file to a Hugging Face directory: every weight unpacked, none lost and none invented."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import naming
from lit_rlhf.networks.backbone import replace_directory
from lit_rlhf.networks.gguf_card import gguf_card
from lit_rlhf.networks.gguf_files import Header, read_header
from lit_rlhf.networks.gguf_positions import take_over_positions
from lit_rlhf.networks.gguf_tokenizers import check_saved, end_ids, read_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_OLDEST = Version("5.20")
_INSTEAD = "Take the model's Hugging Face directory instead of a GGUF file."
_DAMAGED = "The file may be damaged: download or copy it again."


def convert(source: str, directory: Path, dtype: str = "float32", tokenizer: str | None = None) -> Header:
    """Write a Hugging Face directory: config, safetensors, tokenizer, chat template, generation config, card.

    The directory appears whole or not at all; one that stood there before is replaced. Quantised weights are unpacked,
    so it takes several times the file's size, in memory twice.

    Args:
        source: A name in `PACKAGES`, a GGUF file, or a folder that holds one.
        directory: Where to.
        dtype: Of the weights, one of `DTYPES`.
        tokenizer: Directory or Hub id of a tokenizer to take instead of the file's.

    Returns:
        What the file says of itself, with notes on what is doubtful.

    Raises:
        DataError: If there is no such file, or it cannot be converted without loss.
    """
    header = read_header(source)
    if Version(transformers.__version__) < _OLDEST:
        hint = 'Install a newer one: pip install "transformers>=5.20,<5.40".'
        message = f"transformers {transformers.__version__} reads the tokenizers of GGUF files wrongly"
        raise DataError(message, str(header.path), hint)
    with _quiet():
        config = _read_config(header)
        taken_over = take_over_positions(config, header)
        words = read_tokenizer(header, tokenizer)
        _agree(config, words)
        loaded = _read_weights(header, config, DTYPES[dtype])
        _check_nothing_is_lost(header, loaded, taken_over)
        _check_sizes(header, loaded, words)
        model = _plain(loaded, config, header, DTYPES[dtype])
        model.generation_config = GenerationConfig(**_ends(header, words))
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with naming(partial):
                model.save_pretrained(partial)
                words.save_pretrained(partial)
                (partial / "README.md").write_text(gguf_card(header, directory.name, model, dtype, tokenizer), "utf-8")
            _check_saved(partial, model, DTYPES[dtype])
            check_saved(partial, words)
            replace_directory(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return header


@contextmanager
def _quiet() -> Generator[None]:
    """Without transformers' words on how a GGUF file is loaded: what matters is said by the caller."""
    before, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()


# ---------------------------------------------------------------------- reading


def _read_config(header: Header) -> Any:
    """The config, as transformers' reader makes it of what the file says."""
    if header.architecture == "llama" and header.fact("attention.head_count_kv") is None:
        # The reader would leave queries and keys in llama.cpp's order.
        raise DataError(
            "does not say how many key heads it has (llama.attention.head_count_kv)", str(header.path), _DAMAGED
        )
    layers = header.fact("block_count")
    if layers is not None and layers > len(header.tensors):  # it would take long to build them
        message = f"says that it has {layers} layers, and holds {len(header.tensors)} weights"
        raise DataError(message, str(header.path), _DAMAGED)
    try:
        config: Any = AutoConfig.from_pretrained(str(header.path.parent), gguf_file=header.path.name)
    except Exception as error:
        raise _not_read(header, error) from None
    width = header.fact("attention.key_length")
    if width is not None and header.architecture in (
        "qwen3",
        "llama",
        "mistral",
    ):  # for which the reader takes a default
        config.head_dim = int(width)
    for name in ("_model_name_or_path", "quantization_config"):
        if hasattr(config, name):
            delattr(config, name)
    return config


def _agree(config: Any, tokenizer: Any) -> None:
    """Let the config name the tokenizer's tokens, not those of its class, and the tokenizer the config's length."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if not isinstance(getattr(config, name, None), list):  # a list says more
            setattr(config, name, getattr(tokenizer, name))
    longest = getattr(config, "max_position_embeddings", None)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest or tokenizer.model_max_length)


def _read_weights(header: Header, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    options: Any = {"gguf_file": header.path.name, "config": config, "dtype": dtype, "output_loading_info": True}
    try:
        model, told = _maker().from_pretrained(str(header.path.parent), **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise _not_read(header, error) from None
    if told["mismatched_keys"]:
        listed = _listed({str(each) for each in told["mismatched_keys"]})
        raise DataError(f"its weights have other shapes than it says: {listed}", str(header.path), _DAMAGED)
    missing = sorted(told["missing_keys"])
    if missing:
        listed = _listed(missing)
        raise DataError(f"lacks weights of a {config.model_type} model: {listed}", str(header.path), _DAMAGED)
    return model


def _maker() -> Any:  # whose type says nothing of `output_loading_info`
    return AutoModelForCausalLM


def _not_read(header: Header, error: Exception) -> DataError:
    reason = (str(error).strip().splitlines() or [""])[0]
    if "not supported yet" in reason or "Unrecognized" in reason or isinstance(error, NotImplementedError):
        what = f"transformers reads no language model of the architecture {header.architecture!r} from GGUF files"
        return DataError(what, str(header.path), _INSTEAD)
    what = f"transformers cannot read it: {type(error).__name__}{f': {reason}' if reason else ''}"
    return DataError(what, str(header.path), _DAMAGED)


# ---------------------------------------------------------------------- checking


def _check_nothing_is_lost(header: Header, model: PreTrainedModel, taken_over: set[str]) -> None:
    """Refuse a file of which some weights have no place in the model, or that holds no sensible numbers.

    transformers' reader leaves out tensors that it knows no place for and says nothing. Names differ, and so do shapes,
    where one fuses what the other keeps apart; the number of values does not.
    """
    aside = taken_over | _tied_copy(header, model) | _further_tokens(header, model)
    held = sum(prod(each.shape.tolist()) for name, each in header.tensors.items() if name not in aside)
    unique = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    wanted = sum(tensor.numel() for tensor in unique.values())
    if held != wanted:
        listed = _listed(_without_place(header, model) - aside) or "it is not known which"
        counted = f"{held:,} values in the file, {wanted:,} in a {model.config.model_type} model"
        raise DataError(f"weights would be lost: {counted}; without a place: {listed}", str(header.path), _INSTEAD)
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{name} holds numbers that are not finite", str(header.path), _DAMAGED)
        if tensor.dim() > 1 and not bool(tensor.any()):  # room that a download made and did not fill
            raise DataError(f"{name} holds nothing but zeros", str(header.path), _DAMAGED)


def _tied_copy(header: Header, model: PreTrainedModel) -> set[str]:
    """The output matrix of a file that repeats the embeddings, as those of Falcon do."""
    names = ("output.weight", "token_embd.weight")
    if not model.config.tie_word_embeddings or not all(name in header.tensors for name in names):
        return set()
    from gguf import dequantize

    output, embeddings = (
        torch.from_numpy(dequantize(each.data[:64], each.tensor_type).copy())  # a few rows are enough to tell
        for each in (header.tensors[name] for name in names)
    )
    apart = float((output - embeddings).norm() / embeddings.norm())
    return {names[0]} if apart < 0.2 else set()  # packed in different ways


def _further_tokens(header: Header, model: PreTrainedModel) -> set[str]:
    """Layers behind the last, which guess further tokens and are no part of transformers' model."""
    if not header.fact("nextn_predict_layers"):
        return set()
    behind = f"blk.{model.config.num_hidden_layers}."
    names = {name for name in header.tensors if name.startswith(behind)}
    if names:
        header.notes.append("its layers that guess several tokens at once are left out: transformers does not use them")
    return names


def _without_place(header: Header, model: PreTrainedModel) -> set[str]:
    """Names of tensors that transformers' reader passes over, as far as it can be asked."""
    try:
        from transformers import modeling_gguf_pytorch_utils as reader

        processor = reader.TENSOR_PROCESSORS.get(header.architecture, reader.TensorProcessor)(model.config.to_dict())
        return set(header.tensors) - set(reader.get_gguf_hf_weights_map(model, processor))
    except (ImportError, AttributeError, NotImplementedError):  # another reader, or other names within it
        return set()


def _check_sizes(header: Header, model: PreTrainedModel, tokenizer: Any) -> None:
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]
    if len(tokenizer) > rows:
        message = f"the tokenizer has {len(tokenizer)} tokens, the model embeddings for {rows}"
        raise DataError(message, str(header.path), "Give the tokenizer that belongs to the model: --tokenizer FOLDER.")


def _check_saved(directory: Path, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Read the directory again, and compare every weight."""
    options: Any = {"dtype": dtype, "output_loading_info": True}
    again, told = _maker().from_pretrained(str(directory), **options)
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    states = again.state_dict()
    wrong += [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, states[name])]
    if wrong:
        message = f"weights differ once they have been written: {_listed({str(each) for each in wrong})}"
        raise DataError(message, str(directory), "The disk may be damaged: write to another one.")


# ---------------------------------------------------------------------- writing


def _plain(loaded: PreTrainedModel, config: Any, header: Header, dtype: torch.dtype) -> PreTrainedModel:
    """The model without its history of quantisation, with which transformers would refuse to write it."""
    config.dtype = dtype
    with torch.device("meta"):
        model: Any = type(loaded)(config)
    state: dict[str, Tensor] = loaded.state_dict()
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:  # which transformers before 5.23 leaves to us
        reason = str(error).strip().splitlines()[-1].strip()
        raise DataError(f"its weights have other shapes than it says: {reason}", str(header.path), _DAMAGED) from None
    model.tie_weights()
    return model.eval()


def _ends(header: Header, tokenizer: Any) -> dict[str, Any]:
    """What the generation config says of the tokens that begin, end and fill."""
    ends = end_ids(tokenizer, header)
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if ends:
        ids["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    return {name: value for name, value in ids.items() if value is not None}


def _listed(names: Any) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
