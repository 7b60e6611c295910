"""A language model as a policy: log-probabilities of response tokens, without keeping vocabulary logits."""

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences
from lit_rlhf.networks.backbone import by_length, call_body, check_length, check_prompts, evaluating, load_model
from lit_rlhf.networks.states import states_at

Column = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(M, V)`` and tokens ``(M,)`` to a number per token ``(M,)``."""


class PolicyNetwork(nn.Module):
    """A causal language model that answers how likely each response token is.

    Vocabulary logits are computed on real response tokens only, some at a time, and never kept: with gradients they
    are computed a second time on the way back.

    Args:
        path: Hugging Face directory or Hub id, or a model that is loaded already.

    Attributes:
        logits_at_once: Most logits, tokens times vocabulary, that exist at the same time.
        computes: What it computes beside ``forward``, see `lit_rlhf.networks.sharding.split`.
    """

    logits_at_once: int = 2**25  # 128 MiB in fp32
    computes = ("predictions", "with_entropy", "with_scores", "scores")

    def __init__(self, path: str | PreTrainedModel) -> None:
        super().__init__()
        self.model: PreTrainedModel = load_model(path, "causal") if isinstance(path, str) else path
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def forward(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of the response tokens ``(N, T)``, under the distribution sampled at ``temperature``.

        Values at padding are meaningless.
        """
        return self._columns(sequences, [_at(temperature, chosen_logprobs)])[0]

    def predictions(self, sequences: Sequences, shared: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens, and the likeliest token in the place of each; both ``(N, T)``.

        Args:
            sequences: Prompts with responses.
            shared: Tokens at each row's beginning that other rows may begin with, too ``(N,)``, and that are then
                computed once; None takes the prompts.
        """
        logprobs, likeliest = self._columns(sequences, [chosen_logprobs, _likeliest], shared=shared)
        return logprobs, likeliest.long()

    def with_entropy(
        self, sequences: Sequences, temperature: float = 1.0, score: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Log-probabilities, and the entropy of the distribution at each token, in nats; both ``(N, T)``.

        Args:
            sequences: Prompts with responses.
            temperature: As in `forward`.
            score: A head that reads the state before each token ``(N, T, H)``; adds its numbers ``(N, T)``.
        """
        return self._columns(sequences, [_at(temperature, chosen_logprobs), _at(temperature, _entropy)], score)

    def with_scores(
        self, sequences: Sequences, temperature: float, score: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Log-probabilities, and what a head makes of the state before each token, from one pass; both ``(N, T)``."""
        return self._columns(sequences, [_at(temperature, chosen_logprobs)], score)

    def scores(self, sequences: Sequences, score: Callable[[Tensor], Tensor]) -> Tensor:
        """What a head makes of the state before each response token ``(N, T)``."""
        return self._columns(sequences, [], score)[0]

    def _columns(
        self,
        sequences: Sequences,
        columns: list[Column],
        score: Callable[[Tensor], Tensor] | None = None,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """One ``(N, T)`` for each column, and the score's last; fp32, so that ids below 2^24 stay exact."""

        mask = sequences.response_mask
        before = sequences.response_positions - 1  # the state before a token predicts it
        if self._behind_head is None and columns:
            found = by_length(sequences, lambda rows: self._of_logits(rows, columns))[mask]
            states = states_at(self.model, sequences, before, mask) if score is not None else None
        else:
            states = states_at(self.model, sequences, before, mask, shared)  # (M, H)
            found = self._from_states(states, sequences.responses[mask], columns)
        if score is not None:
            assert states is not None
            found = torch.cat([found, score(states)[:, None].float()], 1)
        placed = found.new_zeros(*mask.shape, found.shape[1])
        placed[mask] = found
        return placed.unbind(-1)

    def _of_logits(self, sequences: Sequences, columns: list[Column]) -> Tensor:
        """Columns ``(N, T, K)`` of the model's own logits."""
        return _stacked(columns)(self._logits(sequences), sequences.responses)

    def _from_states(self, states: Tensor, tokens: Tensor, columns: list[Column]) -> Tensor:
        """Columns ``(M, K)`` of states ``(M, H)``, some rows at a time."""
        if not columns:
            return states.new_zeros(len(states), 0, dtype=torch.float32)
        head: Any = self.model.get_output_embeddings()
        behind: Any = self._behind_head

        def compute(states: Tensor, tokens: Tensor) -> Tensor:
            return _stacked(columns)(behind(head(states)).float(), tokens)

        size = max(1, self.logits_at_once // head.weight.shape[0])
        if len(states) <= size:
            return compute(states, tokens)
        parts = zip(states.split(size), tokens.split(size), strict=True)
        return torch.cat([checkpoint(compute, *part, use_reentrant=False) for part in parts])

    @cached_property
    @torch.no_grad()
    def _behind_head(self) -> Callable[[Tensor], Tensor] | None:
        """What the architecture does to its logits behind the output layer: nothing, a factor or a cap.

        None where that cannot be told; its own way is then taken, all at once. Two tokens show which it is.
        """
        head = self.model.get_output_embeddings()
        if head is None:
            return None
        ids = torch.arange(2, device=head.weight.device)[None]
        with evaluating(self.model):
            expected = self.model(input_ids=ids, use_cache=False).logits
            logits = head(call_body(self.model, ids))
        config = self.model.config.get_text_config()
        ways: list[Callable[[Tensor], Tensor]] = [lambda x: x]
        ways += [lambda x, by=by: x * by for by in [getattr(config, "logit_scale", None)] if by]
        ways += [lambda x, by=by: x / by for by in [getattr(config, "logits_scaling", None)] if by]
        caps = [getattr(config, "final_logit_softcapping", None)]
        ways += [lambda x, by=by: (x / by).tanh() * by for by in caps if by]
        return next((way for way in ways if torch.allclose(way(logits), expected, atol=1e-5, rtol=1e-4)), None)

    def _logits(self, sequences: Sequences) -> Tensor:
        """What predicts each response token ``(N, T, V)``, in fp32, from the model's own way to its logits."""
        check_length(self.model, sequences.ids.shape[1])
        check_prompts(sequences)
        positions = sequences.response_positions - 1  # (N, T): the state before a token predicts it
        first = int(positions.min())
        kept = {"logits_to_keep": torch.arange(first, sequences.ids.shape[1] - 1, device=sequences.ids.device)}
        output = self.model(input_ids=sequences.ids, use_cache=False, **(kept if self._keeps_logits else {}))
        offset = first if self._keeps_logits else 0
        rows = torch.arange(len(sequences), device=positions.device)[:, None]
        return output.logits[rows, positions - offset].float()


def chosen_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities ``(...)`` of tokens ``(...)`` under logits ``(..., V)``."""
    return logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)


def _entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)


def _likeliest(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.argmax(-1).float()


def _at(temperature: float, column: Column) -> Column:
    return column if temperature == 1 else lambda logits, tokens: column(logits / temperature, tokens)


def _stacked(columns: list[Column]) -> Column:
    return lambda logits, tokens: torch.stack([column(logits, tokens) for column in columns], -1)
