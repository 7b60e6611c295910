"""Heads for scores: the one layer behind the body that gives a number, or several of which one is made."""

# A layer may have no bias, whatever torch's types say.
# pyright: reportUnnecessaryComparison=false

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lit_rlhf.data.errors import DataError

Attributes = str | int | Mapping[str, float]
"""Which of a head's numbers is the score: one by its name or position, or a weighted sum: ``{"helpfulness": 0.7}``."""

_HINT = "Use a decoder such as Llama, or an encoder such as BERT."
_SHOWN = 20


def find_head(model: PreTrainedModel, path: str) -> nn.Linear:
    """The one linear layer behind the body that gives the model's numbers.

    Raises:
        DataError: If there is none, or its input is no state that can be read by length.
    """
    body = set(model.base_model.modules())
    behind = [module for module in model.modules() if module not in body]
    linear = [module for module in behind if isinstance(module, nn.Linear)]
    heads = [module for module in linear if module.out_features == model.config.num_labels]
    odd = model.config.is_encoder_decoder or getattr(model.config, "use_bidirectional_attention", False)
    if not heads or (len(heads) > 1 and model.config.num_labels == 1) or odd:
        raise DataError("has no single linear head that can be read by length", path, _HINT)
    return heads[-1]


def choose(model: PreTrainedModel, head: nn.Linear, attributes: Attributes | None, path: str, option: str) -> nn.Linear:
    """Make a head of one number of one that has several: a weighted sum of them. The model holds it from then on.

    Args:
        model: Its config names the numbers (``id2label``).
        head: Of K numbers.
        attributes: Which of them; None only fits a head of one.
        path: Where the model is from.
        option: How attributes can be given where it is asked for; empty where they cannot.

    Returns:
        The head of one number.

    Raises:
        DataError: If there are several numbers and no attributes, or attributes that the head does not have.
    """
    if attributes is None:
        if head.out_features == 1:
            return head
        raise _refusal(_names(model, head), path, option)
    weights = _weights(model, head, attributes, path)
    with torch.no_grad():
        one = nn.Linear(head.in_features, 1, bias=head.bias is not None, dtype=head.weight.dtype)
        one.weight.copy_(weights @ head.weight.float())
        if head.bias is not None:
            one.bias.copy_(weights @ head.bias.float())
    parent, _, child = next(name for name, each in model.named_modules() if each is head).rpartition(".")
    setattr(model.get_submodule(parent), child, one)
    model.config.num_labels = 1
    if hasattr(model, "num_labels"):
        model.num_labels = 1  # type: ignore[assignment]
    return one


def _weights(model: PreTrainedModel, head: nn.Linear, attributes: Attributes, path: str) -> torch.Tensor:
    """One weight per number of the head ``(1, K)``."""
    names = _names(model, head)
    given = attributes if isinstance(attributes, Mapping) else {attributes: 1.0}
    weights = torch.zeros(1, head.out_features)
    for attribute, weight in given.items():
        weights[0, _position(attribute, names, path)] += weight
    if not bool((weights != 0).any()):
        hint = "Give weights that are not 0."
        raise DataError(f"leaves nothing of the head's numbers: {dict(given)}", "attributes", hint)
    return weights


def _position(attribute: str | int, names: list[str], path: str) -> int:
    text = str(attribute).strip()
    alike = [number for number, name in enumerate(names) if name.lower() == text.lower()]
    exact = [number for number in alike if names[number] == text]
    if len(exact or alike) == 1:
        return (exact or alike)[0]
    if text.isdigit() and int(text) < len(names):
        return int(text)
    hint = f"It has {_listed(names)}; or count from 0 to {len(names) - 1}."
    raise DataError(f"its head has no number {text!r}", f"{path}, attributes", hint)


def _names(model: PreTrainedModel, head: nn.Linear) -> list[str]:
    labels: dict[Any, str] = model.config.id2label or {}
    return [str(labels.get(number, labels.get(str(number), number))) for number in range(head.out_features)]


def _refusal(names: list[str], path: str, option: str) -> DataError:
    what = f"its head gives {len(names)} numbers ({_listed(names)}), and one is expected"
    if not option:
        hint = "Give a language model, or a reward model of one number. Rewards can choose: attributes of ScalarReward."
        return DataError(what, path, hint)
    weights = f'{{"{names[-1]}": 1, "{names[0]}": -1}}'
    hint = f'Choose with {option}: one, such as "{names[-1]}", or a weighted sum, such as {weights}.'
    return DataError(what, path, hint)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
