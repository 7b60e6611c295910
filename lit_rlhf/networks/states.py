"""Hidden states of the tokens that are asked for, computed without padding and without what nobody reads."""

# Transformers offers no other way.
# pyright: reportPrivateUsage=false

import logging
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_rlhf.data.batches import Sequences
from lit_rlhf.networks.backbone import by_length, call_body, check_length, check_prompts, evaluating
from lit_rlhf.networks.fast import FastPaths, at_once
from lit_rlhf.networks.packing import NAME, Packed, pack

_FEWEST = 12
"""Tokens of a beginning that all rows have: fewer are no system turn, but words that happen to be alike."""

_TOKENWISE = ("mlp", "self_attn.q_proj", "self_attn.o_proj")
"""Parts of a layer that do the same to every token, as Llama and its kin name them."""


def states_at(
    model: PreTrainedModel,
    sequences: Sequences,
    positions: Tensor,
    mask: Tensor | None = None,
    shared: Tensor | None = None,
) -> Tensor:
    """Final hidden states of some tokens of each row, computed without padding wherever the model allows it.

    Args:
        model: A decoder.
        sequences: The rows.
        positions: Which tokens, as positions in each row ``(N, T)``.
        mask: Which of them are meant ``(N, T)``; None means all.
        shared: Tokens at each row's beginning that other rows may begin with, too ``(N,)``, and that are then computed
            once; None takes the prompts, or what all begin with, such as a system turn.

    Returns:
        ``(M, H)``, M being the tokens that are meant, row by row.
    """
    check_length(model, sequences.ids.shape[1])
    check_prompts(sequences)
    mask = torch.ones_like(positions, dtype=torch.bool) if mask is None else mask
    fast = FastPaths.current()
    if not fast.packing or not _sees_all(model, sequences.ids.shape[1]) or not packs(model):
        return by_length(sequences, lambda rows, at: _padded(model, rows, at), positions)[mask]
    if not fast.shared_prompts:
        shared = torch.zeros_like(sequences.length)
    together = sequences.prompt_length if shared is None else shared
    groups = fast.cache_sized and not at_once()
    parts = _parts(sequences, together, _tokens_at_once(model)) if groups else [torch.arange(len(sequences))]
    if len(parts) == 1:
        return _of_rows(model, sequences, positions, mask, shared)
    starts = [None if shared is None else shared[rows] for rows in parts]
    found = torch.cat(
        [
            _of_rows(model, sequences[rows], positions[rows], mask[rows], start)
            for rows, start in zip(parts, starts, strict=True)
        ]
    )
    number = torch.zeros_like(positions).masked_scatter(mask, torch.arange(len(found), device=positions.device))
    order = torch.cat([number[rows][mask[rows]] for rows in parts])  # where each state found belongs
    return found.index_select(0, order.argsort())


def _of_rows(
    model: PreTrainedModel, sequences: Sequences, positions: Tensor, mask: Tensor, shared: Tensor | None
) -> Tensor:
    """`states_at` of packed rows, all at once."""
    packed = pack(sequences, beginnings(sequences) if shared is None else shared)
    places = packed.index(positions)[mask]
    with asked_only(model, places):
        return _packed(model, packed, places)


def beginnings(sequences: Sequences, least: float = 0.1) -> Tensor:
    """How many tokens at their beginning rows share ``(N,)``: their prompts, or what all have, whichever saves more.

    Args:
        sequences: The rows.
        least: Share of all tokens that a beginning of all rows has to save to be worth it.
    """
    prompts = sequences.prompt_length
    same = (sequences.ids == sequences.ids[:1]).all(0).long().cumprod(0).sum()
    common = int(torch.minimum(same, prompts.min()))
    saved, total = common * (len(prompts) - 1), int(sequences.length.sum())
    if common < _FEWEST or saved < least * total:
        return prompts
    rows = zip(sequences.ids.tolist(), prompts.tolist(), strict=True)
    once = sum(map(len, {tuple(row[:length]) for row, length in rows}))
    return torch.full_like(prompts, common) if saved > int(prompts.sum()) - once else prompts


def _tokens_at_once(model: PreTrainedModel) -> int | None:
    """How many tokens to compute together: on a CPU so many that a layer's intermediate results stay in its cache."""
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    return max(256, 2**18 // width) if width and model.device.type == "cpu" else None


def _parts(sequences: Sequences, shared: Tensor, tokens: int | None) -> list[Tensor]:
    """Rows in parts of at most so many tokens, unless one row has more; rows with one beginning stay together."""
    if tokens is None or int(sequences.length.sum()) <= tokens:
        return [torch.arange(len(sequences))]
    groups: dict[Any, list[int]] = {}
    for number, (row, start) in enumerate(zip(sequences.ids.tolist(), shared.tolist(), strict=True)):
        groups.setdefault(tuple(row[:start]) or number, []).append(number)
    lengths, starts = sequences.length.tolist(), shared.tolist()
    parts: list[list[int]] = [[]]
    filled = 0
    for rows in groups.values():
        size = starts[rows[0]] + sum(lengths[row] - starts[row] for row in rows)
        if parts[-1] and filled + size > tokens:
            parts.append([])
            filled = 0
        parts[-1] += rows
        filled += size
    return [torch.tensor(rows) for rows in parts]


def packs(model: PreTrainedModel, pruned: bool = False) -> bool:
    """Whether a model gives packed rows the states that it gives them alone; tried once, on three short rows.

    Args:
        model: A decoder; its attention becomes the one for packed rows if it does.
        pruned: Whether it also does so where its last layer computes only what is asked for.
    """
    known: dict[bool, bool] | None = getattr(model, "_packs", None)
    if known is None or (known[False] and model.config._attn_implementation != NAME):  # changed since it was tried
        with evaluating(model):
            known = model._packs = _try(model)  # type: ignore[attr-defined]
    return known[pruned]


@torch.no_grad()
def _try(model: PreTrainedModel) -> dict[bool, bool]:
    before, found = model.config._attn_implementation, {False: False, True: False}
    if before not in ("sdpa", NAME) or not _plain_layers(model):  # or another way of attention was asked for
        return found
    device = next(model.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4, 0, 0], [1, 2, 3, 5, 6, 7], [7, 6, 5, 4, 3, 0]], device=device)
    ids %= model.config.get_text_config().vocab_size
    rows = Sequences(ids, torch.tensor([3, 3, 2], device=device), torch.tensor([4, 6, 5], device=device))
    packed, positions = pack(rows, rows.prompt_length), torch.arange(6, device=device).expand(3, -1)
    alone = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    exact = alone.dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
    tolerance = 1e-4 if exact else 5e-2
    try:
        model.set_attn_implementation(NAME)
        for pruned, asked in ((False, rows.mask), (True, positions == rows.length[:, None] - 1)):
            places = packed.index(positions)[asked]
            with _only(model, places) if pruned else nullcontext():
                together = _packed(model, packed, places)
            found[pruned] = torch.allclose(together, alone[asked], atol=tolerance, rtol=tolerance)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an architecture that knows nothing of it may fail in any way
        logging.getLogger(__name__).info("%s computes rows padded: %r", type(model).__name__, error)
    finally:
        if not found[False]:
            model.set_attn_implementation(before)
    return found


def _plain_layers(model: PreTrainedModel) -> bool:
    """Whether attention is all that lets tokens see others, and sees all before it: no state, no choice of tokens."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    chosen = any(name.startswith("index_topk") and value for name, value in vars(config).items())
    return not chosen and all(kind.endswith("attention") and "linear" not in kind for kind in kinds)


def _packed(model: PreTrainedModel, packed: Packed, places: Tensor) -> Tensor:
    """Final hidden states ``(M, H)`` of tokens that stand at some places ``(M,)`` of packed rows."""
    output = model.base_model(**packed_inputs(packed), use_cache=False)
    return output.last_hidden_state[0].index_select(0, places)


def packed_inputs(packed: Packed) -> dict[str, Any]:
    """What a model is called with for packed rows."""
    # A mask of four dimensions is passed on as it is, where none would be made into one of L x L; nobody looks at it.
    unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=packed.ids.device)
    return {"input_ids": packed.ids, "position_ids": packed.positions, "attention_mask": unused, "packed": packed}


def asked_only(model: PreTrainedModel, places: Tensor) -> AbstractContextManager[None]:
    """Let the last layer leave out what is not asked for, where that is wanted and the model allows it.

    Args:
        model: Has been tried (see `packs`).
        places: Tokens of packed rows whose states are asked for ``(M,)``.
    """
    return _only(model, places) if FastPaths.current().last_layer and packs(model, pruned=True) else nullcontext()


@contextmanager
def _only(model: PreTrainedModel, places: Tensor) -> Generator[None]:
    """Let the last layer's tokenwise parts compute some tokens only; the others' states become meaningless."""
    layer = _last_layer(model)
    # A checkpointed layer is computed again on the way back, when nobody says any more what is asked for.
    if layer is None or layer.gradient_checkpointing:
        yield
        return
    asked = places.unique()

    def pick(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return inputs[0].index_select(1, asked), *inputs[1:]

    def place(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.new_zeros(1, length[0], output.shape[-1]).index_copy(1, asked, output)

    length: list[int] = []
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: length.append(inputs[0].shape[1]))]
    parts = dict(layer.named_modules())
    for part in filter(None, map(parts.get, _TOKENWISE)):
        hooks += [part.register_forward_pre_hook(pick), part.register_forward_hook(place)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_layer(model: PreTrainedModel) -> GradientCheckpointingLayer | None:
    layers = [each for each in model.base_model.modules() if isinstance(each, GradientCheckpointingLayer)]
    return layers[-1] if layers else None


def _sees_all(model: PreTrainedModel, longest: int) -> bool:
    """Whether every token sees the whole of its row: no layer has a window or chunks that are shorter."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return all(not window or longest <= window for window in windows)


def _padded(model: PreTrainedModel, sequences: Sequences, positions: Tensor) -> Tensor:
    """States of some tokens of each row ``(N, T, H)``, the plain way."""
    states = call_body(model, sequences.ids)
    return states[torch.arange(len(sequences), device=states.device)[:, None], positions]
