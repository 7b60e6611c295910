"""Memory against time: layers are computed a second time on the way back instead of keeping what they computed."""

from functools import partial
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


class LayerCheckpointing(Callback):
    """Of each layer only the input is kept for the way back; a step takes about a third longer, its numbers stay.

    For SFT and reward modules, under any strategy; PPO trains in evaluation mode, where it does nothing.

    In a config: ``trainer.callbacks: [{class_path: lit_rlhf.networks.checkpointing.LayerCheckpointing}]``.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch it on in all models that train."""
        models = [each for each in pl_module.modules() if isinstance(each, PreTrainedModel)]
        for model in models:
            if any(parameter.requires_grad for parameter in model.parameters()):
                enable: Any = model._set_gradient_checkpointing  # type: ignore[attr-defined]
                enable(True, partial(checkpoint, use_reentrant=False))
        rank_zero_info(f"layers of {len(models)} models are computed twice, to save memory")
