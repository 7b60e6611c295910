"""Networks split over processes (FSDP2): each holds a slice of every weight, and gathers layers while they compute."""

import copy
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_rlhf.networks.slices import put, stored_of
from lit_rlhf.networks.together import mean_of_all, rank, sum_of_all
from lit_rlhf.networks.units import computing, entering, inside
from lit_rlhf.networks.weight_files import Stored
from lit_rlhf.networks.wrapping import bare, opened, unwrapped, wrappers

_whole: ContextVar[tuple[int, ...]] = ContextVar("units that are gathered for a while", default=())


def split(network: nn.Module, mesh: DeviceMesh, bf16: bool = False) -> None:
    """Split a network's weights over the processes of a mesh: each layer is a unit, and the rest is one.

    Equal calls on all processes then compute together, each on its own rows. What a network offers beside its
    ``forward`` stands in its attribute ``computes``: names of methods during which its weights are whole.

    Args:
        network: `PolicyNetwork`, `RewardNetwork`, `Rewriter` or another module whose weights are the same on all
            processes; changed in place. Its parameters become slices (`DTensor`).
        mesh: One dimension.
        bf16: Layers are gathered in bf16; the rest (embeddings, heads) and all sums of gradients stay in fp32.
            For training under autocast, which casts the inputs of products.

    Weights that were left in their files (see `lit_rlhf.networks.slices`) are read now, each process's slices alone.

    Source: Zhao et al. 2023, "PyTorch FSDP" (arXiv 2304.11277), in its second version, ``fully_shard``.
    """
    left = {name: stored for name, each in network.named_parameters() if (stored := stored_of(each)) is not None}
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    low = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in [each for each in network.modules() if isinstance(each, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh, mp_policy=low if bf16 else plain)
    root: Any = fully_shard(network, mesh=mesh, mp_policy=plain)
    for name, stored in left.items():
        _read_slice(root, name, stored, mesh)
    # Left gathered after an evaluation, the root's weights would not follow the optimiser's next step.
    root.set_reshard_after_forward(True)
    root.forward = entering(root, root.forward)
    root.gathering = lambda compute: compute()
    register_fsdp_forward_method(root, "gathering")
    for name in getattr(network, "computes", ()):
        setattr(root, name, computing(root, getattr(root, name)))
    warnings.filterwarnings("ignore", ".*returned a view tensor.*")  # nobody changes what a network returns in place


def _read_slice(root: nn.Module, name: str, stored: Stored, mesh: DeviceMesh) -> None:
    """Put this process's rows of a weight in its place, read from its file; rows that were added to it are new."""
    empty: Any = root.get_parameter(name)
    size = -(-len(empty) // mesh.size())
    start, end = (min(size * number, len(empty)) for number in (mesh.get_local_rank(), mesh.get_local_rank() + 1))
    values = stored.read(min(start, stored.rows), min(end, stored.rows)).to(mesh.device_type)
    if len(values) < end - start:
        added = torch.empty(end - start - len(values), *values.shape[1:], device=values.device)
        values = torch.cat([values, added.normal_(std=0.02)])
    placed = DTensor.from_local(values, mesh, [Shard(0)], run_check=False, shape=empty.shape, stride=empty.stride())
    put(root, empty, nn.Parameter(placed, empty.requires_grad))


def is_split(network: nn.Module) -> bool:
    """Whether this process holds slices of the network's weights only."""
    return any(isinstance(each, FSDPModule) for each in network.modules()) or bool(wrappers(network))


@contextmanager
def gathered(network: nn.Module) -> Generator[None]:
    """Whole weights for a while, gathered once: for rollouts, and for code that reads weights outside of a forward.

    All processes must enter and leave together; between, each may compute as often as it likes, without gradients.
    Layers of a network that `split` has split with ``bf16`` are in bf16 meanwhile (FSDP's first version gathers all in
    fp32): to write weights out, take `full_weights`.
    Nothing happens to a network that is not split, or is gathered already.

    Args:
        network: Whatever networks it holds are gathered, and those whose weights a part of it uses without holding
            them: what stands in that part's attribute ``borrows``.
    """
    borrowed = [other for each in network.modules() for other in getattr(each, "borrows", ())]
    parts = dict.fromkeys(part for each in (network, *borrowed) for part in each.modules())
    units: list[Any] = [each for each in parts if isinstance(each, FSDPModule) and id(each) not in _whole.get()]
    roots: list[Any] = [each for each in units if hasattr(each, "gathering")]
    wrapped = dict.fromkeys(root for each in (network, *borrowed) for root in wrappers(each))
    closed = [each for each in wrapped if id(each) not in _whole.get()]
    token = _whole.set((*_whole.get(), *map(id, units), *map(id, closed)))
    try:
        with inside(roots + closed), opened(closed):
            with torch.no_grad():
                for root in roots:
                    root.gathering(lambda: None)  # the first call settles which unit is the root
                for unit in units:
                    unit.set_reshard_after_forward(False, recurse=False)
                    unit.unshard()
            yield
    finally:
        _whole.reset(token)
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its values, gathered where it is split; all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def beside(network: nn.Module, values: Tensor) -> Parameter:
    """A parameter that is trained with a network but no part of it; the first process's values count.

    It is split if FSDP2 has split the network. If FSDP has, it is whole everywhere, and its gradient is averaged.
    """
    other = next(network.parameters())
    if isinstance(other, DTensor):
        return Parameter(distribute_tensor(values, other.device_mesh, [Shard(0)]))
    parameter = Parameter(values.to(other.device))
    if is_split(network):
        dist.broadcast(parameter.data, 0)
        parameter.register_hook(mean_of_all)
    return parameter


def named_weights(module: nn.Module) -> dict[str, Parameter]:
    """Parameters by all their names in a checkpoint."""
    return {unwrapped(name): each for name, each in module.named_parameters(remove_duplicate=False)}


def count(parameters: Iterable[Parameter]) -> int:
    """How many numbers they hold on all processes together; all must ask."""
    given = list(parameters)
    pieces, others = (
        sum(each.numel() for each in given if hasattr(each, "in_pieces") is kind) for kind in (True, False)
    )
    if any(hasattr(each, "in_pieces") for each in given):
        pieces = int(sum_of_all(torch.tensor([pieces], device=given[0].device)))
    return pieces + others


def in_parts(weights: dict[str, Any]) -> bool:
    """Whether a checkpoint's weights are those of a folder: each process has some of every one."""
    return any(isinstance(value, DTensor | ShardedTensor) for value in weights.values())


def total_norm(parameters: Iterable[Parameter], gradients: bool = True) -> Tensor:
    """Norm of all gradients as one vector, or of all parameters that have one; a number.

    Of networks that are split over processes it is that of all parts, and all processes must ask together.

    Args:
        parameters: The same on all processes.
        gradients: Otherwise their values.
    """
    given = list(parameters)

    def norm(some: list[Parameter]) -> Tensor:
        values = [each.grad if gradients else each for each in some if each.grad is not None]
        return whole(get_total_norm(values)).to(given[0].device)  # type: ignore[arg-type]

    pieces = [each for each in given if hasattr(each, "in_pieces")]
    if not pieces:
        return norm(given)
    others = norm([each for each in given if not hasattr(each, "in_pieces")])
    return (sum_of_all(norm(pieces).square()[None])[0] + others.square()).sqrt()


def clip_gradients(parameters: Iterable[Parameter], limit: float) -> Tensor:
    """Shorten gradients so that their `total_norm` is the limit at most; returns what it was.

    Source: Pascanu et al. 2013, "On the Difficulty of Training Recurrent Neural Networks" (arXiv 1211.5063).
    """
    given = list(parameters)
    norm = total_norm(given)
    clip_grads_with_norm_(given, limit, norm)
    return norm


def full_weights(
    module: nn.Module, everywhere: bool = True, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """All weights and buffers of a module by name, whole, in fp32 and on the CPU.

    Args:
        module: May be split; all processes must ask together then.
        everywhere: Whether all processes want them; otherwise the others take part, and get nothing.
        wanted: Says by its name whether one is meant.
    """
    found: dict[str, Tensor] = {}
    closed = [each for each in wrappers(module) if id(each) not in _whole.get()]
    with opened(closed, on_first=not everywhere):
        for name, value in [(name, each) for name, each in bare(module).state_dict().items() if wanted(name)]:
            tensor = whole(value.detach())
            if everywhere or rank() == 0:
                found[name] = tensor.cpu().clone() if closed else tensor.cpu()
    return found


def assembled(model: PreTrainedModel) -> PreTrainedModel:
    """A plain copy of a split model, for writing it out; a model that is not split is given back as it is.

    All processes must ask together. The first one gets the weights, on the CPU; the others a model without any.
    """
    if not is_split(model):
        return model
    weights = full_weights(model, everywhere=False)
    adapted = [each for each in model.modules() if isinstance(each, LoraLayer)]
    with torch.device("meta"):
        plain: Any = type(model)(copy.deepcopy(model.config))
        for name, config in getattr(model.base_model, "peft_config", {}).items():
            inject_adapter_in_model(config, plain.base_model, name)
    for part in plain.modules():
        if isinstance(part, LoraLayer):
            part.set_adapter(adapted[0].active_adapters)
    if model.can_generate():
        plain.generation_config = copy.deepcopy(model.generation_config)
    if weights:
        plain.load_state_dict(weights, assign=True)
        plain.tie_weights()
    return plain
