import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.functional import bradley_terry_loss, difference_loss, preference_strength


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


# Bradley–Terry


def test_bradley_terry_equals_a_loop_over_pairs():
    chosen, rejected, margin = normal(6, seed=1), normal(6, seed=2), normal(6, seed=3)
    target = normal(6, seed=4).sigmoid()
    loss = 0.0
    for c, r, m, q in zip(chosen.tolist(), rejected.tolist(), margin.tolist(), target.tolist(), strict=True):
        loss -= (q * math.log(sigmoid(c - r - m)) + (1 - q) * math.log(1 - sigmoid(c - r - m))) / 6
    assert bradley_terry_loss(chosen, rejected, margin, target).item() == pytest.approx(loss)


def test_no_margin_is_margin_zero_and_no_target_is_target_one():
    chosen, rejected = normal(5, seed=1), normal(5, seed=2)
    plain = bradley_terry_loss(chosen, rejected)
    torch.testing.assert_close(plain, bradley_terry_loss(chosen, rejected, torch.zeros(5)))
    torch.testing.assert_close(plain, bradley_terry_loss(chosen, rejected, target=torch.ones(5)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10**6))
def test_swapping_the_pair_flips_margin_and_target(n, seed):
    chosen, rejected, margin = normal(n, seed=seed), normal(n, seed=seed + 1), normal(n, seed=seed + 2)
    target = normal(n, seed=seed + 3).sigmoid()
    swapped = bradley_terry_loss(rejected, chosen, -margin, 1 - target)
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected, margin, target), swapped)


def test_a_shift_of_both_scores_changes_nothing_and_a_margin_is_a_shift_of_one():
    chosen, rejected, shift = normal(5, seed=1), normal(5, seed=2), normal(5, seed=3, scale=10)
    loss = bradley_terry_loss(chosen, rejected)
    torch.testing.assert_close(loss, bradley_terry_loss(chosen + shift, rejected + shift))
    torch.testing.assert_close(loss, bradley_terry_loss(chosen + shift, rejected, margin=shift))


def test_smoothing_has_its_floor_at_the_entropy_of_the_label():
    delta = torch.arange(-5, 5, 0.001, dtype=torch.float64)
    target = torch.tensor([0.8], dtype=torch.float64)
    zero = torch.zeros_like(target)
    losses = torch.stack([bradley_terry_loss(d[None], zero, target=target) for d in delta])
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert losses.min().item() == pytest.approx(entropy, abs=1e-6)
    assert losses.min().item() == pytest.approx(0.5004, abs=5e-5)
    assert delta[losses.argmin()].item() == pytest.approx(1.386, abs=1e-3)
    assert delta[losses.argmin()].item() == pytest.approx(math.log(0.8 / 0.2), abs=1e-3)


def test_a_margin_run_starts_at_the_mean_softplus_of_the_margins():
    margins = normal(1000, seed=5, scale=2)
    start = bradley_terry_loss(torch.zeros_like(margins), torch.zeros_like(margins), margin=margins)
    expected = sum(math.log(1 + math.exp(m)) for m in margins.tolist()) / 1000
    assert start.item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_loss_is_finite_and_still_pulls_at_enormous_differences(dtype):
    chosen = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(2, dtype=dtype))
    loss.backward()
    assert loss.item() == pytest.approx(1e4 / 2, rel=5e-3)
    assert chosen.grad.tolist() == [-0.5, 0]  # wrong by far: the full pull of 1/N; right by far: nothing left to learn

    chosen = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    target = torch.full((2,), 0.75, dtype=dtype)
    loss = bradley_terry_loss(chosen, torch.zeros(2, dtype=dtype), target=target)
    loss.backward()
    assert loss.item() == pytest.approx(1e4 / 2, rel=5e-3)
    assert chosen.grad.tolist() == pytest.approx([-0.75 / 2, 0.25 / 2])


def test_bradley_terry_gradient_agrees_with_finite_differences():
    inputs = [normal(4, seed=s).requires_grad_() for s in range(3)]
    target = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c, r, m: bradley_terry_loss(c, r, m, target), inputs)


def test_half_precision_scores_are_subtracted_in_single_precision():
    chosen, rejected = torch.tensor([10.0625]).bfloat16(), torch.tensor([0.0078125]).bfloat16()
    expected = math.log1p(math.exp(-(chosen.item() - rejected.item())))
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(expected, rel=1e-5)


# Strength


def test_strength_is_the_mean_and_population_std_over_voters():
    chosen, rejected = normal(4, 7, seed=1), normal(4, 7, seed=2)
    mean, std = preference_strength(chosen, rejected)
    assert mean.shape == std.shape == (7,)
    for i in range(7):
        d = [(chosen[m, i] - rejected[m, i]).item() for m in range(4)]
        mu = sum(d) / 4
        assert mean[i].item() == pytest.approx(mu)
        assert std[i].item() == pytest.approx(math.sqrt(sum((x - mu) ** 2 for x in d) / 4))


def test_strength_of_a_swapped_pair_is_negated_and_a_single_voter_has_no_spread():
    chosen, rejected = normal(3, 5, seed=1), normal(3, 5, seed=2)
    (mean, std), (swapped_mean, swapped_std) = (
        preference_strength(chosen, rejected),
        preference_strength(rejected, chosen),
    )
    torch.testing.assert_close(mean, -swapped_mean)
    torch.testing.assert_close(std, swapped_std)
    assert (preference_strength(chosen[:1], rejected[:1])[1] == 0).all()


# Difference loss


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(2, 7), st.integers(0, 10**6))
def test_difference_loss_equals_a_loop_over_pairs_and_keeps_its_range(prompts, k, seed):
    scores = normal(prompts, k, seed=seed, scale=3)
    total = 0.0
    for row in scores.tolist():
        for i in range(k):
            for j in range(i + 1, k):
                total += 2 / k**2 * sigmoid(abs(row[i] - row[j]))
    loss = difference_loss(scores).item()
    assert loss == pytest.approx(total / prompts)
    assert (k - 1) / (2 * k) <= loss <= (k - 1) / k


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_difference_loss_reaches_both_ends_of_its_range(k):
    assert difference_loss(torch.full((3, k), 2.5)).item() == pytest.approx((k - 1) / (2 * k))
    assert difference_loss(torch.arange(k).expand(3, k) * 1e4).item() == pytest.approx((k - 1) / k)


def test_difference_loss_ignores_order_and_shift_and_rises_along_its_gradient():
    scores = normal(3, 5, seed=1).requires_grad_()
    loss = difference_loss(scores)
    shuffled = scores[:, [3, 1, 4, 0, 2]] + normal(3, 1, seed=2, scale=100)
    torch.testing.assert_close(loss, difference_loss(shuffled))
    loss.backward()
    moved = scores.detach() + 0.1 * scores.grad
    assert difference_loss(moved) > loss
    assert (moved.std(dim=1) > scores.std(dim=1)).all()


def test_difference_loss_gradient_agrees_with_finite_differences_and_ties_have_none():
    assert torch.autograd.gradcheck(difference_loss, normal(2, 4, seed=3).requires_grad_())
    tied = torch.zeros(2, 4, requires_grad=True)
    difference_loss(tied).backward()
    assert (tied.grad == 0).all()
