"""What every module that trains one network shares: it works on several processes as on one."""

import os
import random
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from lit_rlhf.data.batches import Loaded
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.sharding import split
from lit_rlhf.networks.slices import weights_in_files
from lit_rlhf.networks.together import processes, sum_of_all, weight_among_all


class NetworkModule(LightningModule):
    """A LightningModule whose losses are means over rows or tokens.

    With W processes and B rows each, losses, gradients and metrics are those of one process with W · B rows; only
    dropout draws other numbers. Networks are split where the strategy asks for it.
    """

    @property
    def _fsdp2(self) -> bool:
        return isinstance(getattr(self._trainer, "strategy", None), ModelParallelStrategy)

    def building(self) -> AbstractContextManager[None]:
        """Where networks are loaded: weights that are going to be split stay in their files until they are."""
        return weights_in_files(self._fsdp2)

    def split(self, network: nn.Module) -> None:
        """Split a network over the processes if the strategy is FSDP2; called at the end of ``configure_model``."""
        if self._fsdp2:
            assert self.device_mesh is not None
            split(network, self.device_mesh["data_parallel"], bf16=self.trainer.precision == "bf16-mixed")

    def split_all(self) -> None:
        """Split every network in here if the strategy is FSDP2: what has an attribute ``computes``, with all inside it.

        One whose weights stayed in their files would otherwise lose them, and all others theirs.

        Raises:
            DataError: If a network in here is none that can be split.
        """
        networks = [each for each in self.modules() if getattr(each, "computes", None) is not None]
        inner = {part for network in networks for part in network.modules() if part is not network}
        for network in networks:
            if network not in inner:
                self.split(network)
        left = next((name for name, each in self.named_parameters() if each.is_meta), None)
        if left is not None:
            hint = "Give its class an attribute `computes`, or take configs/trainer/ddp.yaml."
            raise DataError("belongs to a network that cannot be split over processes", left, hint)

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
