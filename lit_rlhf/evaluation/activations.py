"""What a decoder's forward pass keeps for the way back, counted in bytes from the shape of the network alone."""

import os
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import check_folder
from lit_rlhf.networks.packing import pack

Numerics = Literal["fp32", "mixed", "bf16"]
"""``mixed`` is autocast over fp32 weights; ``bf16`` has them in bf16 when they are used, as sharded ones are."""


@dataclass(frozen=True)
class Shape:
    """What a decoder is made of.

    Attributes:
        layers: Their number.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward layers.
        queries: Query heads times their width.
        keys: Key heads times their width; those of the values are as many.
        heads: Query heads.
        vocabulary: Tokens.
        layer: Parameters of a layer.
        matrices: Those of a layer that are weights of linear layers.
        adapter: Parameters of adapters of rank 1 on all linear layers of a layer.
        root: Parameters of the body outside its layers: embeddings, final norm.
        head: Parameters of the output layer that are not the input embeddings'.
    """

    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    heads: int
    vocabulary: int
    layer: int
    matrices: int
    adapter: int
    root: int
    head: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """The shape of a language model, which may be on the meta device.

        Raises:
            DataError: If it is no decoder whose layers can be told.
        """
        config: PreTrainedConfig = model.config.get_text_config()
        layers = [each for each in model.base_model.modules() if isinstance(each, GradientCheckpointingLayer)]
        hidden, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
        if model.config.is_encoder_decoder or not layers or not hidden or not heads:
            raise DataError(f"a {type(model).__name__} cannot be planned", "option model", "Give a decoder like Llama.")
        linear = [part for layer in layers for part in layer.modules() if isinstance(part, nn.Linear | Conv1D)]
        body, inside = _size(model.base_model), sum(map(_size, layers))
        width = getattr(config, "head_dim", None) or hidden // heads
        return cls(
            layers=len(layers),
            hidden=hidden,
            intermediate=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden,
            queries=heads * width,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
            heads=heads,
            vocabulary=config.vocab_size,
            layer=inside // len(layers),
            matrices=sum(each.weight.numel() for each in linear) // len(layers),
            adapter=sum(sum(each.weight.shape) for each in linear) // len(layers),
            root=body - inside,
            head=_size(model) - body,
        )

    @classmethod
    def load(cls, path: str) -> Self:
        """From a Hub id, a Hugging Face directory or a ``config.json``: the network is built without weights.

        Raises:
            DataError: If there is no such configuration, or no decoder in it.
        """
        if not os.path.isfile(path):  # a config by itself will do here
            check_folder(path)
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            with torch.device("meta"):
                return cls.of(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
        except DataError:
            raise
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            hint = "Give a Hub id, a Hugging Face directory or its config.json; no weights are needed."
            raise DataError(f"no decoder's configuration: {reason}", path, hint) from None

    @property
    def body(self) -> int:
        """Parameters without output layer."""
        return self.layers * self.layer + self.root

    @property
    def parameters(self) -> int:
        """All parameters of the language model."""
        return self.body + self.head


@dataclass(frozen=True)
class Rows:
    """Sizes of one batch, packed as networks pack it.

    Attributes:
        tokens: That are computed; a prompt that several rows share counts once.
        asked: Whose final states are asked for; the last layer's MLP computes no others.
        queries: That attention asks with, rows of unequal length filled up.
        keys: That it looks at, a shared prompt's once for each row.
        biases: Entries of its masks.
    """

    tokens: int
    asked: int
    queries: int
    keys: int
    biases: int

    @classmethod
    def of(cls, prompts: int, prompt: int, response: int, each: int = 1, asked: int = 1, cut: bool = True) -> Self:
        """Rows of one length.

        Args:
            prompts: Different ones.
            prompt: Tokens of a prompt.
            response: Tokens of a response.
            each: Responses per prompt.
            asked: States per row that are asked for.
            cut: Whether attention of long rows is computed in pieces, as on a CPU.
        """
        start, length = (torch.full((each,), size) for size in (prompt, prompt + response))
        packed = pack(Sequences(torch.ones(each, prompt + response, dtype=torch.long), start, length), start, cut)
        biases = sum(group.bias.numel() for group in packed.groups if group.bias is not None)
        sizes = (packed.ids.numel(), each * asked, packed.queries.numel(), packed.keys.numel(), biases)
        return cls(*(prompts * size for size in sizes))


def width(numerics: Numerics) -> int:
    """Bytes of a number that a matrix product gives."""
    return 4 if numerics == "fp32" else 2


def layer_bytes(shape: Shape, rows: Rows, numerics: Numerics, lora: int | None, asked: int | None = None) -> int:
    """What a layer of Llama and its kin keeps for the way back; weights do not count.

    Checked against what autograd saves, tensor by tensor (tests/evaluation/test_activations.py).

    Args:
        shape: Of the network.
        rows: The batch.
        numerics: Of the pass.
        lora: Rank of the adapters; None trains all weights.
        asked: Tokens that MLP and output projection compute, in the last layer; None means all.
    """
    size, tokens, asked = width(numerics), rows.tokens, rows.tokens if asked is None else asked
    # A norm keeps its input, its input divided by the root mean square where the norm's weight is trained, and the
    # root mean square: in fp32, but for what a bf16 network hands to its weight.
    normed = 0 if lora else (2 if numerics == "bf16" else 4)
    norms = 2 * tokens * (shape.hidden * (4 + normed) + 4)
    # Linear layers keep their input, those of one block the same one. Autocast makes one in bf16 for each of them.
    copies = (3, 2) if numerics == "mixed" else (1, 1)
    into_query, into_rest = (asked, (copies[0] - 1) * tokens) if copies[0] > 1 else (0, tokens)
    inputs = size * shape.hidden * (into_query + into_rest + copies[1] * asked)
    if copies[0] == 1 and asked < tokens:
        inputs += size * shape.hidden * asked  # the query's own, picked from all
    # Attention keeps queries, keys and values (keys repeated for the query heads), its output, and one sum per query.
    attention = size * shape.queries * 2 * (rows.queries + rows.keys) + 4 * shape.heads * rows.queries
    attention += size * shape.queries * asked  # what the output projection reads
    attention += 0 if numerics == "fp32" else size * rows.biases  # in fp32 one mask serves all layers
    # The MLP keeps what gate and up give, the gate's activation, and the product that the last matrix reads.
    mlp = 4 * size * shape.intermediate * asked
    adapters = size * lora * (5 * asked + 2 * tokens) if lora else 0  # between A and B of seven linear layers
    return norms + inputs + attention + mlp + adapters


def kept_bytes(shape: Shape, rows: Rows, numerics: Numerics, lora: int | None, checkpointing: bool) -> int:
    """What a body keeps for the way back from the states that are asked for; weights do not count.

    Args:
        shape: Of the network.
        rows: The batch.
        numerics: Of the pass.
        lora: Rank of the adapters; None trains all weights.
        checkpointing: Each layer keeps its input alone, and is computed again on the way back.
    """
    stream = 2 if numerics == "bf16" else 4
    final = shape.hidden * (rows.tokens * (4 + (0 if lora else stream)) + stream * rows.asked)
    shared = 2 * stream * rows.tokens * shape.queries // shape.heads  # sines and cosines of the positions
    shared += 8 * (rows.queries + rows.keys + 2 * rows.tokens)  # where the tokens stand
    shared += 4 * rows.biases if numerics == "fp32" or checkpointing else 0
    if checkpointing:
        return final + shared + shape.layers * stream * shape.hidden * rows.tokens
    last = layer_bytes(shape, rows, numerics, lora, rows.asked)
    if lora:  # nothing is trained in front of the first layer's norm, which then keeps nothing
        last -= 4 * rows.tokens * (shape.hidden + 1)
    return final + shared + last + (shape.layers - 1) * layer_bytes(shape, rows, numerics, lora)


def cast_bytes(shape: Shape, numerics: Numerics, layers: int) -> int:
    """Autocast's bf16 copies of the matrices of some layers, which are kept until the way back."""
    return 2 * shape.matrices * layers if numerics == "mixed" else 0


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
