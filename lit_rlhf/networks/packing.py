"""Many rows as one, without padding: every token is computed once, a prompt that several responses share included.

A transformer does the same to every token; only attention looks at others. So the tokens of all rows stand in one
long row, with their positions, and one attention function, registered with transformers under `NAME`, lets each see
its own row alone. It works for every architecture that leaves attention to that registry and goes by positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_rlhf.data.batches import Sequences

NAME = "sdpa_packed"


@dataclass
class Group:
    """Pieces of similar length, whose attention is one call.

    Attributes:
        queries: Which tokens ask ``(G, Q)``; a piece's last token again where it is shorter.
        real: Where it is not ``(G, Q)``.
        keys: Which tokens are seen ``(G, K)``: those in front of the piece first.
        bias: 0 where a query sees a key, otherwise −∞ ``(G, 1, Q, K)``; None for causal attention among the queries.
    """

    queries: Tensor
    real: Tensor
    keys: Tensor
    bias: Tensor | None


@dataclass
class Packed:
    """Rows that stand one behind the other, each prompt once.

    Attributes:
        ids: All tokens ``(1, L)``.
        positions: Where each stands in its own row ``(1, L)``.
        shared_start: Where in ``ids`` each row's beginning stands that it shares with others ``(N,)``.
        own_start: Where the rest of it stands ``(N,)``.
        fork: How many tokens of each row that beginning has ``(N,)``.
        groups: Who sees whom.
        queries: Those of all groups behind each other.
        keys: The same of their keys.
        back: Where each token's attention stands behind each other in the groups' results ``(L,)``.
        calls: How often `attend` was called with it: once by each layer, if the model hands it on.
    """

    ids: Tensor
    positions: Tensor
    shared_start: Tensor
    own_start: Tensor
    fork: Tensor
    groups: list[Group]
    queries: Tensor
    keys: Tensor
    back: Tensor
    calls: int = 0

    def index(self, positions: Tensor) -> Tensor:
        """Where tokens stand in ``ids``, given their positions in each row ``(N, T)``."""
        start = torch.where(
            positions < self.fork[:, None], self.shared_start[:, None], (self.own_start - self.fork)[:, None]
        )  # fmt: skip
        return start + positions


@dataclass
class _Piece:
    """Neighbouring tokens of one row, and the tokens in front of them: a shared prompt, or the row's beginning."""

    start: int
    length: int
    front_start: int = 0
    front_length: int = 0


def pack(sequences: Sequences, shared: Tensor | None = None, cut: bool | None = None) -> Packed:
    """Put rows behind each other; a beginning that occurs several times is kept once.

    Args:
        sequences: The rows.
        shared: Tokens at each row's beginning that other rows may begin with, too ``(N,)``; None shares nothing.
        cut: Whether attention of long rows is computed in several pieces; None does so on a CPU.
    """
    rows, lengths = sequences.ids.tolist(), sequences.length.tolist()
    fork = torch.zeros_like(sequences.length) if shared is None else shared.to(sequences.length)
    ids: list[int] = []
    positions: list[int] = []
    first: dict[Any, int] = {}  # where a prompt stands
    shared_start, own_start, pieces = [], [], []
    cut = sequences.ids.device.type == "cpu" if cut is None else cut
    for number, (row, prompt, length) in enumerate(zip(rows, fork.tolist(), lengths, strict=True)):
        key = tuple(row[:prompt]) or number
        known = first.get(key)
        begin, start = (0 if known is None else prompt), len(ids)
        first.setdefault(key, start)
        ids += row[begin:length]
        positions += range(begin, length)
        shared_start.append(first[key])
        own_start.append(start + prompt - begin)
        pieces += _cut(start, length, cut) if known is None else [_Piece(start, length - begin, first[key], begin)]
    device = sequences.ids.device
    groups = [_group(each, device) for each in _alike(pieces)]
    queries, keys, real = (
        torch.cat([getattr(group, name).flatten() for group in groups]) for name in ("queries", "keys", "real")
    )
    back = torch.empty(len(ids), dtype=torch.long, device=device)
    back[queries[real]] = real.nonzero().squeeze(1)
    return Packed(
        torch.tensor([ids], device=device), torch.tensor([positions], device=device),
        torch.tensor(shared_start, device=device), torch.tensor(own_start, device=device),
        fork, groups, queries, keys, back,
    )  # fmt: skip


def _cut(start: int, length: int, cut: bool) -> list[_Piece]:
    """A row, in several pieces where it is long: on a CPU a causal mask saves work only between pieces.

    More than four would save little more, and keep the row's keys many times.
    """
    parts = 1 if length < 192 or not cut else min(4, -(-length // 128))
    ends = [length * part // parts for part in range(parts + 1)]
    return [_Piece(start + a, b - a, start, a) for a, b in pairwise(ends)]


def _alike(pieces: list[_Piece], waste: float = 0.8) -> Iterator[list[_Piece]]:
    """Pieces of similar length together, those with tokens in front of them apart from the others."""
    for branches in (False, True):
        group: list[_Piece] = []
        some = [piece for piece in pieces if bool(piece.front_length) == branches]
        for piece in sorted(some, key=lambda piece: (-piece.length, piece.start)):
            if group and piece.length < waste * group[0].length:
                yield group
                group = []
            group.append(piece)
        if group:
            yield group


def _group(pieces: list[_Piece], device: torch.device) -> Group:
    columns = [[piece.start, piece.length, piece.front_start, piece.front_length] for piece in pieces]
    start, length, front_start, front = torch.tensor(columns, device=device).T[:, :, None]  # (G, 1) each
    steps = torch.arange(max(piece.length for piece in pieces), device=device)
    queries, real = start + steps.minimum(length - 1), steps < length  # (G, Q)
    if not pieces[0].front_length:
        return Group(queries, real, queries, None)
    places = torch.arange(max(piece.length + piece.front_length for piece in pieces), device=device)
    own = start + (places - front).minimum(length - 1)
    keys = torch.where(places < front, front_start + places, own)  # (G, K)
    hidden = places > front[:, :, None] + steps[:, None]  # (G, Q, K)
    bias = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)
    return Group(queries, real, keys, bias[:, None])


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Packed | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, within pieces where rows are packed; the form that transformers asks for.

    Args:
        module: The layer's attention.
        query: ``(N, heads, S, D)``.
        key: ``(N, key heads, S, D)``.
        value: Like ``key``.
        attention_mask: For rows that are not packed.
        packed: Who sees whom, for rows that are.
        options: Of transformers: scaling, dropout and others.

    Returns:
        ``(N, S, heads, D)``, and no attention weights.

    Raises:
        ValueError: If the architecture changes the scores before the softmax, or chooses the tokens that are seen.
    """
    changed = ("softcap", "s_aux", "position_bias", "indices")
    if any(options.get(name) is not None for name in changed[3 if packed is None else 0 :]):
        raise ValueError("the architecture changes the scores, or leaves tokens out, in a way that is not known here")
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    packed.calls += 1
    heads = query.shape[1]
    queries = _rows(query, packed.queries, heads).split([group.queries.numel() for group in packed.groups])
    keys, values = (
        _rows(each, packed.keys, heads).split([group.keys.numel() for group in packed.groups]) for each in (key, value)
    )
    found = []
    for q, k, v, group in zip(queries, keys, values, packed.groups, strict=True):
        q = q.unflatten(0, group.queries.shape).transpose(1, 2)  # (G, heads, Q, D)
        k, v = (each.unflatten(0, group.keys.shape).transpose(1, 2) for each in (k, v))
        bias = None if group.bias is None else group.bias.to(q.dtype)
        attended = F.scaled_dot_product_attention(
            q, k, v, bias, options.get("dropout", 0.0), bias is None, scale=options.get("scaling")
        )
        found.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, packed.back)[None], None


def _rows(states: Tensor, places: Tensor, heads: int) -> Tensor:
    """Tokens ``(M,)`` of states ``(1, key heads, L, D)`` as ``(M, heads, D)``, key heads repeated."""
    picked = states[0].transpose(0, 1).index_select(0, places)
    return picked if picked.shape[1] == heads else picked.repeat_interleave(heads // picked.shape[1], 1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
