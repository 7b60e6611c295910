import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.functional import contrastive_reward, gae, kl_estimate, masked_mean, ppo_policy_loss, ppo_value_loss

NAN, INF = float("nan"), float("inf")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def right_padding(rows: int, length: int, seed: int) -> torch.Tensor:
    lengths = torch.randint(0, length + 1, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return torch.arange(length) < lengths  # (B, T)


def poisoned(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    poison = torch.tensor([NAN, INF, -INF], dtype=x.dtype)
    return torch.where(mask, x, poison[torch.arange(x.numel()).view(x.shape) % 3])


# Advantages


def gae_of_one_row(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition: a double sum of discounted temporal differences."""
    n = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.8, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("mask", [right_padding(12, 9, seed=1), normal(12, 9, seed=1) > -0.3], ids=["right", "holes"])
def test_gae_equals_the_definition_on_each_row_without_its_padding(mask, gamma, lam):
    rewards, values = normal(12, 9, seed=2), normal(12, 9, seed=3)
    advantages, returns = gae(poisoned(rewards, mask), poisoned(values, mask), mask, gamma, lam)
    for i, real in enumerate(mask):
        expected = gae_of_one_row(rewards[i, real].tolist(), values[i, real].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[i, real], torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(returns[i, real], advantages[i, real] + values[i, real])
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_lambda_one_gives_rewards_to_go_and_lambda_zero_one_step_differences():
    rewards, values, mask = normal(2, 5, seed=1), normal(2, 5, seed=2), torch.ones(2, 5, dtype=torch.bool)
    _, returns = gae(rewards, values, mask, lam=1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))
    _, returns = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    torch.testing.assert_close(returns[:, :-1], rewards[:, :-1] + 0.9 * values[:, 1:])
    torch.testing.assert_close(returns[:, -1], rewards[:, -1])  # the episode ends: nothing is bootstrapped


def test_a_perfect_critic_leaves_no_advantage():
    rewards, mask = normal(3, 6, seed=1), right_padding(3, 6, seed=2)
    rewards = torch.where(mask, rewards, 0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    advantages, returns = gae(rewards, to_go, mask)
    torch.testing.assert_close(advantages, torch.zeros_like(advantages))
    torch.testing.assert_close(returns, torch.where(mask, to_go, 0))


def test_targets_are_constants_even_if_the_critic_is_in_training():
    values = normal(2, 3).requires_grad_()
    assert not any(x.requires_grad for x in gae(normal(2, 3), values, torch.ones(2, 3, dtype=torch.bool)))


# Policy loss


def test_at_ratio_one_the_loss_is_minus_the_mean_advantage_and_the_gradient_that_of_policy_gradient():
    mask, advantages = right_padding(4, 6, seed=1), normal(4, 6, seed=2)
    logprobs = normal(4, 6, seed=3).requires_grad_()
    loss = ppo_policy_loss(logprobs, logprobs.detach(), advantages, mask)
    loss.backward()
    torch.testing.assert_close(loss, -masked_mean(advantages, mask))
    torch.testing.assert_close(logprobs.grad, -torch.where(mask, advantages, 0) / mask.sum())


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.9), st.integers(0, 10**6))
def test_policy_loss_equals_the_minimum_token_by_token(clip, seed):
    new, old, advantages = (normal(3, 5, seed=seed + i) for i in range(3))
    mask = normal(3, 5, seed=seed + 3) > -0.5
    mask[0, 0] = True
    terms = []
    for i, t in mask.nonzero().tolist():
        ratio, a = math.exp(new[i, t] - old[i, t]), advantages[i, t].item()
        terms.append(min(ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a))
    assert ppo_policy_loss(new, old, advantages, mask, clip).item() == pytest.approx(-sum(terms) / len(terms))


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.201, 2.0, 0),  # better than before and already more likely: enough
        (0.799, -2.0, 0),  # worse than before and already less likely: enough
        (0.799, 2.0, -2 * 0.799),  # moved the wrong way: pulled back in full
        (1.201, -2.0, 2 * 1.201),
        (1.199, 2.0, -2 * 1.199),  # within the clip
        (0.801, -2.0, 2 * 0.801),
        (5.0, 0.0, 0),
    ],
)
def test_the_gradient_is_cut_exactly_beyond_the_clip_and_only_in_the_wanted_direction(ratio, advantage, slope):
    logprob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    zero, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    ppo_policy_loss(logprob, zero, zero + advantage, mask).backward()
    assert logprob.grad.item() == pytest.approx(slope)
    if slope == 0:
        assert logprob.grad.item() == 0


@pytest.mark.parametrize(("log_ratio", "advantage"), [(1e3, 1.0), (1e3, 0.0), (-1e3, 1.0), (-1e3, -1.0)])
def test_a_ratio_that_overflows_beyond_the_clip_does_no_harm(log_ratio, advantage):
    logprob = torch.tensor([[log_ratio]], requires_grad=True)
    zero, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    loss = ppo_policy_loss(logprob, zero, zero + advantage, mask)
    loss.backward()
    assert loss.isfinite()
    assert logprob.grad.item() == 0


# Value loss


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 2), st.integers(0, 10**6))
def test_value_loss_equals_the_maximum_token_by_token(clip, seed):
    new, old, returns = (normal(3, 5, seed=seed + i) for i in range(3))
    mask = normal(3, 5, seed=seed + 3) > -0.5
    mask[0, 0] = True
    terms = []
    for i, t in mask.nonzero().tolist():
        v, o, r = new[i, t].item(), old[i, t].item(), returns[i, t].item()
        terms.append(0.5 * max((v - r) ** 2, (min(max(v, o - clip), o + clip) - r) ** 2))
    assert ppo_value_loss(new, old, returns, mask, clip).item() == pytest.approx(sum(terms) / len(terms))


def test_unclipped_value_loss_is_half_the_squared_error():
    values, old, returns = normal(2, 3, seed=1), normal(2, 3, seed=2), normal(2, 3, seed=3)
    loss = ppo_value_loss(values, old, returns, torch.ones(2, 3, dtype=torch.bool), clip=INF)
    torch.testing.assert_close(loss, (values - returns).square().mean() / 2)


@pytest.mark.parametrize(
    ("value", "slope"),
    [(0.1, 0.1 - 1), (0.3, 0), (-0.3, -0.3 - 1), (1.7, 0), (1.9, 0.9)],  # towards the return 1.0 from the old value 0
)
def test_the_critic_stops_at_the_clip_on_its_way_to_the_return(value, slope):
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    zero, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    ppo_value_loss(values, zero, zero + 1, mask).backward()
    assert values.grad.item() == pytest.approx(slope)


# Both losses


@pytest.mark.parametrize("which", [{0}, {1}, {2}, {0, 1, 2}])
@pytest.mark.parametrize("loss", [ppo_policy_loss, ppo_value_loss])
def test_poison_in_the_padding_of_any_input_reaches_neither_loss_nor_gradient(loss, which):
    mask = right_padding(4, 6, seed=5)
    inputs = [normal(4, 6, seed=s) for s in range(3)]

    def value_and_gradient(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        first = tensors[0].clone().requires_grad_()
        value = loss(first, *tensors[1:], mask)
        value.backward()
        return value, first.grad

    clean_value, clean_gradient = value_and_gradient(inputs)
    poisoned_value, poisoned_gradient = value_and_gradient(
        [poisoned(x, mask) if i in which else x for i, x in enumerate(inputs)]
    )
    torch.testing.assert_close(poisoned_value, clean_value)
    torch.testing.assert_close(poisoned_gradient, clean_gradient)
    assert (poisoned_gradient[~mask] == 0).all()
    assert clean_gradient.abs().sum() > 0


@pytest.mark.parametrize("loss", [ppo_policy_loss, ppo_value_loss])
def test_only_the_network_in_training_gets_a_gradient_and_it_agrees_with_finite_differences(loss):
    inputs = [normal(3, 4, seed=s).requires_grad_() for s in range(3)]
    mask = right_padding(3, 4, seed=5)
    loss(*inputs, mask).backward()
    assert [x.grad is None for x in inputs] == [False, True, True]
    assert torch.autograd.gradcheck(lambda x: loss(x, *inputs[1:], mask), normal(3, 4, seed=9).requires_grad_())


# Divergence


def test_kl_estimates_equal_their_formulas():
    logprobs, reference = normal(3, 4, seed=1), normal(3, 4, seed=2)
    for p, q, *k in zip(
        logprobs.flatten().tolist(),
        reference.flatten().tolist(),
        *(kl_estimate(logprobs, reference, kind).flatten().tolist() for kind in ("k1", "k2", "k3")),
        strict=True,
    ):
        rho = math.exp(q) / math.exp(p)
        assert k == pytest.approx([p - q, 0.5 * (p - q) ** 2, (rho - 1) - math.log(rho)])


def test_k1_and_k3_have_the_true_divergence_as_their_mean_and_k3_spreads_less():
    logits, shift = normal(50, seed=1), normal(50, seed=2, scale=0.2)
    policy, reference = logits.log_softmax(0), (logits + shift).log_softmax(0)
    weights = policy.exp()
    true = (weights * (policy - reference)).sum()
    k1, k2, k3 = (kl_estimate(policy, reference, kind) for kind in ("k1", "k2", "k3"))
    torch.testing.assert_close((weights * k1).sum(), true)
    torch.testing.assert_close((weights * k3).sum(), true)
    assert (weights * k2).sum().item() == pytest.approx(true.item(), rel=0.1)
    assert (weights * (k3 - true) ** 2).sum() < (weights * (k1 - true) ** 2).sum()
    assert (k2 >= 0).all()
    assert (k3 >= 0).all()


@pytest.mark.parametrize("gap", [1e-3, 1e-5])
def test_k3_keeps_its_digits_near_the_reference(gap):
    estimate = kl_estimate(torch.zeros(1), torch.tensor([gap]), kind="k3").item()
    assert estimate == pytest.approx(gap**2 / 2, rel=0.1, abs=1e-12)


# With exact advantages offline baselines change nothing


def trained(rewards: torch.Tensor, reference: torch.Tensor, beta: float, steps: int = 1500) -> torch.Tensor:
    """Log-probabilities ``(prompts, responses)`` after exact policy gradients: every response, every exact value."""
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    mask = torch.ones(rewards.numel(), 1, dtype=torch.bool)
    for _ in range(steps):
        logprobs = logits.log_softmax(-1)
        with torch.no_grad():
            total = rewards - beta * kl_estimate(logprobs, reference.log_softmax(-1))
            values = (logprobs.exp() * total).sum(-1, keepdim=True).expand_as(total)
            advantages, _ = gae(total.reshape(-1, 1), values.reshape(-1, 1), mask)
        optimizer.zero_grad()
        (-(logprobs.exp().detach() * advantages.view_as(logprobs) * logprobs).sum()).backward()
        optimizer.step()
    return logits.detach().log_softmax(-1)


def test_with_exact_advantages_contrastive_rewards_train_the_same_policy():
    """The optimum with a KL penalty is reference · exp(r / β), which a shift of a prompt's rewards leaves alone."""
    reference, rewards, baselines = normal(4, 6, seed=1), normal(4, 6, seed=2), normal(4, 5, seed=3, scale=3.0)
    centred = contrastive_reward(rewards.flatten(), baselines.repeat_interleave(6, 0)).view(4, 6)
    assert not torch.allclose(centred, rewards, atol=0.1)
    plain, contrastive = (trained(each, reference, beta=0.5) for each in (rewards, centred))
    torch.testing.assert_close(contrastive.exp(), plain.exp(), atol=1e-5, rtol=0)
    optimum = (reference.log_softmax(-1) + rewards / 0.5).log_softmax(-1)
    torch.testing.assert_close(plain.exp(), optimum.exp(), atol=1e-3, rtol=0)
