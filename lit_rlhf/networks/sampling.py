"""The sampling engine: k responses per prompt from one prefill, finished rows leave."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import check_length, evaluating
from lit_rlhf.networks.cache import cache_arguments
from lit_rlhf.networks.decoding import for_decoding
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.prefill import prefill
from lit_rlhf.networks.together import counts_of_all, from_all, processes, rank

Noise = Callable[[int], Tensor]
"""Draws random numbers for so many rows."""

_FAILED = 2
"""What a process says of all its rows if it cannot draw for one of them."""

_NOT_FINITE = "a policy's logits are not finite, so no token can be drawn"
_DIVERGED = "The policy may have diverged: lower its learning rate, and start from an earlier checkpoint."
_LEAVE = 0.75  # finished rows leave when so few remain: copying the cache pays only when enough of them have


@dataclass
class Sampling:
    """How responses are drawn.

    Attributes:
        max_new_tokens: Most tokens of a response; one that reaches them without ending is marked as truncated.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_p: Nucleus: the smallest set of tokens whose probability reaches this; 1 keeps all. Policy optimisation
            should keep 1, since its log-probabilities are those of the full distribution.
        top_k: Keep this many likeliest tokens; 0 keeps all.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        """Refuse values that would draw something else than they seem to ask for."""
        for name, fine, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
        ):
            if not fine:
                raise DataError(f"expected {expected}, found {getattr(self, name)}", f"sampling, {name}")


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Tensor,
    lengths: Tensor,
    end_ids: int | Sequence[int],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    k: int = 1,
    counted: int | None = None,
) -> tuple[Sequences, Tensor]:
    """Draw ``k`` responses per prompt.

    Args:
        model: A causal language model.
        prompts: Token ids ``(B, P)``, padded on the right.
        lengths: Tokens of each prompt ``(B,)``.
        end_ids: An id that ends a response, and becomes its last token, or several.
        sampling: How tokens are drawn.
        generator: Source of randomness, on the model's device.
        k: Responses per prompt; they share the prompt's prefill.
        counted: How many of the prompts count, where they are one process's part of a batch that all processes sample
            with equal generators: each row is drawn with the numbers that it would get if one process sampled the
            whole batch, and the generators stay equal. All processes come then, and end after the same number of steps.
            A process whose prompts do not count (0) answers with the end alone. None: this one samples on its own.

    Returns:
        The prompts with their responses, row ``b * k + j`` being response j of prompt b, and which responses
        were truncated ``(B * k,)`` bool.
    """
    check_length(model, prompts.shape[1] + sampling.max_new_tokens)
    with evaluating(model), for_decoding(model) if FastPaths.current().decoding else nullcontext():
        everyone = _Everyone(counted * k, prompts.device) if counted is not None and processes() > 1 else None
        ends = torch.tensor([end_ids] if isinstance(end_ids, int) else list(end_ids), device=prompts.device)
        tokens = _decode(model, prompts, lengths, ends, sampling, generator, k, everyone)  # (N, T), -1 behind the end
    drawn = (tokens >= 0).sum(1)
    truncated = ~torch.isin(tokens.gather(1, drawn[:, None] - 1).squeeze(1), ends)
    start = lengths.repeat_interleave(k)
    ids = torch.full((len(tokens), prompts.shape[1] + tokens.shape[1]), int(ends[0]), device=prompts.device)
    ids[:, : prompts.shape[1]] = prompts.repeat_interleave(k, 0)
    steps = torch.arange(tokens.shape[1], device=prompts.device)
    ids.scatter_(1, start[:, None] + steps, tokens.clamp(min=0))
    length = start + drawn
    return Sequences(ids[:, : int(length.max())], start, length), truncated


def _decode(
    model: PreTrainedModel,
    prompts: Tensor,
    lengths: Tensor,
    ends: Tensor,
    sampling: Sampling,
    generator: torch.Generator | None,
    k: int,
    everyone: "_Everyone | None",
) -> Tensor:
    """The decoding loop; returns token ids ``(B * k, T)`` with -1 behind each response's end."""
    logits, cache, mask = prefill(model, prompts, lengths, int(ends[0]))
    ragged = not bool(mask.all())
    logits = logits.repeat_interleave(k, 0)
    if k > 1:
        cache.batch_repeat_interleave(k)
    mask, position = mask.repeat_interleave(k, 0), lengths.repeat_interleave(k)
    tokens = torch.full((len(logits), sampling.max_new_tokens), -1, device=logits.device)
    rows = torch.arange(len(logits), device=logits.device)  # which response each cache row belongs to
    going = torch.ones_like(rows, dtype=torch.bool)
    if everyone is not None and everyone.idle:
        rows, going, logits, tokens[:, 0] = rows[:0], going[:0], logits[:0], ends[0]
    for step in range(sampling.max_new_tokens):
        drawn = _drawn(logits, rows, sampling, generator, everyone)
        tokens[rows[going], step] = drawn[going]
        going &= ~torch.isin(drawn, ends)
        remaining = int(going.sum())
        anywhere = remaining if everyone is None else everyone.go_on(rows[going])
        if anywhere == 0 or step + 1 == sampling.max_new_tokens:
            return tokens[:, : step + 1]
        if remaining == 0:  # others go on; their random numbers must be drawn here, too
            rows, going, logits = rows[:0], going[:0], logits[:0]
            continue
        if remaining <= _LEAVE * len(rows):
            keep = going.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, going, drawn, mask, position = rows[keep], going[keep], drawn[keep], mask[keep], position[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = model(
            input_ids=drawn[:, None],
            attention_mask=mask if ragged else None,
            position_ids=position[:, None],
            **cache_arguments(model, cache),
        )
        logits, position = output.logits[:, -1], position + 1
    return tokens


def _drawn(
    logits: Tensor,
    rows: Tensor,
    sampling: Sampling,
    generator: torch.Generator | None,
    everyone: "_Everyone | None",
) -> Tensor:
    """The next token of some rows; where it cannot be drawn on one process, none goes on."""
    if everyone is None:
        return draw(logits, sampling, generator)
    try:
        return draw(logits, sampling, generator, partial(everyone.mine, rows))
    except DataError:
        everyone.give_up()
        raise


class _Everyone:
    """The rows of all processes, as one process that sampled all of them would hold them.

    Args:
        rows: How many are this process's; none if it is idle.
        device: Where they are.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        counts = counts_of_all(rows, device)
        self.counts, self.first, self.total = counts, sum(counts[: rank()]), sum(counts)
        self.idle = rows == 0
        self.kept = torch.arange(self.total, device=device)  # rows that such a process would still draw for

    def mine(self, rows: Tensor, noise: Noise) -> Tensor:
        """Of the random numbers for all rows, those of some of this process's."""
        drawn = noise(len(self.kept))
        return drawn.new_zeros(self.total, *drawn.shape[1:]).index_copy(0, self.kept, drawn)[self.first + rows]

    def go_on(self, rows: Tensor) -> int:
        """Tell the others which of this process's rows go on; returns how many do anywhere."""
        own = torch.zeros(self.counts[rank()], dtype=torch.uint8, device=rows.device)
        own[rows] = 1
        told = from_all(own, self.counts)  # (total,)
        if bool((told == _FAILED).any()):
            raise DataError(f"{_NOT_FINITE} on another process", hint=_DIVERGED)
        going = told.bool()
        remaining = int(going.sum())
        if remaining <= _LEAVE * len(self.kept):
            self.kept = self.kept[going[self.kept]]
        return remaining

    def give_up(self) -> None:
        """Tell the others, in place of `go_on`, that this process cannot draw its next tokens."""
        device = self.kept.device
        from_all(torch.full((self.counts[rank()],), _FAILED, dtype=torch.uint8, device=device), self.counts)


def draw(
    logits: Tensor,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    shared: Callable[[Noise], Tensor] | None = None,
) -> Tensor:
    """Draw one token per row of ``(N, V)`` logits.

    Args:
        logits: Of the next token.
        sampling: How it is drawn.
        generator: Source of randomness.
        shared: Draws random numbers for more rows than these, and picks those of these.

    Raises:
        DataError: If logits are not finite.
    """
    greatest = logits.amax(-1, keepdim=True)
    if not bool(greatest.isfinite().all()):  # NaN, +∞, or a row of −∞ alone
        raise DataError(_NOT_FINITE, hint=_DIVERGED)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits, order = (logits - greatest).float() / sampling.temperature, None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, order = logits.topk(sampling.top_k)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        if order is None:
            probabilities, order = _likeliest(probabilities, sampling.top_p)
        before = probabilities.cumsum(-1) - probabilities  # probability of all likelier tokens
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    if logits.is_cuda and torch.are_deterministic_algorithms_enabled():  # where running sums are refused
        noise = partial(_exponential, probabilities, generator)
        drawn = (probabilities / (noise(len(logits)) if shared is None else shared(noise))).argmax(-1, True)
    else:
        # Inverse distribution function, in double precision: the first token whose cumulated probability exceeds u.
        double = torch.float32 if logits.device.type == "mps" else torch.float64
        cumulated = probabilities.cumsum(-1, dtype=double)
        noise = partial(torch.rand, dtype=double, device=logits.device, generator=generator)
        u = (noise(len(logits)) if shared is None else shared(noise))[:, None]
        drawn = torch.searchsorted(cumulated, u * cumulated[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
    return (drawn if order is None else order.gather(1, drawn)).squeeze(1)


def _exponential(probabilities: Tensor, generator: torch.Generator | None, rows: int) -> Tensor:
    """Exponential random numbers for so many rows of probabilities."""
    return probabilities.new_empty(rows, probabilities.shape[1]).exponential_(generator=generator)


def _likeliest(probabilities: Tensor, mass: float, few: int = 256) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of each row in order, and which they are: enough of them to hold a probability."""
    if few < probabilities.shape[-1]:  # nearly always a few are enough, which saves sorting all
        some = probabilities.topk(few)
        if bool((some.values.sum(-1) >= mass).all()):
            return some.values, some.indices
    everything = probabilities.sort(-1, descending=True)
    return everything.values, everything.indices
