"""A language model as a policy: log-probabilities of response tokens."""

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences
from lit_rlhf.networks.backbone import by_length, check_length, load_model


class PolicyNetwork(nn.Module):
    """A causal language model that answers how likely each response token is.

    Args:
        path: Hugging Face directory or Hub id, or a model that is loaded already.
    """

    def __init__(self, path: str | PreTrainedModel) -> None:
        super().__init__()
        self.model: PreTrainedModel = load_model(path, "causal") if isinstance(path, str) else path
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def forward(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of the response tokens ``(N, T)``, under the distribution sampled at ``temperature``.

        Values at padding are meaningless. Vocabulary logits are computed on response positions only.
        """
        return by_length(sequences, lambda rows: chosen_logprobs(self._logits(rows) / temperature, rows.responses))

    def predictions(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens, and the likeliest token in the place of each; both ``(N, T)``."""

        def both(rows: Sequences) -> Tensor:
            logits = self._logits(rows)
            logprobs = chosen_logprobs(logits, rows.responses)
            return torch.stack([logprobs, logits.argmax(-1).float()], -1)  # (N, T, 2); ids below 2^24 are exact

        logprobs, likeliest = by_length(sequences, both).unbind(-1)
        return logprobs, likeliest.long()

    def _logits(self, sequences: Sequences) -> Tensor:
        """What predicts each response token ``(N, T, V)``, in fp32."""
        check_length(self.model, sequences.ids.shape[1])
        positions = sequences.response_positions - 1  # (N, T): the state before a token predicts it
        first = int(positions.min())
        kept = {"logits_to_keep": torch.arange(first, sequences.ids.shape[1] - 1, device=sequences.ids.device)}
        output = self.model(input_ids=sequences.ids, use_cache=False, **(kept if self._keeps_logits else {}))
        offset = first if self._keeps_logits else 0
        rows = torch.arange(len(sequences), device=positions.device)[:, None]
        return output.logits[rows, positions - offset].float()


def chosen_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities ``(N, T)`` of tokens ``(N, T)`` under logits ``(N, T, V)``."""
    return logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)
