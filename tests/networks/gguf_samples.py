"""Tiny random models written as GGUF files, in the order and under the names that llama.cpp's converter gives."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers", minversion="5.20", reason="older ones read the tokenizers of GGUF files wrongly")

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot|>")
MERGES = ("Ġ w", "o r", "Ċ Ċ", "Ġ Ġ", "Ġw or")
_SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "head_dim": 16}
_CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "gemma2": transformers.Gemma2Config,
    "gemma3": transformers.Gemma3TextConfig,
    "phi3": transformers.Phi3Config,
    "starcoder2": transformers.Starcoder2Config,
}
_WITHOUT = {"phi3": ("head_dim",), "starcoder2": ("head_dim", "rms_norm_eps")}
ARCHITECTURES = tuple(_CONFIGS)


def vocabulary() -> list[str]:
    """Control tokens, the 256 bytes as GPT-2 spells them, and what the merges make."""
    spelled = bytes_to_unicode()
    return [*CONTROL, *(spelled[byte] for byte in range(256)), *(merge.replace(" ", "") for merge in MERGES)]


def _of_gemma() -> dict[str, Any]:
    """A vocabulary of letters with scores, from which merges are derived."""
    special, bytes_ = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["\u2581", "a", "b", "ab"]
    tokens = [*special, *bytes_, *words]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [3] * 3 + [2, 4] + [6] * 256 + [1] * len(words),
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": None,
    }


def random_model(architecture: str = "llama", **options: Any) -> Any:
    """A language model whose every weight is random."""
    shape = {name: size for name, size in _SHAPE.items() if name not in _WITHOUT.get(architecture, ())}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = _CONFIGS[architecture](**{**shape, **ends, "vocab_size": len(vocabulary()), **options})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def write_gguf(
    path: Path,
    model: Any,
    architecture: str = "llama",
    kind: str = "F32",
    leave: Collection[str] = (),
    tensors: dict[str, np.ndarray] | None = None,
    **facts: Any,
) -> Path:
    """Write a model with a byte-level tokenizer.

    Args:
        path: The file.
        model: Its matrices are rounded in place to what the file holds.
        architecture: llama.cpp's name.
        kind: Of the matrices: F32, F16 or Q8_0.
        leave: Names of tensors to leave out.
        tensors: Further or other ones.
        facts: Further or other keys, dots written as ``__``; None leaves one out.
    """
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    known = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None),
        "attention.layer_norm_epsilon": getattr(config, "norm_epsilon", None),
        "attention.key_length": config.head_dim if architecture in ("qwen3", "gemma2", "gemma3") else None,
        "attention.sliding_window": config.sliding_window if architecture.startswith("gemma") else None,
        "rope.dimension_count": getattr(config, "head_dim", None) if architecture == "llama" else None,
        "vocab_size": config.vocab_size,
    }
    keys = {f"{architecture}.{name}": value for name, value in known.items()}
    keys |= {
        "general.name": "a random model",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary(),
        "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (len(vocabulary()) - len(CONTROL)),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    keys |= _of_gemma() if architecture.startswith("gemma") else {}
    keys |= {name.replace("__", "."): value for name, value in facts.items()}
    for name, value in keys.items():
        _add(writer, name, value)
    held = {name: each for name, each in _tensors(model, architecture, kind).items() if name not in leave}
    for name, (values, form) in {**held, **{name: (each, None) for name, each in (tensors or {}).items()}}.items():
        writer.add_tensor(name, values, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, name: str, value: Any) -> None:
    if value is None:
        return
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(name, value)


def _tensors(model: Any, architecture: str, kind: str) -> dict[str, tuple[np.ndarray, Any]]:
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    form, found = getattr(gguf.GGMLQuantizationType, kind), {}
    for name, parameter in model.named_parameters():  # a tied head is named once
        stem, _, ending = name.rpartition(".")
        if parameter.dim() > 1:
            packed = gguf.quantize(parameter.detach().numpy(), form)
            parameter.data = torch.from_numpy(gguf.dequantize(packed, form).copy())
            values = gguf.quantize(_ordered(name, parameter.detach().numpy(), model.config, architecture), form)
        else:
            values = parameter.detach().numpy() + (
                1 if architecture.startswith("gemma") else 0
            )  # whose norms are stored so
        found[f"{names.get_name(stem)}.{ending}"] = (values, form if parameter.dim() > 1 else None)
    return found


def _ordered(name: str, values: np.ndarray, config: Any, architecture: str) -> np.ndarray:
    """Rows of Llama's queries and keys stand in pairs there."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None or architecture != "llama":
        return values
    pairs = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
