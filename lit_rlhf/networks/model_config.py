"""What a model's config says before anything is loaded: what cannot be used is refused in one line."""

from collections.abc import Iterable
from typing import Any, Literal

import transformers
from lightning.pytorch.utilities import rank_zero_info
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from lit_rlhf.data.errors import DataError

_MARKS = {
    "gptq": {"g_idx"},
    "GPTQ or AWQ": {"qweight", "qzeros"},
    "bitsandbytes": {"SCB", "absmax", "quant_map", "nested_absmax"},
    "FP8": {"weight_scale", "weight_scale_inv", "input_scale"},
}
"""Ends of names that only quantised weights have beside them."""

Kind = Literal["causal", "scalar", "rewriter"]
_QUANTISED = {
    "bitsandbytes": "With the package bitsandbytes, model.dequantize() and save_pretrained write plain ones.",
    "gptq": "The package gptqmodel computes with such weights, this one does not.",
    "awq": "The package gptqmodel computes with such weights, this one does not.",
}


def read_config(path: str, kind: Kind) -> PreTrainedConfig:
    """The config of a directory or Hub id, if a model of the wanted kind can be made of it.

    Args:
        path: Directory or Hub id.
        kind: As in `lit_rlhf.networks.backbone.load_model`.

    Raises:
        DataError: If the weights are quantised, or the model is of another kind, of none that transformers knows, or
            made by code of its own.
    """
    given: dict[str, Any] = PreTrainedConfig.get_config_dict(path)[0]
    _check_type(given, path)
    _check_quantised(given, path)
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    _check_kind(config, kind, path)
    own = [name for name in config.architectures or [] if not hasattr(transformers, name)]
    if given.get("auto_map") and own:
        told = f"warning: {path}: its own code ({own[0]}) is not run; it is read as transformers' {config.model_type}"
        rank_zero_info(told)
    return config


def scores_by_name(config: PreTrainedConfig) -> bool:
    """Whether a config says that the model gives scores or classes."""
    return any(_scores(name) for name in config.architectures or [])


def _scores(architecture: str) -> bool:
    return "Classification" in architecture or "Reward" in architecture


def _check_type(given: dict[str, Any], path: str) -> None:
    kind, code = given.get("model_type"), given.get("auto_map")
    if kind in CONFIG_MAPPING:
        return
    if code:
        what = f"its architecture ({kind}) is code that lies in the folder, and such code is never run"
        raise DataError(what, path, "Give a model of an architecture that transformers knows (no trust_remote_code).")
    if not kind:
        what = "its config.json names no model_type, so nobody knows which architecture it is"
        raise DataError(what, path, 'Write it in, such as "model_type": "llama", if you know it.')
    hint = "A newer one may: pip install -U transformers."
    raise DataError(f"transformers {transformers.__version__} knows no architecture {kind!r}", path, hint)


def check_plain(names: Iterable[str], path: str) -> None:
    """Refuse weights that are quantised though no config says so, as older programs wrote them.

    Raises:
        DataError: Names the way, as far as the weights' names tell it.
    """
    ends = {name.rpartition(".")[2] for name in names}
    for way, marks in _MARKS.items():
        if ends & marks:
            raise _quantised(way, path)


def _check_quantised(given: dict[str, Any], path: str) -> None:
    quantised = given.get("quantization_config")
    if quantised:
        raise _quantised(str(quantised.get("quant_method") or "bitsandbytes"), path)


def _quantised(way: str, path: str) -> DataError:
    hint = f"Name the model that it was made from. {_QUANTISED.get(way, '')}".strip()
    return DataError(f"its weights are quantised ({way}), and plain ones are needed", path, hint)


def _check_kind(config: PreTrainedConfig, kind: Kind, path: str) -> None:
    name = (config.architectures or [config.model_type])[0]
    if kind == "scalar" and config.is_encoder_decoder:
        hint = "Give a decoder such as Llama, or an encoder such as BERT."
        raise DataError(f"an encoder–decoder ({name}), which gives no score", path, hint)
    if kind == "scalar" and "TokenClassification" in name:
        raise DataError(f"labels every token ({name}), so it gives no score of a text", path, "Give one that does.")
    if kind == "causal" and config.is_encoder_decoder:
        hint = "Give a decoder such as Llama; an encoder–decoder can learn to correct (Seq2SeqRewardModule)."
        raise DataError(f"an encoder–decoder ({name}), which cannot be a policy", path, hint)
    if kind != "scalar" and scores_by_name(config):
        hint = "Give the language model that it was trained from, or another one."
        raise DataError(f"a reward model or classifier ({name}), without a head for words", path, hint)
    if kind != "scalar" and name.endswith(("ForMaskedLM", "ForPreTraining")):
        raise DataError(f"an encoder ({name}), which cannot write", path, "Give a decoder such as Llama.")
    wanted: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if kind == "scalar" else MODEL_FOR_CAUSAL_LM_MAPPING
    if kind == "rewriter" and config.is_encoder_decoder:
        wanted = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    if type(config) in wanted:
        return
    parts = [part.removesuffix("_config") for part in ("vision_config", "audio_config") if hasattr(config, part)]
    if parts:
        what = f"a model for text and {' and '.join(parts)} ({config.model_type})"
        raise DataError(what, path, "Give one for text alone.")
    use = "that gives scores" if kind == "scalar" else "that writes"
    hint = "Give one such as Llama, or BERT." if kind == "scalar" else "Give one such as Llama."
    raise DataError(f"transformers has no model of the architecture {config.model_type} {use}", path, hint)
