"""Losses on scores of compared responses, and how strongly voters agree on a pair."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_rlhf.functional.checks import as_float, check_not_empty, check_shapes


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, target: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of preferences under the Bradley–Terry model, with margins and soft labels.

    With z = chosen − rejected − margin and the target probability q that "chosen" is truly the better one, the loss is
    the mean of −[q · log σ(z) + (1 − q) · log σ(−z)]. Without margin and target it is the mean of −log σ(z).

    Source: Wang et al. 2024, "Secrets of RLHF II: Reward Modeling" (arXiv 2401.06080); the model itself is that of
    Bradley and Terry, 1952.

    Args:
        chosen: Scores of the chosen responses, ``(N,)``.
        rejected: Scores of the rejected responses, ``(N,)``.
        margin: Required score difference per pair, ``(N,)``, in score units; may be negative. None is 0.
        target: Probability from 0 to 1 that the label is right, ``(N,)``; 1 − α smooths a label. None is 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If shapes differ from ``(N,)``, N is 0, or a target is not a probability.

    Examples:
        >>> bradley_terry_loss(torch.tensor([2.0, 0.5]), torch.tensor([1.0, 1.0]))
        tensor(0.6437)
        >>> bradley_terry_loss(torch.tensor([2.0]), torch.tensor([1.0]), margin=torch.tensor([1.0]))  # log 2
        tensor(0.6931)
    """
    given = {"chosen": chosen, "rejected": rejected, "margin": margin, "target": target}
    check_shapes("(N,)", **{name: tensor for name, tensor in given.items() if tensor is not None})
    check_not_empty(chosen=chosen)
    z = as_float(chosen) - as_float(rejected)  # (N,)
    if margin is not None:
        z = z - as_float(margin)
    if target is None:
        return -logsigmoid(z).mean()
    q = as_float(target)
    if not ((q >= 0) & (q <= 1)).all():
        # Outside this range the loss has no lower bound and training would run away in silence.
        raise ValueError("target has entries that are not probabilities, expected numbers from 0 to 1")
    return -(q * logsigmoid(z) + (1 - q) * logsigmoid(-z)).mean()


def preference_strength(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread over voters of the score difference of each pair.

    A negative mean marks a pair whose label the voters doubt; a large spread marks one they disagree on.

    Source: Wang et al. 2024, "Secrets of RLHF II: Reward Modeling" (arXiv 2401.06080).

    Args:
        chosen: Scores of the chosen responses, one row per voter, ``(M, N)``.
        rejected: Scores of the rejected responses, ``(M, N)``.

    Returns:
        Mean ``(N,)`` and population standard deviation ``(N,)`` (the divisor is M), in score units.

    Raises:
        ValueError: If shapes differ from ``(M, N)`` or there is no voter.

    Examples:
        >>> preference_strength(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        (tensor([ 2.0000, -0.5000]), tensor([1.0000, 0.5000]))
    """
    check_shapes("(M, N)", chosen=chosen, rejected=rejected)
    if chosen.shape[0] == 0:
        raise ValueError(f"chosen has shape {tuple(chosen.shape)}, expected (M, N) with at least one voter")
    differences = as_float(chosen) - as_float(rejected)  # (M, N)
    return differences.mean(dim=0), differences.std(dim=0, unbiased=False)


def difference_loss(scores: Tensor) -> Tensor:
    """How far apart the scores of several responses to one prompt lie: J = (2/k²) · Σ_{i<j} σ(|s_i − s_j|).

    MetaRM *raises* J by gradient ascent, despite the name. J lies between (k−1)/2k, when all k scores are equal, and
    (k−1)/k, which it approaches as they move apart. Two equal scores give each other no gradient, so duplicate
    responses only dilute J: leave them out beforehand.

    Source: Dou et al. 2024, "MetaRM: Shifted Distributions Alignment via Meta-Learning" (arXiv 2405.00438), the
    difference loss.

    Args:
        scores: One row per prompt, ``(prompts, k)``, k ≥ 2.

    Returns:
        The mean of J over prompts, a scalar.

    Raises:
        ValueError: If the shape is not ``(prompts, k)``, there is no prompt, or k < 2.

    Examples:
        >>> difference_loss(torch.tensor([[0.0, 0.0, 0.0]])), difference_loss(torch.tensor([[-9.0, 0.0, 9.0]]))
        (tensor(0.3333), tensor(0.6666))
    """
    check_shapes("(prompts, k)", scores=scores)
    check_not_empty(scores=scores)
    k = scores.shape[1]
    if k < 2:
        raise ValueError(f"scores has shape {tuple(scores.shape)}, expected (prompts, k) with k of at least 2")
    first, second = torch.triu_indices(k, k, offset=1, device=scores.device)  # (k (k − 1) / 2,) each
    scores = as_float(scores)
    gaps = (scores[:, first] - scores[:, second]).abs()  # (prompts, k (k − 1) / 2)
    return (2 / k**2) * gaps.sigmoid().sum(dim=1).mean()
