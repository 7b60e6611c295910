"""Demonstrations that policy optimisation goes on to learn from: PPO-ptx."""

from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import ResponseBatch
from lit_rlhf.data.collate import collate_rows
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import Configurable
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import masked_mean
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.together import processes, rank


class Demonstrations(Configurable):
    """Adds γ times the negative log-likelihood of demonstrations to the policy's loss, so that it forgets less.

    Source: Ouyang et al. 2022, "Training Language Models to Follow Instructions with Human Feedback" (arXiv
    2203.02155), equation 2, there with pre-training text.

    Args:
        data: Where the demonstrations come from: the chosen responses of its training part. They are drawn at random,
            with the run's own random numbers.
        coefficient: γ, above 0.
        batch_size: Demonstrations beside each minibatch, per process.
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
        """γ times the mean negative log-likelihood per token of some demonstrations.

        Several processes draw the same ones, and each computes its part of them: the mean of what they return is that
        of all tokens.

        Args:
            policy: What learns.
            generator: Draws the demonstrations.
        """
        rows = self.data.train_rows
        size = (self.batch_size * processes(),)
        drawn = torch.randint(len(rows), size, generator=generator, device=generator.device).tolist()
        mine = drawn[rank() * self.batch_size :][: self.batch_size]
        batch: Any = collate_rows([rows[i] for i in mine], "responses", self.data.renderer.pad_id)
        assert isinstance(batch, ResponseBatch)
        sequences = batch.sequences.to(generator.device)
        tokens = [sum(len(rows[i].chosen) for i in each) for each in (mine, drawn)]
        weight = tokens[0] * processes() / tokens[1]
        return -self.coefficient * weight * masked_mean(policy(sequences), sequences.response_mask)
