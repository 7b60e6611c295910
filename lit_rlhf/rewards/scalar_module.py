"""Training a scalar reward model on preference pairs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.answers import adding_nothing
from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import bradley_terry_loss
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import export
from lit_rlhf.networks.micro_batches import added_up, check_size, check_training, parts
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards.adapted import AdaptedModule
from lit_rlhf.rewards.model import READ_AT
from lit_rlhf.rewards.pair_metrics import PairMetrics


class ScalarRewardModule(AdaptedModule):
    """Bradley–Terry reward model: one score per response, trained so that the chosen one scores higher.

    Accuracy is reported without margins, on the labels as they are and, where they are known, on the true ones,
    for each source, and beside the share of pairs whose chosen response is simply longer.

    Args:
        model: Hugging Face directory or Hub id to start from: a language model, or a scalar model to go on with. An
            encoder such as BERT will do too.
        optimizer: Learning rate and schedule.
        lora: Train low-rank adapters and the head instead of all weights; checkpoints then hold no others, and the
            exported model has the adapters added to its weights.
        micro_batch_size: Pairs computed at a time, whose gradients are added up: the same step takes less memory. None
            computes the whole batch at once.
        attributes: Which of its numbers to go on with, where the head that it starts from gives several: one by its
            name or position, or a weighted sum.
    """

    def __init__(
        self,
        model: str,
        optimizer: Optimizer | None = None,
        lora: LoRA | None = None,
        micro_batch_size: int | None = None,
        attributes: int | dict[str, float] | str | None = None,
    ) -> None:
        super().__init__(model, optimizer, lora)
        self.save_hyperparameters()
        check_size(micro_batch_size)
        self.micro_batch_size, self.attributes = micro_batch_size, attributes
        self.network: RewardNetwork | None = None

    def configure_model(self) -> None:
        """Build the network and its metrics; called by the Trainer, again on resume."""
        if self.network is not None:
            return
        with self.building():
            option = "attributes of ScalarRewardModule"
            network = RewardNetwork(self.path, attributes=self.attributes, option=option)
        network.without_bias()
        self.network = network.train()  # loading leaves dropout off
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.adapt(self.network.model, datamodule.renderer)
        # Others read it at the same token, and get the score as it is: pipelines would apply a sigmoid.
        self.network.model.config.update({READ_AT: "template end", "problem_type": "regression"})
        self.finish(self.network)
        self.metrics = PairMetrics(datamodule.source_names, datamodule.val_rows)

    def finish(self, network: RewardNetwork) -> None:
        """Split the network, which is complete; a variant may add to it before."""
        self.split(network)

    # ------------------------------------------------------------------ the loss

    def features(self, batch: PairBatch) -> Tensor:
        """What the head reads, of the chosen and then the rejected responses ``(2 N, H)``, from one forward pass."""
        return self.network.features(batch.chosen.joined(batch.rejected))  # type: ignore[union-attr]

    def scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of chosen and rejected responses, each ``(N,)``, from the features of both ``(2 N, H)``."""
        chosen, rejected = self.network.score(features).chunk(2)  # type: ignore[union-attr]
        return chosen, rejected

    def loss(self, chosen: Tensor, rejected: Tensor, batch: PairBatch) -> Tensor:
        """Bradley–Terry, with the margins and soft labels that the data's treatments set."""
        return bradley_terry_loss(chosen, rejected, batch.margin, batch.target)

    def on_fit_start(self) -> None:
        """Refuse micro-batches where their gradients would be wrong."""
        check_training(self.micro_batch_size, self, self.trainer)

    def training_loss(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The training loss, shared, and the scores ``(N,)`` of both responses; a variant overrides this."""
        if self.micro_batch_size is not None and self.micro_batch_size < len(batch):
            scores: list[tuple[Tensor, Tensor]] = []
            loss = added_up(self._losses(batch, self.micro_batch_size, scores), self.parameters())
            chosen, rejected = (torch.cat(side) for side in zip(*scores, strict=True))
            return self.shared(loss, batch), chosen, rejected
        chosen, rejected = self.scores(self.features(batch))
        return self.shared(self.loss(chosen, rejected, batch), batch), chosen, rejected

    def _losses(self, batch: PairBatch, size: int, scores: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """What parts of a batch add to its loss; their scores are noted."""
        for rows in parts(len(batch), size):
            part = batch[rows]
            chosen, rejected = self.scores(self.features(part))
            scores.append((chosen.detach(), rejected.detach()))
            yield self.loss(chosen, rejected, part) * (len(part) / len(batch))

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        loss, chosen, rejected = self.training_loss(batch)
        self.log_training(loss, chosen, rejected, batch)
        return loss

    def log_training(self, loss: Tensor, chosen: Tensor, rejected: Tensor, batch: PairBatch) -> None:
        """Log loss and accuracy, on the labels as they were read: a flip changes what is learned, not what is said."""
        right = (chosen > rejected) != batch.flipped
        metrics = {"train/loss": loss.detach(), "train/accuracy": self.shared(right.float().mean(), batch)}
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch), sync_dist=True)

    # ------------------------------------------------------------------ measuring

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Count one batch."""
        features = self.features(batch)
        chosen, rejected = self.scores(features)
        loss = self.shared(self.loss(chosen, rejected, batch), batch)
        self.log("val/loss", loss, batch_size=self.total(batch.counted), sync_dist=True)
        good, bad = features.chunk(2)
        self.metrics.update(chosen, rejected, batch, (good, bad))

    def on_validation_epoch_end(self) -> None:
        """Log all figures, and remember the spread of the scores for the export."""
        figures, moments = self.metrics.figures(), self.metrics.moments()
        self.metrics.reset()
        # Computed over all processes, so equal on each of them.
        self.log_dict({f"val/{name}": value for name, value in figures.items() if name != "accuracy"})
        self.log("val/accuracy", figures["accuracy"], prog_bar=True)
        self.remember_scores(moments)

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[tuple[str, float]]:
        """Hash of each pair, and by how much its chosen response outscores the rejected one."""
        chosen, rejected = self.scores(self.features(batch))
        hashes = [record.pair_hash for record in batch.records[: batch.counted]]
        return list(zip(hashes, (chosen - rejected)[: batch.counted].tolist(), strict=True))

    # ------------------------------------------------------------------ Lightning's hooks

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def export(self, directory: str | os.PathLike[str], renderer: Renderer) -> Path:
        """Write a directory that ``AutoModelForSequenceClassification`` loads, with equal scores.

        The adapters lie in its folder ``adapters`` as well: a policy on the same weights can share them.
        """
        assert self.network is not None
        with adding_nothing(renderer.tokenizer):
            return export(merged(self.network.model), renderer, directory, also=self.save_adapters)
