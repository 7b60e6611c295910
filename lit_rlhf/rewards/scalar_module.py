"""Training a scalar reward model on preference pairs."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import bradley_terry_loss
from lit_rlhf.networks.adapters import LoRA, merged, save_adapters
from lit_rlhf.networks.backbone import export
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards.adapted import AdaptedModule
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
    """

    def __init__(self, model: str, optimizer: Optimizer | None = None, lora: LoRA | None = None) -> None:
        super().__init__(model, optimizer, lora)
        self.save_hyperparameters()
        self.network: RewardNetwork | None = None

    def configure_model(self) -> None:
        """Build the network and its metrics; called by the Trainer, again on resume."""
        if self.network is not None:
            return
        with self.building():
            self.network = RewardNetwork(self.path).train()  # loading leaves dropout off
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.adapt(self.network.model, datamodule.renderer)
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

    def training_loss(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The training loss, shared, and the scores ``(N,)`` of both responses; a variant overrides this."""
        chosen, rejected = self.scores(self.features(batch))
        return self.shared(self.loss(chosen, rejected, batch), batch), chosen, rejected

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
        return export(merged(self.network.model), renderer, directory, also=self._save_adapters)

    def _save_adapters(self, folder: Path) -> None:
        network = self.network
        if self.lora is not None and network is not None and not network.looks_ahead:
            base = str(self._base)
            save_adapters(network.model.base_model, network.head, self.lora, base, folder / "adapters")
