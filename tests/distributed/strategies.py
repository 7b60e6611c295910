"""The strategies that are tested on pairs of processes."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import enable_wrap


class FSDPOnCPU(FSDPStrategy):
    """FSDPStrategy, which Lightning refuses without a GPU; torch's FSDP does compute on a CPU if it is told to."""

    @contextmanager
    def model_sharded_context(self) -> Generator[None]:
        options = {**self.kwargs, "device_id": torch.device("cpu"), "sharding_strategy": self.sharding_strategy}
        with enable_wrap(wrapper_cls=FullyShardedDataParallel, cpu_offload=self.cpu_offload, **options):
            yield


def _strategy(class_path: str, **options: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": {"process_group_backend": "gloo", **options}}


_SIZES = {"data_parallel_size": 2, "tensor_parallel_size": 1}
STRATEGIES = {
    "ddp": _strategy("lightning.pytorch.strategies.DDPStrategy"),
    "fsdp": _strategy("tests.distributed.strategies.FSDPOnCPU", state_dict_type="sharded"),
    "fsdp2": _strategy(
        "lightning.pytorch.strategies.ModelParallelStrategy", **_SIZES, save_distributed_checkpoint=False
    ),
    "fsdp2_in_parts": _strategy(
        "lightning.pytorch.strategies.ModelParallelStrategy", **_SIZES, save_distributed_checkpoint=True
    ),
}
