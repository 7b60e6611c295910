"""Memory of a stage on one GPU, part by part, before anything is rented: arithmetic on the shape of the network.

The peak is that of the worst moment. At the end of a training step's forward pass everything is there at once:
Lightning and `PPOModule` drop the last step's gradients only when the next ones are about to be computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Literal

from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.activations import Numerics, Rows, Shape, cast_bytes, kept_bytes, layer_bytes, width
from lit_rlhf.networks.policy_network import PolicyNetwork

Stage = Literal["sft", "reward", "seq2seq", "ppo", "baselines"]
Precision = Literal["32-true", "bf16-mixed", "bf16-true"]
GIB = 2**30
SUGGESTED_RANK = 16
TRAINS_ADAPTERS = ("sft", "reward", "seq2seq", "ppo")
COMPUTES_AGAIN = ("sft", "reward", "seq2seq")  # policy optimisation trains in evaluation mode, where layers do not


@dataclass(frozen=True)
class Work:
    """What is to be run.

    Attributes:
        stage: ``ppo`` with ``lora`` has policy, reference, critic and reward model on one trunk; without, they are four
            networks of their own, of equal shape.
        gpus: Over all nodes; 0 is a CPU.
        precision: The Trainer's.
        sharding: ``fsdp`` splits weights, gradients and optimiser over all GPUs, and gathers weights in bf16 unless
            the precision is ``32-true``.
        lora: Rank of adapters on all linear layers; None trains all weights.
        checkpointing: Whether layers are computed again on the way back instead of keeping what they need.
        batch_size: Rows per step and process; of pairs for reward models, of prompts for ``ppo`` and ``baselines``.
        prompt: Tokens of each.
        response: Tokens of each.
        k: Responses per prompt, of ``ppo`` and ``baselines``.
        minibatch: Responses computed at a time in an update of ``ppo``.
    """

    stage: Stage
    gpus: int = 1
    precision: Precision = "bf16-mixed"
    sharding: Literal["none", "fsdp"] = "none"
    lora: int | None = None
    checkpointing: bool = False
    batch_size: int = 32
    prompt: int = 448
    response: int = 64
    k: int = 1
    minibatch: int = 16

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        for name in ("batch_size", "prompt", "response", "k", "minibatch"):
            if getattr(self, name) < 1:
                raise DataError(f"is {getattr(self, name)}", f"option {name}", "Give 1 or more.")
        if self.gpus < 0 or (self.lora is not None and self.lora < 1):
            raise DataError("is below what there can be", "option gpus" if self.gpus < 0 else "option lora")
        if self.lora is not None and self.stage not in TRAINS_ADAPTERS:
            raise DataError(f"stage {self.stage} trains no adapters", "option lora", "Leave it out.")
        if self.checkpointing and self.stage not in COMPUTES_AGAIN:
            hint = "Leave it out; for ppo a smaller minibatch (settings.micro_batch_size) does it."
            raise DataError(f"stage {self.stage} never computes layers again", "option checkpointing", hint)

    @property
    def shards(self) -> int:
        """Processes over which a network is split."""
        return self.gpus if self.sharding == "fsdp" and self.gpus else 1

    @property
    def numerics(self) -> Numerics:
        """Of a forward pass. Sharded weights arrive in bf16: autocast has nothing left to copy."""
        if self.precision == "32-true":
            return "fp32"
        return "mixed" if self.precision == "bf16-mixed" and self.shards == 1 else "bf16"

    @property
    def stored(self) -> int:
        """Bytes of a stored parameter."""
        return 2 if self.precision == "bf16-true" else 4


@dataclass(frozen=True)
class Moment:
    """A time at which memory may be highest.

    Attributes:
        name: What happens then.
        parts: Bytes of each part.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


def peak(shape: Shape, work: Work) -> Moment:
    """The worst moment of a stage."""
    return max(moments(shape, work), key=lambda moment: moment.total)


def moments(shape: Shape, work: Work) -> list[Moment]:
    """Each moment at which memory may be highest, with its parts in bytes per process."""
    held = _held(shape, work)
    found = [] if work.stage == "baselines" else list(_training(shape, work, held))
    return found + ([_rollout(shape, work, held)] if work.stage in ("ppo", "baselines") else [])


def _held(shape: Shape, work: Work) -> dict[str, int]:
    """What is there all the time: weights, gradients and both moments of AdamW, each split over the shards."""
    scalar, rank = shape.body + shape.hidden, work.lora or 0
    adapters = rank * shape.adapter * shape.layers
    trunk = work.stage == "ppo" and work.lora
    everything, trained = {
        "sft": (shape.parameters, shape.parameters),
        "seq2seq": (shape.parameters, shape.parameters),
        "reward": (scalar, scalar),
        "baselines": (shape.parameters + scalar, 0),
        # Policy, reference, critic and reward model; on one trunk the last is a second set of adapters with a head.
        "ppo": (2 * shape.parameters + 2 * scalar, shape.parameters + scalar),
    }[work.stage]
    if trunk:
        everything = shape.parameters + adapters + 2 * shape.hidden + 1
    if work.lora:
        head = {"reward": shape.hidden, "ppo": shape.hidden + 1}.get(work.stage, 0)
        everything, trained = everything + adapters, adapters + head
    bytes_each = work.stored / work.shards
    return {
        "weights": int(bytes_each * everything),
        "gradients": int(bytes_each * trained),
        "optimiser": int(2 * bytes_each * trained),
    }


def _networks(work: Work) -> int:
    """Networks that one loss trains."""
    return 2 if work.stage == "ppo" and not work.lora else 1


def _rows(work: Work) -> Rows:
    """The rows of one training step."""
    of = partial(Rows.of, cut=not work.gpus)
    match work.stage:
        case "reward":
            return of(work.batch_size, work.prompt, work.response, each=2)
        case "seq2seq":  # (prompt, rejected) and (prompt, chosen), each followed by the chosen response
            return of(work.batch_size, work.prompt, 2 * work.response, each=2, asked=work.response)
        case "ppo":
            rows = min(work.minibatch, work.batch_size * work.k)
            return of(rows, work.prompt, work.response, asked=work.response)
        case _:
            return of(work.batch_size, work.prompt, work.response, asked=work.response)


def _training(shape: Shape, work: Work, held: dict[str, int]) -> Iterator[Moment]:
    """The end of the forward pass, and the way back at its beginning and at its end."""
    rows, numerics, networks = _rows(work), work.numerics, _networks(work)
    kept = networks * kept_bytes(shape, rows, numerics, work.lora, work.checkpointing)
    if not work.checkpointing:
        kept += networks * cast_bytes(shape, numerics, shape.layers)
    logits = _logits(shape, work, rows)
    gathered = _gathered(shape, work, networks)
    yield Moment("end of forward", {**held, "activations": kept, "logits": logits[0], "gathered": gathered})

    # The last step's gradients are gone; those of the output layer are the first to come.
    head = 0 if work.lora or work.stage == "reward" else shape.hidden * shape.vocabulary * work.stored
    new = {**held, "gradients": min(held["gradients"], head)}
    yield Moment("logits' way back", {**new, "activations": kept, "logits": logits[1], "gathered": gathered})

    at_work = _layer_at_work(shape, work, rows)
    unsharded = 4 * shape.layer if work.shards > 1 and not work.lora else 0  # a layer's gradients before they are split
    yield Moment("last layer's way back", {**new, "activations": kept + at_work, "gathered": gathered + unsharded})
    # The input embeddings' gradients are dense; they are added to the output layer's where both are one matrix.
    tied = 0 if work.lora or shape.head else shape.hidden * shape.vocabulary * work.stored
    left = networks * kept_bytes(replace(shape, layers=1), rows, numerics, work.lora, True)
    yield Moment(
        "first layer's way back", {**held, "activations": left + at_work + tied, "gathered": gathered + unsharded}
    )


def _layer_at_work(shape: Shape, work: Work, rows: Rows) -> int:
    """What the layer whose gradients are computed needs beside what is kept: with checkpointing, itself once more."""
    size, numerics = width(work.numerics), work.numerics
    mlp = rows.tokens * (3 * shape.intermediate + 2 * shape.hidden)  # gradients of product, gate and up, of the stream
    attention = 2 * shape.queries * (rows.queries + 2 * rows.keys)  # of queries, keys, values, before and after sorting
    again = layer_bytes(shape, rows, numerics, work.lora) + cast_bytes(shape, numerics, 1) if work.checkpointing else 0
    return size * max(mlp, attention) + again


def _logits(shape: Shape, work: Work, rows: Rows) -> tuple[int, int]:
    """Bytes of logits at the end of the forward pass, and on the way back.

    More than `PolicyNetwork.logits_at_once` are computed in pieces, each twice, and none is kept.
    """
    if work.stage == "reward":
        return 0, 0
    tokens, most = rows.asked, max(1, PolicyNetwork.logits_at_once // shape.vocabulary)
    piece = 4 * shape.vocabulary * min(tokens, most)
    copy = 2 * shape.vocabulary * min(tokens, most) if work.numerics != "fp32" else 0  # what the product gave
    weight = 0 if work.lora else shape.hidden * shape.vocabulary * 4  # the output layer's gradient of one more piece
    again = weight if tokens > most else 0
    # On the way there logits and their exponentials; back also the gradients of the chosen ones and of the sum.
    return 2 * piece + copy, 4 * piece + copy + again


def _gathered(shape: Shape, work: Work, networks: int) -> int:
    """Whole weights that a process of a sharded run holds: what stands outside the layers, and two layers."""
    if work.shards == 1:
        return 0
    return width(work.numerics) * (networks * (shape.root + shape.head) + 2 * shape.layer)


def _rollout(shape: Shape, work: Work, held: dict[str, int]) -> Moment:
    """The end of sampling: the cache is full."""
    rows, numerics = work.batch_size * work.k, work.numerics
    room = -(-work.response // 32) * 32  # the cache grows by 32 columns
    number = {"fp32": 8, "mixed": 6, "bf16": 4}[numerics]  # a key and a value; autocast leaves turned keys in fp32
    column = number * shape.keys * shape.layers
    # One layer's keys and values exist twice while they grow, and once more with key heads repeated for attention.
    grown = rows * (work.prompt + room)
    at_work = grown * (number * shape.keys + 2 * width(numerics) * shape.queries)
    cache = max(column * grown, 2 * column * work.batch_size * work.prompt)  # prefill holds those of prompts twice
    # In fp32 divided by the temperature and as probabilities, and summed up in fp64.
    logits = (20 + (0 if numerics == "fp32" else 2)) * rows * shape.vocabulary
    parts = {**held, "KV cache": cache, "activations": at_work, "logits": logits}
    parts["decoding weights"] = 0
    if work.shards > 1:  # gathered once for all tokens
        parts["gathered"] = width(numerics) * shape.parameters
    elif work.gpus == 0:  # laid out by columns
        parts["decoding weights"] = work.stored * (shape.matrices * shape.layers + shape.hidden * shape.vocabulary)
    elif work.lora:  # with the adapters added
        parts["decoding weights"] = work.stored * shape.matrices * shape.layers
    return Moment("rollout", parts)


def usable(gibibytes: float, gpus: int) -> float:
    """Bytes of a GPU's memory that tensors can have: 1 GiB goes to CUDA's context, 5 % to gaps between them."""
    return gibibytes * GIB if gpus == 0 else max(0.0, 0.95 * gibibytes - 1) * GIB


def alternatives(work: Work) -> list[Work]:
    """The work with other settings of what saves memory, the cheapest in time first."""
    adapters = [work.lora] if work.lora or work.stage not in TRAINS_ADAPTERS else [None, SUGGESTED_RANK]
    again = (
        [False] if work.stage not in COMPUTES_AGAIN else [work.checkpointing] if work.checkpointing else [False, True]
    )
    split: list[Literal["none", "fsdp"]] = (
        [work.sharding] if work.gpus < 2 or work.sharding == "fsdp" else ["none", "fsdp"]
    )
    found = [
        replace(work, lora=rank, checkpointing=checkpointing, sharding=sharding)
        for rank, sharding, checkpointing in product(adapters, split, again)
    ]
    return [each for each in found if each != work]
