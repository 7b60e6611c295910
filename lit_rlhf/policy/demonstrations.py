"""Demonstrations that policy optimisation goes on to learn from: PPO-ptx."""

from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import ResponseBatch
from lit_rlhf.data.datamodule import PreferenceDataModule, collate_rows
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import masked_mean
from lit_rlhf.networks.policy_network import PolicyNetwork


class Demonstrations:
    """Adds γ times the negative log-likelihood of demonstrations to the policy's loss, so that it forgets less.

    Source: Ouyang et al. 2022, "Training Language Models to Follow Instructions with Human Feedback" (arXiv
    2203.02155), equation 2, there with pre-training text.

    Args:
        data: Where the demonstrations come from: the chosen responses of its training part. They are drawn at random,
            with the run's own random numbers.
        coefficient: γ, above 0.
        batch_size: Demonstrations beside each minibatch.
    """

    def __init__(self, data: PreferenceDataModule, coefficient: float = 0.1, batch_size: int = 16) -> None:
        if coefficient <= 0 or batch_size < 1:
            hint = "Give a coefficient above 0 and a batch_size of 1 or more, or leave the demonstrations out."
            raise DataError(f"coefficient is {coefficient}, batch_size {batch_size}", "demonstrations", hint)
        self.data, self.coefficient, self.batch_size = data, coefficient, batch_size

    def load(self, tokenizer: str, renderer: Renderer) -> None:
        """Read them.

        Raises:
            DataError: If there are none, or they are written otherwise than the prompts.
        """
        self.data.load("responses", tokenizer)
        if self.data.renderer.fingerprint != renderer.fingerprint:
            hint = "Give both data the same tokenizer and template."
            raise DataError("are written with another tokenizer or template than the prompts", "demonstrations", hint)
        if not self.data.train_rows:
            raise DataError("holds no demonstrations", "demonstrations, data", "Look at its sources and max_length.")

    @property
    def fingerprint(self) -> str:
        """Names the rows."""
        return self.data.fingerprint

    def loss(self, policy: PolicyNetwork, generator: torch.Generator) -> Tensor:
        """γ times the mean negative log-likelihood per token of some demonstrations."""
        rows = self.data.train_rows
        size = (self.batch_size,)
        drawn = torch.randint(len(rows), size, generator=generator, device=generator.device).tolist()
        batch: Any = collate_rows([rows[i] for i in drawn], "responses", self.data.renderer.pad_id, [])
        assert isinstance(batch, ResponseBatch)
        sequences = batch.sequences.to(generator.device)
        return -self.coefficient * masked_mean(policy(sequences), sequences.response_mask)
