"""Supervised fine-tuning: the policy that everything starts from."""

import os
from pathlib import Path

from torch import Tensor

from lit_rlhf.data.batches import ResponseBatch, Sequences
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import masked_mean
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import check_embeddings, export
from lit_rlhf.networks.fine_tuned import FineTunedModule
from lit_rlhf.networks.micro_batches import added_up, check_size, check_training, parts
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.policy_network import PolicyNetwork


class SFTModule(FineTunedModule):
    """Learns to answer like the chosen responses: mean negative log-likelihood per response token.

    Prompt tokens carry no loss.

    Args:
        model: Hugging Face directory or Hub id to start from.
        optimizer: Learning rate and schedule.
        lora: Train low-rank adapters instead of all weights; checkpoints then hold no others, and the exported model
            has the adapters added to its weights.
        micro_batch_size: Rows computed at a time, whose gradients are added up: the same step takes less memory. None
            computes the whole batch at once.
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.
    """

    view: View = "responses"

    def __init__(
        self,
        model: str,
        optimizer: Optimizer | None = None,
        lora: LoRA | None = None,
        micro_batch_size: int | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(model, optimizer, lora, renderer)
        self.save_hyperparameters()
        check_size(micro_batch_size)
        self.micro_batch_size = micro_batch_size
        self.network: PolicyNetwork | None = None

    def configure_model(self) -> None:
        """Load the network; called by the Trainer, again on resume."""
        if self.network is None:
            with self.building():
                self.network = PolicyNetwork(self.path).train()  # loading leaves dropout off
            check_embeddings(self.network.model, self.renderer, self.path)
            self.name_base(self.network.model)
            self.add_adapters(self.network.model)
            if self.lora is not None:
                self.network.model.get_output_embeddings().requires_grad_(False)  # type: ignore[operator]
            self.split(self.network)

    def on_fit_start(self) -> None:
        """Refuse micro-batches where their gradients would be wrong."""
        check_training(self.micro_batch_size, self, self.trainer)

    def forward(self, batch: ResponseBatch | Sequences) -> Tensor:
        """Log-probabilities of the response tokens ``(N, T)``, zero at padding."""
        return self.network(batch.sequences if isinstance(batch, ResponseBatch) else batch)  # type: ignore[misc]

    def loss(self, batch: ResponseBatch) -> Tensor:
        """Mean negative log-likelihood of the response tokens."""
        logprobs = self.network(batch.sequences)  # type: ignore[misc]
        return -masked_mean(logprobs, batch.sequences.response_mask)

    def training_step(self, batch: ResponseBatch, batch_idx: int) -> Tensor:
        """One step on a batch of demonstrations."""
        loss = self.shared(self._training_loss(batch), batch, self._tokens(batch))
        self.log("train/loss", loss, prog_bar=True, batch_size=self._tokens(batch), sync_dist=True)
        return loss

    def _training_loss(self, batch: ResponseBatch) -> Tensor:
        """The loss, of a few rows at a time where that is asked for."""
        if self.micro_batch_size is None or self.micro_batch_size >= len(batch):
            return self.loss(batch)
        cut = [ResponseBatch(batch.sequences[rows]) for rows in parts(len(batch), self.micro_batch_size)]
        tokens = int(batch.sequences.response_length.sum())
        shares = (self.loss(part) * (int(part.sequences.response_length.sum()) / tokens) for part in cut)
        return added_up(shares, self.parameters())

    def validation_step(self, batch: ResponseBatch, batch_idx: int) -> None:
        """Log the loss per token and the perplexity it amounts to."""
        loss = self.shared(self.loss(batch), batch, self._tokens(batch))
        self.log(f"{self.part}/loss", loss, prog_bar=True, batch_size=self.total(self._tokens(batch)), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Perplexity from the mean over all tokens, not a mean of batch perplexities."""
        loss = self.trainer.callback_metrics.get(f"{self.part}/loss")
        if loss is not None:
            self.log(f"{self.part}/perplexity", loss.exp(), sync_dist=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def export(self, directory: str | os.PathLike[str]) -> Path:
        """Write a Hugging Face directory that plain transformers loads.

        Adapters are added to the weights, and lie in its folder ``adapters`` as well.
        """
        return export(merged(self.network.model), self.renderer, directory, self.save_adapters)  # type: ignore[union-attr]

    @staticmethod
    def _tokens(batch: ResponseBatch) -> int:
        return 0 if batch.idle else int(batch.sequences.response_length.sum())
