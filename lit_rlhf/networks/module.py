"""What every module that trains one network shares: it works on several processes as on one."""

import inspect
import os
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.parsing import collect_init_args
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_rlhf.data.batches import Loaded
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import plain
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.optimizer import check_weights
from lit_rlhf.networks.sharding import clip_gradients, split
from lit_rlhf.networks.slices import weights_in_files
from lit_rlhf.networks.together import processes, sum_of_all, weight_among_all
from lit_rlhf.networks.wrapping import Precision, is_wrapped, wrap_network


class NetworkModule(LightningModule):
    """A LightningModule whose losses are means over rows or tokens.

    With W processes and B rows each, losses, gradients and metrics are those of one process with W · B rows; only
    dropout draws other numbers. Networks are split where the strategy asks for it.

    Args:
        path: Hugging Face directory or Hub id of the network's model, whose tokenizer is taken.
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.

    Attributes:
        view: What the module is trained on: whole pairs, responses or prompts. The DataModule is told.
        examples: What people may read of the step at hand, by name; written aside if that step is refused.
    """

    view: View
    examples: Sequence[dict[str, Any]] = ()

    def __init__(self, path: str, renderer: Renderer | dict[str, Any] | None = None) -> None:
        super().__init__()
        self.path = path
        self._renderer: Renderer | dict[str, Any] | None = renderer

    @property
    def tokenizer(self) -> str:
        """Directory or Hub id of the model's tokenizer."""
        return self.path

    @property
    def renderer(self) -> Renderer:
        """How text becomes tokens, and back; the data must be written by the same tokenizer and template."""
        if not isinstance(self._renderer, Renderer):
            self._renderer = Renderer.load(**(self._renderer or {"path": self.tokenizer}))
        return self._renderer

    @renderer.setter
    def renderer(self, renderer: Renderer | dict[str, Any]) -> None:
        """Take it, or the arguments of `Renderer.load`, which reads it when it is first used."""
        self._renderer = renderer
        self.hparams["renderer"] = plain(renderer)

    def save_hyperparameters(
        self, *args: Any, ignore: Any = None, frame: FrameType | None = None, logger: bool = True
    ) -> None:
        """Keep the constructor's arguments in ``hparams`` as plain values: objects as their class and options."""
        here = inspect.currentframe()
        frame = frame or (here.f_back if here is not None else None)
        if args and not isinstance(args[0], str):
            return super().save_hyperparameters(plain(args[0]), logger=logger)
        options: dict[str, Any] = {}
        for each in collect_init_args(frame, [], classes=(HyperparametersMixin,)):  # type: ignore[arg-type]
            options |= each
        left_out = [ignore] if isinstance(ignore, str) else list(ignore or [])
        known = args or inspect.signature(type(self)).parameters  # not those of a base that it calls
        wanted = {name: plain(value) for name, value in options.items() if name in known}
        return super().save_hyperparameters(
            {name: value for name, value in wanted.items() if name not in left_out}, ignore=left_out, logger=logger
        )

    def setup(self, stage: str) -> None:
        """Refuse what no network here can be computed in, and data that are written otherwise than the module reads.

        Raises:
            DataError: Names the option.
        """
        check_weights(self.trainer)
        data: Any = getattr(self.trainer, "datamodule", None)
        theirs = getattr(data, "renderer", None)
        if isinstance(theirs, Renderer) and theirs.fingerprint != self.renderer.fingerprint:
            hint = f"Give the module the data's: {type(self).__name__}(…, renderer=data.renderer)."
            raise DataError("write prompts and responses otherwise than the module reads them", "the data", hint)

    @property
    def part(self) -> str:
        """What metrics of `validation_step` are named after: ``val``, or ``test`` under ``trainer.test``."""
        return "test" if self._trainer is not None and self._trainer.testing else "val"

    @property
    def is_training(self) -> bool:
        """Whether a Trainer fits this module; elsewhere checkpoints are only measured, exported or loaded."""
        return self._trainer is not None and self._trainer.state.fn == "fit"

    @property
    def _root_device(self) -> torch.device:
        """Where the networks will compute."""
        return self._strategy.root_device if self._strategy is not None else self.device

    @property
    def _strategy(self) -> Strategy | None:
        return getattr(self._trainer, "strategy", None)

    def building(self) -> AbstractContextManager[None]:
        """Where networks are loaded: weights that are going to be split stay in their files until they are."""
        return weights_in_files(isinstance(self._strategy, FSDPStrategy | ModelParallelStrategy))

    def split(self, network: nn.Module) -> None:
        """Split a network in here over the processes if the strategy is to; called at the end of ``configure_model``.

        ModelParallelStrategy does it by FSDP2, FSDPStrategy by FSDP, where a wrapper takes the network's place.
        """
        self._split(network)
        self._move_the_rest()

    def _split(self, network: nn.Module) -> None:
        bf16 = getattr(self._trainer, "precision", None) == "bf16-mixed"
        if isinstance(self._strategy, ModelParallelStrategy):
            assert self.device_mesh is not None
            split(network, self.device_mesh["data_parallel"], bf16)
        elif isinstance(self._strategy, FSDPStrategy):
            wrap_network(self, network, bf16)
            plugin, device = self._strategy.precision_plugin, self._strategy.root_device.type
            if not isinstance(plugin, Precision):
                self._strategy.precision_plugin = Precision(plugin.precision, device)

    def split_all(self) -> None:
        """Split every network in here if the strategy is to: what has an attribute ``computes``, with all inside it.

        One whose weights stayed in their files would otherwise lose them, and all others theirs.

        Raises:
            DataError: If a network in here is none that can be split.
        """
        networks = [each for each in self.modules() if getattr(each, "computes", None) is not None]
        inner = {part for network in networks for part in network.modules() if part is not network}
        for network in networks:
            if network not in inner:
                self._split(network)
        self._move_the_rest()
        left = next((name for name, each in self.named_parameters() if each.is_meta), None)
        if left is not None:
            hint = "Give its class an attribute `computes`, or take configs/trainer/ddp.yaml."
            raise DataError("belongs to a network that cannot be split over processes", left, hint)

    def _move_the_rest(self) -> None:
        """Bring what is not split to the device, which FSDPStrategy does not do."""
        if not isinstance(self._strategy, FSDPStrategy):
            return
        for part in [each for each in self.modules() if not is_wrapped(each)]:
            for value in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                if not value.is_meta:  # `split_all` says which network cannot be split
                    value.data = value.data.to(self._strategy.root_device)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does it, and by the norm of all gradients under FSDPStrategy, too."""
        by_norm = gradient_clip_algorithm in (None, "norm") and gradient_clip_val
        if by_norm and isinstance(self._strategy, FSDPStrategy):
            clip_gradients([each for group in optimizer.param_groups for each in group["params"]], float(by_norm))
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def shared(self, value: Tensor, batch: Loaded, weight: Tensor | float | None = None) -> Tensor:
        """A mean over the batch, such that its average over the processes is the mean over the rows of all.

        Args:
            value: The mean of this process's rows.
            batch: The rows.
            weight: What the mean divides by: tokens, for example; None takes the rows.
        """
        if processes() == 1:
            return value
        own = 0.0 if batch.idle else len(batch) if weight is None else weight
        return value * weight_among_all(own, value.device)

    def total(self, count: int) -> int:
        """The sum of the processes' counts, for ``batch_size`` of ``log``: Lightning rounds means of unequal ones."""
        return count if processes() == 1 else int(sum_of_all(torch.tensor([count], device=self.device)))

    def adding_up(self, further: bool) -> AbstractContextManager[None]:
        """Around a backward pass; where ``further`` ones are added to it, DDP need not send its gradients yet."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if further and isinstance(strategy, DDPStrategy) else nullcontext()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Several processes drop different things, and the same again in a run that was resumed."""
        if processes() > 1:
            place = f"{os.environ.get('PL_GLOBAL_SEED')} {self.trainer.global_step} {batch_idx} {self.global_rank}"
            torch.manual_seed(random.Random(place).getrandbits(63))
