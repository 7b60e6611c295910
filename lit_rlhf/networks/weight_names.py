"""Other people's names of weights, mapped onto those of the architecture."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.weight_files import Stored

# What trainers put before a model's own names: peft, DDP, torch.compile, FSDP, and wrappers around the body.
_WRAPPERS = (
    "base_model.model.", "base_model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "pretrained_model.",
    "reward_model.", "rwtransformer.", "rwtranrsformer.", "network.", "backbone.", "language_model.", "policy.",
    "actor.", "critic.", "llm.", "lm.", "model.", "transformer.",
)  # fmt: skip
_INSIDE = re.compile(r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|modules_to_save\.\w+)\.")
_COPY = re.compile(r"(^|\.)original_module\.")  # what peft keeps beside a layer that it trained whole
_HEADS = (
    "score", "scores", "score_head", "classifier", "classification_head", "reward_head", "rm_head", "v_head",
    "value_head", "rank_head", "regression_head", "regression_layer", "reward_layer", "reward", "value", "head",
)  # fmt: skip
_HEAD = re.compile(rf"^({'|'.join(_HEADS)})(\.summary|\.out_proj|\.\d+)?\.(weight|bias)$")
_MOST = 1000  # numbers that a head for scores or classes gives; one for words gives more
_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids|token_type_ids|(attn|attention)\.(masked_)?bias)$")
_POOLER = re.compile(r"(^|\.)pooler\.")
_WORDS = re.compile(
    r"^(((\w*_)?lm_head|cls|embed_out|output|(\w*_)?predictions|vocab_\w+|pred_layer)\.|decoder\.(weight|bias)$)"
)
_VALUE = re.compile(r"^(v_head|value_head)\.")
ADAPTER = re.compile(r"\.lora_[AB]\.|\.lora_embedding_|\.base_layer\.")


@dataclass
class Names:
    """Which weight of the files goes where.

    Attributes:
        stored: The weights by the names that the architecture has for them, as far as it has.
        renamed: Names in the files of those that were given another one, by the latter.
        head: The module that is the head's last layer.
        bias: Of that layer, where the architecture gives its own none.
        aside: Names in the files of weights that nothing needs, such as buffers that are computed today.
        values: Those of heads for values, in a language model's files.
        foreign: Whether transformers would not find all of them by itself.
    """

    stored: dict[str, Stored] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    head: str | None = None
    bias: Stored | None = None
    aside: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    foreign: bool = False

    def original(self, name: str) -> str:
        """A weight's name in the files."""
        return self.renamed.get(name, name)


def plain_name(key: str) -> str:
    """A name without the wrappers that stand in front of it or within it."""
    key = _INSIDE.sub("", key)
    while (wrapper := next((each for each in _WRAPPERS if key.startswith(each)), None)) is not None:
        key = key.removeprefix(wrapper)
    return key


def head_weights(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """What looks like the weight ``(K, H)`` of the last layer of a head, by its name in the files."""
    matches = {key: _HEAD.match(plain_name(key)) for key in stored if not _COPY.search(key)}
    return {
        key: stored[key]
        for key, match in matches.items()
        if match is not None and match[3] == "weight" and len(stored[key].shape) == 2 and stored[key].rows <= _MOST
    }


def has_layers(stored: Mapping[str, Stored], key: str) -> bool:
    """Whether the head that a weight belongs to has several layers, one after another."""
    name = plain_name(key).split(".")[0]
    weights = [other for other in head_weights(stored) if plain_name(other).split(".")[0] == name]
    return len(weights) > 1


def fitted(stored: Mapping[str, Stored], model: PreTrainedModel, scalar: bool, path: str) -> Names:
    """Map names onto those of a model.

    Args:
        stored: The weights by their names in the files.
        model: What they are for; it needs no values.
        scalar: Whether it is a body with a head for scores, not a language model.
        path: Where the files are.

    Raises:
        DataError: If two weights would go to one place.
    """
    own = _Own(model)
    names = Names(head=own.head if scalar else None)
    keys = {key: _INSIDE.sub("", key) for key in stored if not _COPY.search(key)}
    names.aside += [key for key in stored if key not in keys]
    fits = {key: own.name(name) for key, name in keys.items()}
    common = _common_prefix((keys[key], name) for key, name in fits.items() if name is not None)
    for key, name in keys.items():
        target, plain = fits[key], plain_name(key)
        if target is None and _harmless(plain, stored[key], model, scalar):
            names.aside.append(key)
        elif target is None and not scalar and _VALUE.match(plain):
            names.values.append(key)
        else:
            target = target or (own.of_head(key, stored) if scalar else None) or name.removeprefix(common)
            _place(names, target, key, stored[key], path)
    names.bias = names.stored.pop(f"{own.head}.bias", None) if f"{own.head}.bias" not in own.shapes else None
    names.foreign = names.bias is not None or any(
        target not in (key, own.prefix + key, key.removeprefix(own.prefix)) for target, key in names.renamed.items()
    )
    return names


def _place(names: Names, target: str, key: str, stored: Stored, path: str) -> None:
    if target in names.stored:
        both = f"{names.original(target)} and {key} would both be the model's {target}"
        raise DataError(f"it cannot be told which weight is meant: {both}", path, "Leave one of them out.")
    names.stored[target] = stored
    if target != key:
        names.renamed[target] = key


class _Own:
    """The names that a model has for its weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes = {name: tuple(each.shape) for name, each in model.state_dict().items()}
        self.prefix = f"{model.base_model_prefix}."
        body = set(model.base_model.modules())
        behind = [name for name, each in model.named_modules() if isinstance(each, nn.Linear) and each not in body]
        last = [name for name in behind if model.get_submodule(name).out_features == model.config.num_labels]
        self.head = last[0] if len(last) == 1 else None

    def of_head(self, key: str, stored: Mapping[str, Stored]) -> str | None:
        """The model's name for a weight of a head of one layer, whatever it is called; None if it is none."""
        match = _HEAD.match(plain_name(key))
        if self.head is None or match is None or has_layers(stored, key):
            return None
        return f"{self.head}.{match[3]}"

    def name(self, key: str) -> str | None:
        """The model's name for a weight: the key itself, or without wrappers, with or without the body's prefix."""
        while True:
            for name in (key, self.prefix + key, key.removeprefix(self.prefix)):
                if name in self.shapes:
                    return name
            wrapper = next((each for each in _WRAPPERS if key.startswith(each)), None)
            if wrapper is None:
                return None
            key = key.removeprefix(wrapper)


def _common_prefix(pairs: Iterable[tuple[str, str]]) -> str:
    """What most weights have before their own names: taken from those, too, whose names transformers converts."""
    counts = Counter(key.removesuffix(name) for key, name in pairs if key.endswith(name))
    return counts.most_common(1)[0][0] if counts else ""


def _harmless(name: str, stored: Stored, model: PreTrainedModel, scalar: bool) -> bool:
    """Whether nothing is lost with a weight: it is computed today, belongs to another task's head, or is never read."""
    if _BUFFERS.search(name):
        return len(stored.shape) != 1 or not name.endswith("bias")  # a mask, no real bias
    unread = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    other_task = scalar and _WORDS.match(name) and not _HEAD.match(name)
    return bool(_POOLER.search(name) or other_task or any(re.search(pattern, name) for pattern in unread))
