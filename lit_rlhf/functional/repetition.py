"""How often a response says the same thing again."""

import torch
from torch import Tensor

from lit_rlhf.functional.checks import as_float, check_mask


@torch.no_grad()
def ngram_repetition(ids: Tensor, mask: Tensor, n: int = 3) -> Tensor:
    """Share of a response's n-grams that it has said before: 1 − |distinct n-grams| / |n-grams|.

    0 where no n-gram occurs twice, and for responses of fewer than n tokens; it nears 1 where a response goes round in
    circles.

    Source: seq-rep-n of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training" (arXiv 1908.04319);
    1 minus distinct-n of Li et al. 2016 (arXiv 1510.03055).

    Args:
        ids: Token ids of the responses, ``(B, T)``.
        mask: True at real tokens. An n-gram with anything else in it does not count.
        n: Tokens in a row that are compared, 1 or more.

    Returns:
        Shares from 0 to below 1, ``(B,)``.

    Raises:
        ValueError: If the shapes differ from ``(B, T)``, the mask is not bool, or ``n`` is below 1.

    Examples:
        >>> ids = torch.tensor([[1, 2, 1, 2, 1]])  # of four pairs, two come again
        >>> ngram_repetition(ids, ids > 0, n=2)
        tensor([0.5000])
    """
    check_mask(mask, "(B, T)", ids=ids)
    if n < 1:
        raise ValueError(f"n is {n}, expected 1 or more")
    rows, width = ids.shape
    if width < n:
        return torch.zeros(rows, device=ids.device)
    count = width - n + 1
    codes = torch.arange(rows, device=ids.device)[:, None].expand(rows, count)  # rows share no n-grams
    for i in range(n):
        # Numbered afresh after each token: never more numbers than n-grams, so the products cannot overflow.
        kinds, token = torch.unique(ids[:, i : i + count], return_inverse=True)
        codes = torch.unique(codes * len(kinds) + token, return_inverse=True)[1]
    real = mask.unfold(1, n, 1).all(-1)  # (B, count)
    seen = torch.zeros(rows * count, dtype=torch.bool, device=ids.device)
    seen[codes[real]] = True
    owner = torch.zeros(rows * count, dtype=torch.long, device=ids.device)
    owner[codes.flatten()] = torch.arange(rows, device=ids.device).repeat_interleave(count)
    distinct = torch.bincount(owner[seen], minlength=rows)
    return 1 - as_float(distinct.clamp(min=1)) / as_float(real.sum(1)).clamp(min=1)
