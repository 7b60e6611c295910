"""Means and whitening over the real entries of padded tensors."""

import torch
from torch import Tensor

from lit_rlhf.functional.checks import as_float, check_mask


def keep_real(x: Tensor, mask: Tensor) -> Tensor:
    """Put 0 at padding, where no gradient passes either. A product with the mask would let NaN and infinity through.

    A loss applies it twice: to the output of the network in training, which blocks the gradient, and in the mean.
    """
    return torch.where(mask, as_float(x), 0.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over all real entries together: each token weighs the same, whichever row it stands in.

    A mask without a single True gives 0, still connected to the graph with a zero gradient, rather than an error: one
    process of many, or one minibatch, may well hold no real token, and must neither stop nor poison the others.

    Args:
        x: Values, any shape, usually ``(B, T)``.
        mask: True at real entries, the shape of ``x``.

    Returns:
        A scalar.

    Raises:
        ValueError: If the mask is not bool or has another shape.

    Examples:
        >>> masked_mean(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False]))
        tensor(2.)
    """
    check_mask(mask, x=x)
    return keep_real(x, mask).sum() / mask.sum().clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, centre: bool = True) -> Tensor:
    """Shift and scale the real entries to mean 0 and (population) standard deviation 1; padding becomes 0.

    The mean is not added back. Without ``centre`` the entries are only divided by their standard deviation. Entries
    that are all equal, up to rounding, become 0: dividing by their spread would blow up rounding noise to unit size.
    So does a single entry.

    Args:
        x: Values, any shape, usually advantages ``(B, T)``.
        mask: True at real entries, the shape of ``x``.
        centre: Whether the mean is taken off.

    Returns:
        A tensor of the shape of ``x``.

    Raises:
        ValueError: If the mask is not bool or has another shape.

    Examples:
        >>> masked_whiten(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False]))
        tensor([-1.,  1.,  0.])
    """
    check_mask(mask, x=x)
    centred = keep_real(x, mask) - masked_mean(x, mask)
    centred = centred - masked_mean(centred, mask)  # the first mean is rounded; far from 0 that would show
    variance = masked_mean(centred.square(), mask)
    rounding = (16 * torch.finfo(centred.dtype).eps) ** 2 * masked_mean(keep_real(x, mask).square(), mask)
    std = torch.where(variance > rounding, variance, torch.inf).sqrt()
    return keep_real((centred if centre else keep_real(x, mask)) / std, mask)
