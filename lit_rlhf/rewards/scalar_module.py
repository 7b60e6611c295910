"""Training a scalar reward model on preference pairs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.answers import adding_nothing
from lit_rlhf.data.batches import PairBatch, Sequences
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
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.
    """

    def __init__(
        self,
        model: str,
        optimizer: Optimizer | None = None,
        lora: LoRA | None = None,
        micro_batch_size: int | None = None,
        attributes: int | dict[str, float] | str | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(model, optimizer, lora, renderer)
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
        self.adapt(self.network.model)
        # Others read it at the same token, and get the score as it is: pipelines would apply a sigmoid.
        self.network.model.config.update({READ_AT: "template end", "problem_type": "regression"})
        self.finish(self.network)
        self.metrics = PairMetrics()

    def finish(self, network: RewardNetwork) -> None:
        """Split the network, which is complete; a variant may add to it before."""
        self.split(network)

    def forward(self, batch: PairBatch | Sequences) -> Tensor | tuple[Tensor, Tensor]:
        """Scores of chosen and rejected responses, each ``(N,)``; of plain sequences one score per row ``(N,)``."""
        if isinstance(batch, Sequences):
            return self.network(batch)  # type: ignore[misc]
        return self.scores(self.features(batch))

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

    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Tensor]:
        """One step on a batch of pairs; callbacks get its ``loss``, and the scores ``chosen`` and ``rejected``."""
        loss, chosen, rejected = self.training_loss(batch)
        self.log_training(loss, chosen, rejected, batch)
        return {"loss": loss, "chosen": chosen.detach(), "rejected": rejected.detach()}

    def log_training(self, loss: Tensor, chosen: Tensor, rejected: Tensor, batch: PairBatch) -> None:
        """Log loss and accuracy, on the labels as they were read: a flip changes what is learned, not what is said."""
        right = (chosen > rejected) != batch.flipped
        metrics = {"train/loss": loss.detach(), "train/accuracy": self.shared(right.float().mean(), batch)}
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch), sync_dist=True)

    # ------------------------------------------------------------------ measuring

    def validation_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Tensor]:
        """Measure one batch; returns the scores ``chosen`` and ``rejected``, each ``(N,)``."""
        features = self.features(batch)
        chosen, rejected = self.scores(features)
        loss = self.shared(self.loss(chosen, rejected, batch), batch)
        self.log(f"{self.part}/loss", loss, batch_size=self.total(batch.counted), sync_dist=True)
        good, bad = features.chunk(2)
        self.metrics.update(chosen, rejected, batch, (good, bad))
        return {"chosen": chosen, "rejected": rejected}

    def on_validation_epoch_end(self) -> None:
        """Log all figures, and remember the spread of the scores for the export."""
        figures, moments, sources = self.metrics.figures(self.has_sources), self.metrics.moments(), self.metrics.sources
        self.metrics.reset()
        # Computed over all processes, so equal on each of them.
        self.log_dict({f"{self.part}/{name}": value for name, value in figures.items() if name != "accuracy"})
        self.log(f"{self.part}/accuracy", figures["accuracy"], prog_bar=True)
        self.remember_scores(moments, sources)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Of each pair ``pair_hash``, the scores ``chosen`` and ``rejected``, and their ``difference``."""
        chosen, rejected = self.scores(self.features(batch))
        names = ("chosen", "rejected", "difference")
        columns = zip(*(each.tolist() for each in (chosen, rejected, chosen - rejected)), strict=True)
        counted = zip(batch.records[: batch.counted], columns, strict=False)
        return [{"pair_hash": record.pair_hash, **dict(zip(names, row, strict=True))} for record, row in counted]

    # ------------------------------------------------------------------ hand-over

    def export(self, directory: str | os.PathLike[str]) -> Path:
        """Write a directory that ``AutoModelForSequenceClassification`` loads, with equal scores.

        The adapters lie in its folder ``adapters`` as well: a policy on the same weights can share them.
        """
        assert self.network is not None
        with adding_nothing(self.renderer.tokenizer):
            return export(merged(self.network.model), self.renderer, directory, also=self.save_adapters)
