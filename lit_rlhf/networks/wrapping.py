"""Networks split over processes by the first version of FSDP, which wraps modules and flattens their weights."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.plugins.precision import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import MixedPrecision, ShardingStrategy
from torch.distributed.fsdp._runtime_utils import _reshard  # pyright: ignore[reportPrivateUsage]
from torch.distributed.fsdp.wrap import wrap
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.slices import put, stored_of
from lit_rlhf.networks.units import computing

_PREFIX = "_fsdp_wrapped_module."


@dataclass
class _Deferred:
    """What is to be computed while the weights are whole, handed through FSDP's ``forward``."""

    compute: Callable[[], Any]


class Precision(FSDPPrecision):
    """That of FSDPStrategy, for batches and metrics as they are here.

    Args:
        precision: As the Trainer has it.
        device: Kind of the device; Lightning's own takes a GPU for granted.
    """

    def __init__(self, precision: Any, device: str) -> None:
        super().__init__(precision)
        self.device = device

    def forward_context(self) -> AbstractContextManager[None]:
        """Products in low precision where precision is mixed."""
        if self.precision != "bf16-mixed":
            return super().forward_context()
        return torch.autocast(self.device, torch.bfloat16)  # type: ignore[return-value]

    def convert_input(self, data: Any) -> Any:
        """Leave a batch alone: it holds frozen records, and no number that must be cast."""
        return data

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Leave sums of metrics in double precision where weights are in fp32 anyway."""
        return module if self.precision == "32-true" else super().convert_module(module)


def wrap_network(owner: nn.Module, network: nn.Module, bf16: bool = False) -> None:
    """Split a network as `lit_rlhf.networks.sharding.split` does, with the first version of FSDP.

    Must be called within the strategy's ``model_sharded_context``, which knows its options; ``configure_model`` is.

    Args:
        owner: Holds the network, somewhere; a wrapper takes its place there, which can do all that it can.
        network: A module with an attribute ``computes``.
        bf16: As there.

    Weights that were left in their files (see `lit_rlhf.networks.slices`) are read now, one layer after the other; each
    process keeps its slices alone.

    Source: Zhao et al. 2023, "PyTorch FSDP" (arXiv 2304.11277).
    """
    plain, low = MixedPrecision(), MixedPrecision(torch.bfloat16, torch.float32, torch.float32)
    for layer in [each for each in network.modules() if isinstance(each, GradientCheckpointingLayer)]:
        _read(layer, network)
        _replace(network, layer, _wrapped(layer, low if bf16 else plain))
    _read(network, network)
    parts, compute = list(network.modules()), network.forward
    root: Any = _wrapped(network, plain)
    _replace(owner, network, root)
    through, computed = root.forward, computing(root, compute)
    root.gathering = lambda compute: _gathering(root, compute)
    root.forward = lambda *args, **kwargs: through(*args) if _is_deferred(args) else computed(*args, **kwargs)
    network.forward = lambda *args, **kwargs: args[0].compute() if _is_deferred(args) else computed(*args, **kwargs)
    for name in getattr(network, "computes", ()):
        setattr(network, name, computing(root, getattr(network, name)))
    for part in parts:
        object.__setattr__(part, "wrapped_by", root)  # no submodule
    for parameter in root.parameters():
        parameter.in_pieces = True


def _wrapped(module: nn.Module, precision: MixedPrecision) -> nn.Module:
    found = wrap(module, auto_wrap_policy=None, mixed_precision=precision)
    if not isinstance(found, FSDP):
        raise RuntimeError("networks are wrapped within the strategy's model_sharded_context")
    return found


def _gathering(root: Any, compute: Callable[[], Any]) -> Any:
    """Compute while the weights are whole.

    FSDP keeps its root's for a way back. Where none comes, they are given up here: they would take memory, and not
    follow the optimiser's next step.
    """
    found = root(_Deferred(compute))
    if not torch.is_grad_enabled() and root._handle is not None and root._handle.uses_sharded_strategy:
        _reshard(root, root._handle, True)
    return found


def _is_deferred(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], _Deferred)


def _read(part: nn.Module, network: nn.Module) -> None:
    """Put weights in their places that were left in their files; rows that were added to one are new."""
    for parameter in list(part.parameters()):
        stored = stored_of(parameter)
        if stored is not None:
            values = stored.read()
            added = torch.empty(len(parameter) - len(values) if stored.rows else 0, *values.shape[1:]).normal_(std=0.02)
            values = torch.cat([values, added]) if len(added) else values
            put(network, parameter, nn.Parameter(values, parameter.requires_grad))


def _replace(owner: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for part in list(owner.modules()):
        for name in [name for name, each in part.named_children() if each is old]:
            setattr(part, name, new)


def wrappers(module: nn.Module) -> list[Any]:
    """The wrappers of all networks in a module, and of the one that it is a part of, if these are split so."""
    return list(dict.fromkeys(root for part in module.modules() if (root := vars(part).get("wrapped_by")) is not None))


def is_wrapped(part: nn.Module) -> bool:
    """Whether a module is a part of a network that is split so, or a wrapper."""
    return isinstance(part, FSDP) or "wrapped_by" in vars(part)


@contextmanager
def opened(roots: list[Any], on_first: bool = False) -> Generator[None]:
    """Whole weights in networks that are wrapped; all processes must come, and nobody needs gradients.

    Args:
        roots: The wrappers.
        on_first: Only the first process needs them, on the CPU, and does not compute with them.
    """
    with ExitStack() as stack:
        for root in roots:
            away = on_first and root.compute_device.type != "cpu"  # what is there already would be freed, not moved
            options: Any = {"writeback": False, "rank0_only": on_first, "offload_to_cpu": away}
            stack.enter_context(FSDP.summon_full_params(root, **options))
        for root in roots:
            stack.enter_context(_without_wrappers(root.module))
        yield


@contextmanager
def _without_wrappers(network: nn.Module) -> Generator[None]:
    """The network without the wrappers of its layers, which would gather them again."""
    found = [(part, name, each) for part in network.modules() for name, each in part.named_children()]
    pairs = [(part, name, each) for part, name, each in found if isinstance(each, FSDP)]
    for part, name, each in pairs:
        setattr(part, name, each.module)
    try:
        yield
    finally:
        for part, name, each in pairs:
            setattr(part, name, each)


def bare(module: nn.Module) -> nn.Module:
    """What is inside a wrapper; a module that is none is given back."""
    return module.module if isinstance(module, FSDP) else module


def unwrapped(name: str) -> str:
    """A weight's name without that of wrappers around it, as it stands in checkpoints."""
    return name.replace(_PREFIX, "")


def check_wrapping(strategy: FSDPStrategy, where: str, writes: bool) -> None:
    """Refuse options of FSDPStrategy that do not do here what they say.

    Args:
        strategy: With its options.
        where: What stands before the name of one.
        writes: Whether checkpoints are written.

    Raises:
        DataError: Names the option.
    """
    offload, rest = strategy.cpu_offload, strategy.kwargs
    again = getattr(strategy, "_activation_checkpointing_kwargs", None)
    shared = strategy.sharding_strategy not in (ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP)
    whole = writes and getattr(strategy, "_state_dict_type", None) == "full"
    for option, given, why, hint in (
        ("state_dict_type", whole, "is full, and an optimiser's state would not be found again in such a file",
         "Give sharded, as configs/trainer/fsdp.yaml does; `lit-rlhf export` makes one model of the folder."),
        ("sharding_strategy", shared, "leaves whole weights on several processes", "Give FULL_SHARD or SHARD_GRAD_OP."),
        ("cpu_offload", bool(offload and offload.offload_params), "computes where networks do not look for them",
         "Leave it out; `lit-rlhf plan` shows what saves memory."),
        ("activation_checkpointing_policy", bool(again), "does not know that the last layer leaves tokens out",
         "Take the callback lit_rlhf.networks.checkpointing.LayerCheckpointing, as configs/trainer/fsdp.yaml does."),
        ("mixed_precision", strategy.mixed_precision is not None, "is not asked: layers and heads have their own",
         "Leave it out: trainer.precision says it."),
        ("use_orig_params", not rest.get("use_orig_params", True), "would take parameters away from optimisers",
         "Leave it out: it must be true."),
    ):  # fmt: skip
        if given:
            raise DataError(why, f"{where}.{option}", hint)
