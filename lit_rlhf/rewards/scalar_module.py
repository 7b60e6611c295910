"""Training a scalar reward model on preference pairs."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import ModuleList

from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import bradley_terry_loss
from lit_rlhf.networks.backbone import ensure_pad_token, export
from lit_rlhf.networks.optimizer import Optimizer, total_steps
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards.metrics import Moments, PairwiseAccuracy


class ScalarRewardModule(LightningModule):
    """Bradley–Terry reward model: one score per response, trained so that the chosen one scores higher.

    Accuracy is reported without margins, on the labels as they are and, where they are known, on the true ones,
    for each source, and beside the share of pairs whose chosen response is simply longer.

    Args:
        model: Hugging Face directory or Hub id to start from: a language model, or a scalar model to go on with.
        optimizer: Learning rate and schedule.
    """

    view: View = "pairs"

    def __init__(self, model: str, optimizer: Optimizer | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.path, self.optimizer = model, optimizer or Optimizer()
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
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        ensure_pad_token(self.network.model, datamodule.renderer)
        self.sources: list[str] = datamodule.source_names
        # All pairs first, then each source; in lists, since not every source's name can name a module.
        groups = 1 + (len(self.sources) if len(self.sources) > 1 else 0)
        self.accuracy: Any = ModuleList(PairwiseAccuracy() for _ in range(groups))
        self.true_accuracy: Any = ModuleList(PairwiseAccuracy() for _ in range(groups))
        self.longer_wins: Any = ModuleList(PairwiseAccuracy() for _ in range(groups))
        self.spread = Moments()

    # ------------------------------------------------------------------ the loss

    def scores(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Scores of chosen and rejected responses, each ``(N,)``, from one forward pass."""
        chosen, rejected = self.network(batch.chosen.joined(batch.rejected)).chunk(2)  # type: ignore[misc]
        return chosen, rejected

    def loss(self, chosen: Tensor, rejected: Tensor, batch: PairBatch) -> Tensor:
        """The training loss; a variant overrides this."""
        return bradley_terry_loss(chosen, rejected)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        chosen, rejected = self.scores(batch)
        loss = self.loss(chosen, rejected, batch)
        accuracy = (chosen > rejected).float().mean()
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy}, prog_bar=True, batch_size=len(batch))
        return loss

    # ------------------------------------------------------------------ measuring

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Count one batch."""
        chosen, rejected = self.scores(batch)
        self.log("val/loss", self.loss(chosen, rejected, batch), batch_size=len(batch), sync_dist=True)
        self.spread.update(torch.cat([chosen, rejected]))
        longer = (batch.chosen.length - batch.rejected.length).float()
        truth = batch.chosen_is_better
        for group in range(len(self.accuracy)):
            counted = batch.source == group - 1 if group > 0 else torch.ones_like(truth, dtype=torch.bool)
            known = counted & (truth >= 0)
            self.accuracy[group].update((chosen - rejected)[counted])
            self.longer_wins[group].update(longer[counted])
            self.true_accuracy[group].update(((chosen - rejected) * (2 * truth - 1))[known])

    def on_validation_epoch_end(self) -> None:
        """Log the shares with their intervals, and remember the spread of the scores for the export."""
        for group in range(len(self.accuracy)):
            suffix = f"/{self.sources[group - 1]}" if group > 0 else ""
            self._log_share(f"val/accuracy{suffix}", self.accuracy[group])
            self._log_share(f"val/true_accuracy{suffix}", self.true_accuracy[group])
            self._log_share(f"val/longer_wins{suffix}", self.longer_wins[group], interval=False)
        moments = {name: float(value) for name, value in self.spread.compute().items()}
        self.spread.reset()
        self.log_dict({f"val/score_{name}": moments[name] for name in ("mean", "std")}, sync_dist=True)
        if not self.trainer.sanity_checking:
            self.network.model.config.calibration = {**moments, "data": ", ".join(self.sources)}  # type: ignore[union-attr]

    def _log_share(self, key: str, metric: Any, interval: bool = True) -> None:
        if metric.total > 0:
            low, high = metric.interval()
            bounds = {f"{key}_low": low, f"{key}_high": high} if interval else {}
            self.log_dict({key: metric.compute(), **bounds}, prog_bar=key == "val/accuracy", sync_dist=True)
        metric.reset()

    # ------------------------------------------------------------------ Lightning's hooks

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the spread of the scores."""
        checkpoint["calibration"] = getattr(self.network.model.config, "calibration", None)  # type: ignore[union-attr]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that is resumed behind its last validation exports the spread that was measured there."""
        if checkpoint["calibration"] is not None:
            self.network.model.config.calibration = checkpoint["calibration"]  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        """AdamW over all parameters."""
        return self.optimizer.build(self.parameters(), total_steps(self.trainer))

    def export(self, directory: str | os.PathLike[str], renderer: Renderer) -> Path:
        """Write a directory that ``AutoModelForSequenceClassification`` loads, with equal scores."""
        return export(self.network.model, renderer, directory)  # type: ignore[union-attr]
