"""What every module that fine-tunes one network shares: its optimiser, adapters, and checkpoints of what is trained."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import restored
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapter_files import save_adapters
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import fingerprint
from lit_rlhf.networks.module import NetworkModule
from lit_rlhf.networks.optimizer import Optimizer, total_steps
from lit_rlhf.networks.sharding import count, in_parts, named_weights


class FineTunedModule(NetworkModule):
    """Trains all weights, or low-rank adapters beside frozen ones; checkpoints then hold no frozen weights.

    Subclasses build ``network``, which holds its transformers model as ``model``, in ``configure_model``, and hand the
    latter to `name_base`, before they change anything in it, and to `add_adapters`.

    Args:
        model: Where the weights come from.
        optimizer: Learning rate and schedule.
        lora: The adapters; None trains all weights.
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.
    """

    def __init__(
        self,
        model: str,
        optimizer: Optimizer | None = None,
        lora: LoRA | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(model, renderer)
        self.optimizer, self.lora = restored(optimizer, Optimizer) or Optimizer(), restored(lora, LoRA)
        self.strict_loading = lora is None  # frozen weights are not in the checkpoints: they come from the directory
        self._base: str | None = None

    def name_base(self, model: PreTrainedModel) -> None:
        """Note which frozen weights the adapters, if there are any, will belong to, of a freshly loaded model."""
        if self.lora is not None:
            self._base = fingerprint(model.base_model, skip="pooler.")  # a pooler may be new, and is trained

    def add_adapters(self, model: PreTrainedModel) -> None:
        """Put adapters into a model, if there are to be any."""
        if self.lora is not None:
            self.lora.add(model)

    def save_adapters(self, folder: Path) -> None:
        """Write the adapters, if there are any, into a model's folder, in the format of peft."""
        if self.lora is not None:
            network: Any = self.network
            save_adapters(network.model, self.lora, str(self._base), self.path, folder / "adapters")

    def configure_optimizers(self) -> Any:
        """AdamW over all parameters that are trained."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.optimizer.build(trained, total_steps(self.trainer))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep no frozen weights, but what names them.

        Lightning's callbacks that average weights need them all when they load.
        """
        checkpoint["lora"] = self._adapters()
        frozen = {name for name, each in named_weights(self).items() if not each.requires_grad}
        weights = checkpoint["state_dict"]
        # A checkpoint in parts is read into all weights of the module, so it needs them all, too.
        if "averaging_state" not in checkpoint and not in_parts(weights):
            checkpoint["state_dict"] = {name: value for name, value in weights.items() if name not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose adapters are others, or belong to other frozen weights.

        Raises:
            DataError: Names what differs.
        """
        theirs, ours = checkpoint.get("lora") or {}, self._adapters() or {}
        differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if differing:
            told = ", ".join(f"{name} {theirs.get(name)} instead of {ours.get(name)}" for name in differing)
            hint = "Resume with the model and the lora options that the run was started with."
            raise DataError(f"the checkpoint's adapters have {told}", self.path, hint)

    def _adapters(self) -> dict[str, Any] | None:
        """What the trained adapters fit to: options, fingerprint of the frozen weights, count of the trained ones."""
        if self.lora is None:
            return None
        trained = count(parameter for parameter in self.parameters() if parameter.requires_grad)
        return {**asdict(self.lora), "base": self._base, "trained": trained}
