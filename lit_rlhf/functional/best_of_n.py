"""Best-of-n sampling: what the best of n samples is worth, from N ≥ n samples of each prompt."""

import math

import torch
from torch import Tensor

from lit_rlhf.functional.checks import check_not_empty, check_shapes


@torch.no_grad()
def best_of_n(proxy: Tensor, values: Tensor, n: int) -> Tensor:
    """Expected value of the sample that scores best by the proxy among n, unbiased and with the least variance.

    It is the mean over all subsets of n of the N samples. With the samples sorted by the proxy, sample i = 1 … N is the
    best of C(i − 1, n − 1) of the C(N, n) subsets, and counts with that share. Samples that the proxy scores alike are
    picked with equal probability: they share their weights.

    Source: Nakano et al. 2021, "WebGPT" (arXiv 2112.09332), appendix I; used by Gao et al. 2022, "Scaling Laws for
    Reward Model Overoptimization" (arXiv 2210.10760).

    Args:
        proxy: Scores that decide which sample is best, one row per prompt, ``(P, N)``; finite.
        values: What the samples are worth, such as their true rewards, ``(P, N)``.
        n: How many samples the best one is taken of, from 1 to N.

    Returns:
        One estimate per prompt, ``(P,)``, in float64. For n = 1 it is the mean, for n = N the value of the best sample.

    Raises:
        ValueError: If the shapes are not ``(P, N)``, n is out of range, or a score of the proxy is not finite.

    Examples:
        >>> proxy, true = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> best_of_n(proxy, true, 2)  # of 6 pairs of samples, 5 have a good one
        tensor([0.8333], dtype=torch.float64)
    """
    check_shapes("(P, N)", proxy=proxy, values=values)
    check_not_empty(proxy=proxy)
    size = proxy.shape[1]
    if not 1 <= n <= size:
        raise ValueError(f"n is {n}, expected 1 to {size}, the number of samples per prompt")
    if not proxy.isfinite().all():
        raise ValueError("proxy has NaN or infinite entries, expected a score for each sample")
    # Share of the subsets that lie wholly among the first m samples; Python's integers do not overflow.
    among = [math.comb(m, n) / math.comb(size, n) for m in range(size + 1)]
    shares = torch.tensor(among, dtype=torch.float64, device=proxy.device)  # (N + 1,)
    ordered = proxy.sort(dim=1).values  # (P, N)
    below = torch.searchsorted(ordered, proxy.contiguous())  # (P, N), how many score lower
    upto = torch.searchsorted(ordered, proxy.contiguous(), right=True)  # (P, N), how many score no higher
    weights = (shares[upto] - shares[below]) / (upto - below)  # (P, N), the tied ones share
    return (weights * values.double()).sum(dim=1)


def best_of_n_kl(n: int) -> float:
    """KL divergence of best-of-n sampling from the policy that is sampled: log n − (n − 1)/n, in nats per response.

    Exact where no two responses score alike and no single response is likely; else an upper bound.

    Source: Stiennon et al. 2020, "Learning to summarize from human feedback" (arXiv 2009.01325), appendix G.3; that it
    is a bound: Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy" (arXiv 2401.01879).

    Args:
        n: How many samples the best one is taken of, at least 1.

    Raises:
        ValueError: If n is below 1.

    Examples:
        >>> round(best_of_n_kl(4), 4)
        0.6363
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    return math.log(n) - (n - 1) / n
