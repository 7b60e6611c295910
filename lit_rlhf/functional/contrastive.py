"""Contrastive losses on two views of the same features (SimCSE and SwAV)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_rlhf.functional.checks import as_float, check_not_empty, check_positive, check_shapes


def simcse_loss(view_a: Tensor, view_b: Tensor, temperature: float = 0.05) -> Tensor:
    """Tell each feature's second view apart from the second views of the rest of the batch.

    The mean over i of −log( exp(cos(a_i, b_i)/τ) / Σ_j exp(cos(a_i, b_j)/τ) ). A batch of one has nothing to tell apart
    and gives 0.

    Source: Gao et al. 2021, "SimCSE" (arXiv 2104.08821), the unsupervised objective; used for reward models by Wang et
    al. 2024 (arXiv 2401.06080).

    Args:
        view_a: Features, ``(B, hidden)``.
        view_b: The same inputs under another dropout mask, ``(B, hidden)``.
        temperature: τ, above 0.

    Returns:
        A scalar.

    Raises:
        ValueError: If shapes differ from ``(B, hidden)``, a dimension is 0, or the temperature is not positive.

    Examples:
        >>> simcse_loss(torch.eye(2), torch.eye(2), temperature=1.0)  # log(1 + 1/e)
        tensor(0.3133)
    """
    _check_views(view_a, view_b)
    check_positive(temperature=temperature)
    logits = _cosine(view_a, view_b) / temperature  # (B, B)
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def swav_loss(
    view_a: Tensor,
    view_b: Tensor,
    prototypes: Tensor,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Predict the cluster assignment of each view from the other view.

    CE(q_b, p_a) + CE(q_a, p_b), mean over the batch, with p = softmax(cos(h, C)/τ) and q the balanced assignment by
    :func:`sinkhorn`. Gradients reach features and prototypes through p alone.

    Source: Caron et al. 2020, "SwAV" (arXiv 2006.09882), equations 1 and 2; used for reward models by Wang et al. 2024
    (arXiv 2401.06080).

    Args:
        view_a: Features, ``(B, hidden)``; normalised here.
        view_b: The same inputs under another dropout mask, ``(B, hidden)``.
        prototypes: One learnt direction per row, ``(K, hidden)``, the layout of ``nn.Linear(hidden, K).weight``;
            normalised here, so their lengths do not matter.
        temperature: τ of the predictions, above 0.
        epsilon: Smoothness of the assignments, above 0.
        iterations: Sinkhorn rounds, at least 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If shapes differ, a dimension is 0, or a number is out of range.

    Examples:
        >>> swav_loss(torch.eye(2), torch.eye(2).flip(0), torch.eye(2), temperature=1.0)  # each in the other's cluster
        tensor(2.6265)
    """
    _check_views(view_a, view_b)
    check_shapes("(K, hidden)", prototypes=prototypes)
    check_not_empty(prototypes=prototypes)
    check_positive(temperature=temperature)
    if prototypes.shape[1] != view_a.shape[1]:
        raise ValueError(
            f"prototypes has shape {tuple(prototypes.shape)}, expected (K, hidden) with hidden = {view_a.shape[1]}"
        )
    scores_a, scores_b = _cosine(view_a, prototypes), _cosine(view_b, prototypes)  # (B, K)
    loss_a = cross_entropy(scores_a / temperature, sinkhorn(scores_b, epsilon, iterations))
    loss_b = cross_entropy(scores_b / temperature, sinkhorn(scores_a, epsilon, iterations))
    return loss_a + loss_b


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments of samples to prototypes that use all prototypes about equally.

    Alternately scales exp(scores/ε) so that each prototype receives the same total mass and each sample gives away
    exactly 1, ending with the latter. Computed on logarithms, so large scores neither overflow nor vanish. No gradient
    flows.

    Source: Cuturi 2013 (arXiv 1306.0895); Caron et al. 2020, "SwAV" (arXiv 2006.09882), section 3.1.

    Args:
        scores: Similarities, ``(batch, prototypes)``.
        epsilon: Smoothness, above 0; towards 0 the assignments become hard.
        iterations: Rounds, at least 1.

    Returns:
        Assignments ``(batch, prototypes)``; each row sums to 1.

    Raises:
        ValueError: If the shape is not ``(batch, prototypes)``, a dimension is 0, or a number is out of range.

    Examples:
        >>> sinkhorn(torch.tensor([[1.0, 0.9], [1.0, 0.1]]), epsilon=0.1, iterations=50)  # one each
        tensor([[0.0189, 0.9811],
                [0.9829, 0.0171]])
    """
    check_shapes("(batch, prototypes)", scores=scores)
    check_not_empty(scores=scores)
    check_positive(epsilon=epsilon, iterations=iterations)
    log_q = as_float(scores) / epsilon
    for _ in range(iterations):
        # Only the last scaling of the rows fixes the size, so the target mass of a prototype may be any constant.
        log_q = log_q.log_softmax(dim=0).log_softmax(dim=1)
    return log_q.exp()


def _check_views(view_a: Tensor, view_b: Tensor) -> None:
    check_shapes("(B, hidden)", view_a=view_a, view_b=view_b)
    check_not_empty(view_a=view_a)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of a (A, hidden) with every row of b (B, hidden), in full precision: (A, B)."""
    with torch.autocast(a.device.type, enabled=False):  # bfloat16 is off by up to 0.002, and τ makes 0.04 of it
        return _unit(a) @ _unit(b).T


def _unit(x: Tensor) -> Tensor:
    """Scale rows to length 1, whatever their length; a row of zeros, which has no direction, stays zero.

    Dividing by a tiny clamped length would give such a row (equal chosen and rejected features) a huge gradient.
    """
    x = as_float(x)
    shortest = math.sqrt(torch.finfo(x.dtype).tiny)  # the square of anything shorter underflows
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # (A, 1)
    return x / torch.where(length > shortest, length, math.inf)
