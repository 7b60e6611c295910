"""Supervised fine-tuning: the policy that everything starts from."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_rlhf.data.batches import ResponseBatch
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import masked_mean
from lit_rlhf.networks.backbone import export
from lit_rlhf.networks.module import NetworkModule
from lit_rlhf.networks.optimizer import Optimizer, total_steps
from lit_rlhf.networks.policy_network import PolicyNetwork


class SFTModule(NetworkModule):
    """Learns to answer like the chosen responses: mean negative log-likelihood per response token.

    Prompt tokens carry no loss.

    Args:
        model: Hugging Face directory or Hub id to start from.
        optimizer: Learning rate and schedule.
    """

    view: View = "responses"

    def __init__(self, model: str, optimizer: Optimizer | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.path, self.optimizer = model, optimizer or Optimizer()
        self.network: PolicyNetwork | None = None

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer comes from unless the data name one."""
        return self.path

    def configure_model(self) -> None:
        """Load the network; called by the Trainer, again on resume."""
        if self.network is None:
            with self.building():
                self.network = PolicyNetwork(self.path).train()  # loading leaves dropout off
            self.split(self.network)

    def loss(self, batch: ResponseBatch) -> Tensor:
        """Mean negative log-likelihood of the response tokens."""
        logprobs = self.network(batch.sequences)  # type: ignore[misc]
        return -masked_mean(logprobs, batch.sequences.response_mask)

    def training_step(self, batch: ResponseBatch, batch_idx: int) -> Tensor:
        """One step on a batch of demonstrations."""
        loss = self.shared(self.loss(batch), batch, self._tokens(batch))
        self.log("train/loss", loss, prog_bar=True, batch_size=self._tokens(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: ResponseBatch, batch_idx: int) -> None:
        """Log the loss per token and the perplexity it amounts to."""
        loss = self.shared(self.loss(batch), batch, self._tokens(batch))
        self.log("val/loss", loss, prog_bar=True, batch_size=self.total(self._tokens(batch)), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Perplexity from the mean over all tokens, not a mean of batch perplexities."""
        loss = self.trainer.callback_metrics.get("val/loss")
        if loss is not None:
            self.log("val/perplexity", loss.exp(), sync_dist=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> Any:
        """AdamW over all parameters."""
        return self.optimizer.build(self.parameters(), total_steps(self.trainer))

    def export(self, directory: str | os.PathLike[str], renderer: Renderer) -> Path:
        """Write a Hugging Face directory that plain transformers loads."""
        return export(self.network.model, renderer, directory)  # type: ignore[union-attr]

    @staticmethod
    def _tokens(batch: ResponseBatch) -> int:
        return 0 if batch.idle else int(batch.sequences.response_length.sum())
