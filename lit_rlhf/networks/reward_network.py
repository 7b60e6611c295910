"""A transformer body with a one-number head: reward model and critic."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import by_length, call_body, load_model


class RewardNetwork(nn.Module):
    """Score = Linear(hidden, 1, no bias) on the state of the last response token, end-of-sequence included.

    The last token is found by length, never by id, and the head computes in fp32.

    Args:
        path: A scalar model's directory, or a language model's, which gets a fresh head.
        scale: Factor on the head's weights: a critic that starts from a reward model whose scores are scaled
            must be scaled alike.
    """

    def __init__(self, path: str, scale: float = 1.0) -> None:
        super().__init__()
        self.model: PreTrainedModel = load_model(path, "scalar")
        head = getattr(self.model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1 or head.bias is not None:
            raise DataError("has no linear one-number head named score", path, "Use a decoder model such as Llama.")
        self.head: nn.Linear = head
        with torch.no_grad():
            self.head.weight.mul_(scale)

    def features(self, sequences: Sequences) -> Tensor:
        """The state that feeds the head, one per row ``(N, H)``."""
        return by_length(sequences, self._features)

    def _features(self, sequences: Sequences) -> Tensor:
        states = call_body(self.model, sequences.ids)
        return states[torch.arange(len(sequences), device=states.device), sequences.length - 1]

    def score(self, features: Tensor) -> Tensor:
        """Apply the head in fp32: ``(..., H)`` to ``(...)``."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.head.weight.float()).squeeze(-1)

    def forward(self, sequences: Sequences, values: bool = False) -> Tensor:
        """Scores of whole responses ``(N,)``; with ``values``, of the state before each response token ``(N, T)``."""
        if not values:
            return self.score(self.features(sequences))
        return by_length(sequences, self._values)

    def _values(self, sequences: Sequences) -> Tensor:
        states = call_body(self.model, sequences.ids)
        rows = torch.arange(len(sequences), device=states.device)[:, None]
        return self.score(states[rows, sequences.response_positions - 1])
