import math
from itertools import combinations

import pytest
import torch

from lit_rlhf.functional import best_of_n, best_of_n_kl

PROMPTS, SAMPLES = 3, 7


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def by_enumeration(proxy: torch.Tensor, values: torch.Tensor, n: int) -> list[float]:
    """Every subset of n in turn; where several are best, the mean over them."""
    means = []
    for scores, worth in zip(proxy.tolist(), values.tolist(), strict=True):
        picked = []
        for subset in combinations(range(len(scores)), n):
            top = max(scores[i] for i in subset)
            best = [worth[i] for i in subset if scores[i] == top]
            picked.append(sum(best) / len(best))
        means.append(sum(picked) / len(picked))
    return means


@pytest.mark.parametrize("n", range(1, SAMPLES + 1))
@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_mean_over_all_subsets(generator, n, ties):
    proxy, values = torch.randn(2, PROMPTS, SAMPLES, generator=generator)
    if ties:
        proxy = torch.randint(0, 3, (PROMPTS, SAMPLES), generator=generator).float()
    assert best_of_n(proxy, values, n).tolist() == pytest.approx(by_enumeration(proxy, values, n))


def test_it_is_unbiased(generator):
    """Many sets of five samples, against best-of-three as it is really done."""
    n, runs = 3, 60_000
    values, noise = torch.randn(2, runs, 5, generator=generator, dtype=torch.float64)
    estimate = best_of_n(values + noise, values, n)
    values, noise = torch.randn(2, runs, n, generator=generator, dtype=torch.float64)
    truth = values.gather(1, (values + noise).argmax(1, keepdim=True)).squeeze(1)
    error = math.sqrt((estimate.var() + truth.var()) / runs)
    assert abs(estimate.mean() - truth.mean()) < 4 * error
    assert estimate.var() < truth.var()


def test_the_best_of_one_is_the_mean_and_of_all_the_best(generator):
    proxy, values = torch.randn(2, PROMPTS, SAMPLES, generator=generator)
    assert torch.allclose(best_of_n(proxy, values, 1), values.double().mean(1))
    assert torch.allclose(best_of_n(proxy, values, SAMPLES), values.double()[range(PROMPTS), proxy.argmax(1)])
    assert torch.allclose(best_of_n(torch.zeros_like(proxy), values, 4), values.double().mean(1))  # nothing to go by


def test_neither_order_of_samples_nor_scale_of_the_proxy_matters(generator):
    proxy, values = torch.randn(2, PROMPTS, SAMPLES, generator=generator)
    order = torch.randperm(SAMPLES, generator=generator)
    expected = best_of_n(proxy, values, 3)
    assert torch.allclose(best_of_n(proxy[:, order], values[:, order], 3), expected)
    assert torch.allclose(best_of_n(proxy.exp(), values, 3), expected)


def test_many_samples_do_not_overflow(generator):
    proxy = torch.randn(1, 4000, generator=generator)
    found = [best_of_n(proxy, proxy, n).item() for n in (1, 16, 500, 2000)]
    assert found == sorted(found)
    assert found[-1] <= proxy.max()
    assert best_of_n(proxy, torch.ones_like(proxy), 500).item() == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_divergence_is_that_of_a_policy_of_many_equally_likely_responses(n):
    """Of m ranked and equally likely responses, the i-th is the best of n with probability (iⁿ − (i − 1)ⁿ)/mⁿ."""
    m = 20_000
    shares = torch.arange(m + 1, dtype=torch.float64) / m
    probability = (shares**n).diff()
    divergence = (probability * (probability * m).log()).sum().item()
    assert best_of_n_kl(n) == pytest.approx(divergence, abs=1e-3)
    assert best_of_n_kl(n) >= divergence - 1e-9
