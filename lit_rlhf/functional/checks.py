"""Checks that the functions of this package share: they turn a wrong shape, dtype or option into a clear ValueError."""

import torch
from torch import Tensor


def as_float(x: Tensor) -> Tensor:
    """Return float64 as it is and everything else as float32: sums and differences of bfloat16 lose too many digits."""
    return x if x.dtype == torch.float64 else x.float()


def check_shapes(layout: str, **tensors: Tensor) -> None:
    """Require that all tensors have the shape of the first one, which has one dimension per name in ``layout``.

    Args:
        layout: The expected shape as it is written in the docstrings, such as ``"(B, T)"``; ``"(...)"`` is any shape.
        **tensors: The tensors under their argument names.

    Raises:
        ValueError: If the first tensor has another number of dimensions or a later one another shape than the first.
    """
    (first_name, first), *others = tensors.items()
    dimensions = [name for name in layout.strip("()").split(",") if name.strip()]
    if layout != "(...)" and first.dim() != len(dimensions):
        raise ValueError(f"{first_name} has shape {tuple(first.shape)}, expected {layout}")
    for name, tensor in others:
        if tensor.shape != first.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(first.shape)}, the shape of {first_name}"
            )


def check_not_empty(**tensors: Tensor) -> None:
    """Require at least one entry, because the mean over nothing is NaN.

    Raises:
        ValueError: If a tensor has a dimension of size 0.
    """
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected at least one entry in each dimension")


def check_mask(mask: Tensor, layout: str = "(...)", **tensors: Tensor) -> None:
    """Require a bool mask of exactly the tensors' shape.

    Raises:
        ValueError: If the mask is not bool or any shape differs.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}, expected torch.bool with True = a real token (try mask.bool())")
    check_shapes(layout, **tensors, mask=mask)


def check_positive(**numbers: float) -> None:
    """Require numbers above zero.

    Raises:
        ValueError: If a number is zero, negative or NaN.
    """
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} is {number}, expected a number above 0")


def check_fraction(**numbers: float) -> None:
    """Require numbers between zero and one, both included.

    Raises:
        ValueError: If a number is outside, or NaN.
    """
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{name} is {number}, expected a number from 0 to 1")
