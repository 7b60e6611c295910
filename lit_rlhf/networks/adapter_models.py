"""Models that are given as a folder of adapters: the base model, with the adapters added to its weights."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from lit_rlhf.data.adapter_folders import CONFIG, adapter_config, base_of
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.adapter_files import BASE
from lit_rlhf.networks.loading import as_many_numbers
from lit_rlhf.networks.model_config import Kind
from lit_rlhf.networks.slices import weights_in_files

_TASKS = {"causal": {"CAUSAL_LM"}, "scalar": {"SEQ_CLS", "CAUSAL_LM"}, "rewriter": {"CAUSAL_LM", "SEQ_2_SEQ_LM"}}
_NAMES = {"CAUSAL_LM": "a language model", "SEQ_CLS": "a reward model or classifier", "SEQ_2_SEQ_LM": "a rewriter"}


def load_adapted(
    path: str, kind: Kind, load: Callable[[str], PreTrainedModel], fingerprint: Callable[..., str]
) -> PreTrainedModel | None:
    """The base model of a folder of adapters with these added to its weights; None where a path holds no adapters.

    Adapters of a language model may be given where a scalar model is wanted: its head is a fresh one then.

    Args:
        path: Directory or Hub id.
        kind: What the model is to be, as for `lit_rlhf.networks.backbone.load_model`.
        load: Loads the base model from its directory or Hub id.
        fingerprint: Names a body's weights.

    Raises:
        DataError: If the adapters' base model is missing or another than the one that they were trained on, if they
            are those of a model of another kind, or cannot be added to weights.
    """
    content = adapter_config(path)
    if content is None:
        return None
    _check_task(content, path, kind)
    base = base_of(path, content)
    try:
        with weights_in_files(False):  # adapters are added to whole weights
            model = load(base)
    except DataError as error:
        hint = f"To name another base model: base_model_name_or_path in its {CONFIG}."
        raise DataError(f"holds adapters, and their base model cannot be loaded:\n{error}", path, hint) from None
    _check_base(model, path, base, fingerprint)
    _take_config(model, path)
    return _added(model, path, base, kind, content).requires_grad_(True).eval()


def _check_task(content: dict[str, Any], path: str, kind: Kind) -> None:
    """Refuse adapters of a model of another kind."""
    task = content.get("task_type")
    if task is None or task in _TASKS[kind]:
        return
    wanted = {"causal": "a language model is asked for", "scalar": "a reward model is asked for"}
    hint = {"causal": "Give them where a reward model belongs."} if task == "SEQ_CLS" else {}
    told = f"holds adapters of {_NAMES.get(task, f'a model for {task}')}, and {wanted.get(kind, 'a rewriter is')}"
    raise DataError(told, path, hint.get(kind, "Name a folder of that kind."))


def _check_base(model: PreTrainedModel, path: str, base: str, fingerprint: Callable[..., str]) -> None:
    """Refuse a base model with other weights than those that the adapters were trained on, where that was noted."""
    wanted, found = _noted(path).get("fingerprint"), fingerprint(model.base_model, skip="pooler.")
    if wanted not in (None, found):
        hint = f"Write the directory of the model that they were trained on into {CONFIG}: base_model_name_or_path."
        raise DataError(f"holds adapters for other weights ({wanted}) than those of {base} ({found})", path, hint)


def _noted(path: str) -> dict[str, Any]:
    """What this project wrote beside adapters; nothing beside those of others."""
    file = Path(path, BASE)
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _take_config(model: PreTrainedModel, path: str) -> None:
    """Let a model's config say what it said where the adapters were trained, and have room for its padding token."""
    own = _noted(path).get("config", {})
    model.config.update(own)
    embeddings: Any = model.get_input_embeddings()
    if own.get("pad_token_id", 0) >= embeddings.num_embeddings:
        model.resize_token_embeddings(own["pad_token_id"] + 1, mean_resizing=False)


def _added(model: PreTrainedModel, path: str, base: str, kind: Kind, content: dict[str, Any]) -> PreTrainedModel:
    """The model with the adapters added, and with what was trained beside them in its place."""
    where = f"holds adapters that do not fit their base model {base}"
    hint = f"If it is another one: base_model_name_or_path in its {CONFIG}."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all that is missing or left over is refused below
            weights = _weights(path)
            config = PeftConfig.from_pretrained(path)
            separated = _make_room(model, weights)
            if kind == "scalar":
                as_many_numbers(model, weights)
            own = config.task_type in MODEL_TYPE_TO_PEFT_MODEL_MAPPING and not (
                kind == "scalar" and config.task_type == "CAUSAL_LM"
            )
            wrapper: Any = MODEL_TYPE_TO_PEFT_MODEL_MAPPING[config.task_type] if own else PeftModel  # type: ignore[index]
            if not own:
                config.task_type = None
            wrapped = wrapper(model, config)
            if not hasattr(wrapped, "merge_and_unload"):
                how = "Only those that change weights can, such as LoRA."
                raise DataError(f"{content.get('peft_type')} cannot be added to a model's weights", path, how)
            told = wrapped.load_adapter(path, "default")
            plain: PreTrainedModel = wrapped.merge_and_unload()
    except (RuntimeError, ValueError, KeyError, TypeError, ImportError, OSError, SafetensorError) as error:
        if isinstance(error, DataError):
            raise
        lines = str(error).strip().splitlines() or [repr(error)]
        raise DataError(f"{where}: {lines[-1].strip()}", path, hint) from None
    left = [name for name in told.unexpected_keys if not (kind == "scalar" and "lm_head" in name)]
    for names, what in ((told.missing_keys, "lacks"), (left, "has no place for")):
        if names:
            raise DataError(f"{where}: one {what} {len(names)} weights, such as {names[0]}", path, hint)
    heads = {name for name in model.fresh if any(key.endswith(name) for key in weights)}  # type: ignore[union-attr]
    plain.fresh = model.fresh - heads  # type: ignore[operator,assignment]
    if separated:
        _settle_tie(plain)
    return plain


def _weights(path: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a folder holds."""
    from peft.utils.save_and_load import load_peft_weights

    return {name: tuple(value.shape) for name, value in load_peft_weights(path, device="cpu").items()}


def _make_room(model: PreTrainedModel, weights: dict[str, tuple[int, ...]]) -> bool:
    """Give a base model as many embeddings as the adapters bring, and an output layer of its own where they change one.

    Returns:
        Whether the output layer was one with the embeddings before.
    """
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    names = {part: name for name, part in model.named_modules() if part in (inputs, outputs)}
    for name, shape in weights.items():
        if name.endswith(f"{names[inputs]}.weight") and shape[0] != inputs.num_embeddings:  # type: ignore[index,union-attr]
            model.resize_token_embeddings(shape[0], mean_resizing=False)
    tied = outputs is not None and outputs.weight is inputs.weight  # type: ignore[union-attr]
    if not tied or not any(f".{names[part]}." in name for name in weights for part in (inputs, outputs)):  # type: ignore[index]
        return False
    outputs.weight = nn.Parameter(outputs.weight.detach().clone())  # type: ignore[union-attr]
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    return True


def _settle_tie(model: PreTrainedModel) -> None:
    """Let an output layer that was separated from the input embeddings, and equals them still, be one with them."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    equal = torch.equal(inputs.weight, outputs.weight)  # type: ignore[union-attr,arg-type]
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = equal
    if equal:
        outputs.weight = inputs.weight  # type: ignore[union-attr]
