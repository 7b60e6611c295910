"""What every module that learns a reward shares: its padding token, and the spread of its scores."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from lit_rlhf.data.preparation import View
from lit_rlhf.networks.backbone import check_embeddings, ensure_pad_token
from lit_rlhf.networks.fine_tuned import FineTunedModule


class AdaptedModule(FineTunedModule):
    """Learns a reward from pairs, with all weights or with adapters; remembers the spread of the scores.

    Subclasses build ``network``, which holds its transformers model as ``model``, in ``configure_model``, and hand the
    latter to `adapt`.

    Args:
        model: Where the weights come from.
        optimizer: Learning rate and schedule.
        lora: The adapters; None trains all weights.
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.
    """

    view: View = "pairs"

    def adapt(self, model: PreTrainedModel) -> None:
        """Give a freshly loaded model its padding token, and its adapters, if there are any."""
        self.name_base(model)  # before random rows are added to the embeddings
        self._config.calibration = None  # that of the model it starts from is no longer true
        check_embeddings(model, self.renderer, self.path)  # before rows are added for a padding token
        ensure_pad_token(model, self.renderer)
        self.add_adapters(model)

    def remember_scores(self, moments: dict[str, float], sources: Sequence[str]) -> None:
        """Keep ``mean``, ``std`` and ``n`` of the scores of a validation; the exported model brings them along."""
        if not self.trainer.sanity_checking:
            self._config.calibration = {**moments, "data": ", ".join(sources)}

    @property
    def has_sources(self) -> bool:
        """Whether the data come from several sources, so that figures are given for each of them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        return len(getattr(data, "source_names", ())) > 1

    @property
    def _config(self) -> PreTrainedConfig:
        network: Any = self.network
        return network.model.config

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the spread of the scores, too."""
        checkpoint["calibration"] = getattr(self._config, "calibration", None)
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that is resumed behind its last validation exports the spread that was measured there."""
        super().on_load_checkpoint(checkpoint)
        if checkpoint["calibration"] is not None:
            self._config.calibration = checkpoint["calibration"]
