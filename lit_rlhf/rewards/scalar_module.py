"""Training a scalar reward model on preference pairs."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning import LightningModule
from torch import Tensor

from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import bradley_terry_loss
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import ensure_pad_token, export, fingerprint
from lit_rlhf.networks.optimizer import Optimizer, total_steps
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards.pair_metrics import PairMetrics


class ScalarRewardModule(LightningModule):
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

    view: View = "pairs"

    def __init__(self, model: str, optimizer: Optimizer | None = None, lora: LoRA | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.path, self.optimizer, self.lora = model, optimizer or Optimizer(), lora
        self.strict_loading = lora is None  # frozen weights are not in the checkpoints: they come from the directory
        self.network: RewardNetwork | None = None

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer comes from unless the data name one."""
        return self.path

    def configure_model(self) -> None:
        """Build the network and its metrics; called by the Trainer, again on resume."""
        if self.network is not None:
            return
        self.network = RewardNetwork(self.path).train()  # loading leaves dropout off
        self._base = fingerprint(self.network.model.base_model) if self.lora else None
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        ensure_pad_token(self.network.model, datamodule.renderer)
        if self.lora is not None:
            self.lora.add(self.network.model)
        self.metrics = PairMetrics(datamodule.source_names, datamodule.val_rows)

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
        """The training loss, and the scores ``(N,)`` of chosen and rejected responses; a variant overrides this."""
        chosen, rejected = self.scores(self.features(batch))
        return self.loss(chosen, rejected, batch), chosen, rejected

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        loss, chosen, rejected = self.training_loss(batch)
        self.log_training(loss, chosen, rejected, batch)
        return loss

    def log_training(self, loss: Tensor, chosen: Tensor, rejected: Tensor, batch: PairBatch) -> None:
        """Log loss and accuracy, on the labels as they were read: a flip changes what is learned, not what is said."""
        right = (chosen > rejected) != batch.flipped
        metrics = {"train/loss": loss.detach(), "train/accuracy": right.float().mean()}
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch))

    # ------------------------------------------------------------------ measuring

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Count one batch."""
        features = self.features(batch)
        chosen, rejected = self.scores(features)
        self.log("val/loss", self.loss(chosen, rejected, batch), batch_size=len(batch), sync_dist=True)
        good, bad = features.chunk(2)
        self.metrics.update(chosen, rejected, batch, (good, bad))

    def on_validation_epoch_end(self) -> None:
        """Log all figures, and remember the spread of the scores for the export."""
        figures, moments = self.metrics.figures(), self.metrics.moments()
        self.metrics.reset()
        # Computed over all processes, so equal on each of them.
        self.log_dict({f"val/{name}": value for name, value in figures.items() if name != "accuracy"})
        self.log("val/accuracy", figures["accuracy"], prog_bar=True)
        if not self.trainer.sanity_checking:
            datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.network.model.config.calibration = {**moments, "data": ", ".join(datamodule.source_names)}  # type: ignore[union-attr]

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[tuple[str, float]]:
        """Hash of each pair, and by how much its chosen response outscores the rejected one."""
        chosen, rejected = self.scores(self.features(batch))
        hashes = [record.pair_hash for record in batch.records]
        return list(zip(hashes, (chosen - rejected).tolist(), strict=True))

    # ------------------------------------------------------------------ Lightning's hooks

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the spread of the scores; keep no frozen weights, but what names them."""
        checkpoint["calibration"] = getattr(self.network.model.config, "calibration", None)  # type: ignore[union-attr]
        checkpoint["lora"] = self._adapters()
        frozen = {name for name, each in self.named_parameters(remove_duplicate=False) if not each.requires_grad}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in weights.items() if name not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that is resumed behind its last validation exports the spread that was measured there.

        Raises:
            DataError: If the checkpoint's adapters are others, or belong to other frozen weights.
        """
        theirs, ours = checkpoint.get("lora") or {}, self._adapters() or {}
        differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if differing:
            told = ", ".join(f"{name} {theirs.get(name)} instead of {ours.get(name)}" for name in differing)
            hint = "Resume with the model and the lora options that the run was started with."
            raise DataError(f"the checkpoint's adapters have {told}", self.path, hint)
        if checkpoint["calibration"] is not None:
            self.network.model.config.calibration = checkpoint["calibration"]  # type: ignore[union-attr]

    def _adapters(self) -> dict[str, Any] | None:
        """What the trained adapters fit to: options, fingerprint of the frozen weights, count of the trained ones."""
        if self.lora is None:
            return None
        trained = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return {**asdict(self.lora), "base": self._base, "trained": trained}

    def configure_optimizers(self) -> Any:
        """AdamW over all parameters that are trained."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.optimizer.build(trained, total_steps(self.trainer))

    def export(self, directory: str | os.PathLike[str], renderer: Renderer) -> Path:
        """Write a directory that ``AutoModelForSequenceClassification`` loads, with equal scores."""
        return export(merged(self.network.model), renderer, directory)  # type: ignore[union-attr]
