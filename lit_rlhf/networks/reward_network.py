"""A transformer body with a one-number head: reward model and critic."""

# A layer may have no bias, whatever torch's types say.
# pyright: reportUnnecessaryComparison=false

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import by_length, check_length, load_model
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.heads import Attributes, choose, find_head
from lit_rlhf.networks.states import packs, states_at


class RewardNetwork(nn.Module):
    """Score = Linear(hidden, 1) on one state per row, always that of the architecture's own sequence classifier.

    A decoder's state is that of the last response token, end-of-sequence included, found by length, never by id. An
    encoder (BERT and its kin) gives what its head's last layer reads, usually made from the first token. The head
    computes in fp32.

    Args:
        path: A scalar model's directory, or a language model's, which gets a fresh head; a line on the screen says so.
        scale: Factor on the head: a critic that starts from a reward model whose scores are scaled must be scaled
            alike.
        attributes: Which of its numbers is the score, of a head that gives several.
        dtype: Of the weights, but for the head's last layer.
        option: How the user can give ``attributes`` where he has not; empty where he cannot.
        trained: Refuse a language model, whose head would be new.

    Attributes:
        fresh: Whether the head is a new one, with random weights.
        looks_ahead: Whether a state depends on later tokens: an encoder.
        computes: What it computes beside ``forward``, see `lit_rlhf.networks.sharding.split`.

    Raises:
        DataError: If nothing can be loaded, the model has no single linear head, one of several numbers, or a new one
            where that is not wanted.
    """

    computes: tuple[str, ...] | None = ("features", "score", "token_scores")

    def __init__(
        self,
        path: str,
        scale: float = 1.0,
        attributes: Attributes | None = None,
        dtype: torch.dtype = torch.float32,
        option: str = "",
        trained: bool = False,
    ) -> None:
        super().__init__()
        self.path = path
        self.model: PreTrainedModel = load_model(path, "scalar", dtype)
        self.head = find_head(self.model, path)
        own = next(name for name, each in self.model.named_parameters() if each is self.head.weight)
        self.fresh = own in self.model.fresh  # type: ignore[operator]
        self._tell_new(trained)
        self.head = choose(self.model, self.head, attributes, path, option)
        self.looks_ahead = self.head is not getattr(self.model, "score", None)
        self.head.float()
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.mul_(scale)

    def _tell_new(self, trained: bool) -> None:
        """Say on the screen which weights are new and random, or refuse them."""
        new = sorted(self.model.fresh)  # type: ignore[call-overload]
        if not new:
            return
        kind = (self.model.config.architectures or [type(self.model.base_model).__name__])[0]
        if trained:
            hint = "Name the directory that the training of a reward model has exported (--export.directory)."
            raise DataError(f"a language model ({kind}), without a head for scores", self.path, hint)
        told = f"{self.path}: a language model ({kind}); its head for scores is new and random ({', '.join(new)})"
        rank_zero_info(told)

    def without_bias(self) -> None:
        """Let go of a decoder's bias: transformers' class has none, and it adds the same to every score."""
        if not self.looks_ahead and self.head.bias is not None:
            told = f"{self.path}: the bias of its head, {self.head.bias.item():.4g}, is left out: it ranks nothing"
            rank_zero_info(told)
            self.head.bias = None  # type: ignore[assignment]

    @property
    def packs(self) -> bool:
        """Whether rows are computed without padding, and a prompt that several share once."""
        return not self.looks_ahead and FastPaths.current().packing and packs(self.model)

    def features(self, sequences: Sequences) -> Tensor:
        """The state that feeds the head, one per row ``(N, H)``."""
        if self.looks_ahead:
            return by_length(sequences, self._head_input)
        return self._states(sequences, sequences.length[:, None] - 1)

    def _states(self, sequences: Sequences, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """States of some tokens of each row, as `states_at` gives them."""
        return states_at(self.model, sequences, positions, mask)

    def _head_input(self, sequences: Sequences) -> Tensor:
        """What an encoder's head reads: pooling, and layers before the last one, differ between architectures."""
        check_length(self.model, sequences.ids.shape[1])
        read: list[Tensor] = []

        def keep(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            read.append(inputs[0])
            return (inputs[0].to(self.head.weight.dtype),)  # the body may compute in half precision

        hook = self.head.register_forward_pre_hook(keep)
        try:
            self.model(input_ids=sequences.ids, attention_mask=sequences.mask.long())
        finally:
            hook.remove()
        if read[0].dim() != 2:
            hint = "Use a decoder such as Llama, or an encoder such as BERT."
            raise DataError("its head reads every token, not one state per row", self.path, hint)
        return read[0]

    def score(self, features: Tensor) -> Tensor:
        """Apply the head in fp32: ``(..., H)`` to ``(...)``."""
        with torch.autocast(features.device.type, enabled=False):
            bias = None if self.head.bias is None else self.head.bias.float()
            return F.linear(features.float(), self.head.weight.float(), bias).squeeze(-1)

    def forward(self, sequences: Sequences, values: bool = False) -> Tensor:
        """Scores of whole responses ``(N,)``; with ``values``, of the state before each response token ``(N, T)``.

        Raises:
            DataError: If an encoder is asked for values, which may not look ahead.
        """
        if not values:
            return self.score(self.features(sequences))
        if self.looks_ahead:
            hint = "Give a decoder, such as Llama; an encoder can be the reward model."
            raise DataError("is an encoder, whose values would look ahead, so it cannot be a critic", self.path, hint)
        return self._values(sequences, back=1)

    def token_scores(self, sequences: Sequences) -> Tensor:
        """Scores of each response up to and including its every token ``(N, T)``; meaningless at padding.

        The last real one is the whole response's score.

        Raises:
            DataError: If this is an encoder, whose states at earlier tokens would look ahead.
        """
        if self.looks_ahead:
            hint = "Give a decoder, such as Llama."
            raise DataError("is an encoder, whose score at a token would look ahead", self.path, hint)
        return self._values(sequences, back=0)

    def _values(self, sequences: Sequences, back: int) -> Tensor:
        mask = sequences.response_mask
        scores = self.score(self._states(sequences, sequences.response_positions - back, mask))
        return scores.new_zeros(mask.shape).masked_scatter(mask, scores)
