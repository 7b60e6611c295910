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
        path: Hugging Face directory or Hub id.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.model: PreTrainedModel = load_model(path, "causal")
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def forward(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of the response tokens ``(N, T)``, under the distribution sampled at ``temperature``.

        Values at padding are meaningless. Vocabulary logits are computed on response positions only.
        """
        return by_length(sequences, lambda rows: self._logprobs(rows, temperature))

    def _logprobs(self, sequences: Sequences, temperature: float) -> Tensor:
        check_length(self.model, sequences.ids.shape[1])
        positions = sequences.response_positions - 1  # (N, T): the state before a token predicts it
        first = int(positions.min())
        kept = {"logits_to_keep": torch.arange(first, sequences.ids.shape[1] - 1, device=sequences.ids.device)}
        output = self.model(input_ids=sequences.ids, use_cache=False, **(kept if self._keeps_logits else {}))
        offset = first if self._keeps_logits else 0
        rows = torch.arange(len(sequences), device=positions.device)[:, None]
        logits = output.logits[rows, positions - offset].float() / temperature  # (N, T, V)
        chosen = logits.gather(-1, sequences.responses[..., None]).squeeze(-1)
        return chosen - logits.logsumexp(-1)
