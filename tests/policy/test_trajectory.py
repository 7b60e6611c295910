import pytest
import torch

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.policy import GAE, KLPenalty
from lit_rlhf.policy.trajectory import Trajectory

LENGTHS = [4, 1, 6, 3]


@pytest.fixture
def trajectory() -> Trajectory:
    """Four responses of different lengths, with NaN in all padding but the rewards'."""
    generator = torch.Generator().manual_seed(0)
    prompts = [[7] * (2 + i) for i in range(4)]
    sequences = stack_sequences(prompts, [list(range(length)) for length in LENGTHS], 0)
    mask = sequences.response_mask
    noise = [torch.randn(mask.shape, generator=generator) for _ in range(4)]
    logprobs, reference, values = (each.masked_fill(~mask, torch.nan) for each in noise[:3])
    return Trajectory(sequences, mask, logprobs, reference, values, noise[3].masked_fill(~mask, 0.0))


def brute_force(trajectory: Trajectory, row: int, beta: float, gamma: float, lam: float):
    """Advantages and returns of one row, from their definition as sums of differences."""
    n = LENGTHS[row]
    at = lambda name, t: getattr(trajectory, name)[row, t].item()  # noqa: E731
    rewards = [at("rewards", t) - beta * (at("logprobs", t) - at("reference_logprobs", t)) for t in range(n)]
    values = [at("values", t) for t in range(n)] + [0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(n)]
    advantages = [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)]
    return advantages, [advantage + values[t] for t, advantage in enumerate(advantages)]


@pytest.mark.parametrize(("beta", "gamma", "lam"), [(0.3, 1.0, 0.95), (0.0, 0.9, 0.5), (1.0, 1.0, 1.0)])
def test_penalised_rewards_and_advantages_equal_loops(trajectory, beta, gamma, lam):
    trajectory.with_advantages(GAE(gamma, lam), KLPenalty(), beta, whiten=False)
    for row, length in enumerate(LENGTHS):
        advantages, returns = brute_force(trajectory, row, beta, gamma, lam)
        assert trajectory.advantages[row, :length].tolist() == pytest.approx(advantages, abs=1e-5)
        assert trajectory.returns[row, :length].tolist() == pytest.approx(returns, abs=1e-5)
        assert not trajectory.advantages[row, length:].any()


def test_with_lambda_one_the_return_is_reward_minus_penalty_to_come(trajectory):
    trajectory.with_advantages(GAE(1.0, 1.0), KLPenalty(), 0.5, whiten=False)
    first = trajectory.rewards.sum(1) - 0.5 * trajectory.kl.sum(1)
    torch.testing.assert_close(trajectory.returns[:, 0], first)


def test_whitening_is_over_the_whole_rollout_and_leaves_returns(trajectory):
    plain = trajectory[torch.arange(4)].with_advantages(GAE(1.0, 0.95), KLPenalty(), 0.1, whiten=False)
    trajectory.with_advantages(GAE(1.0, 0.95), KLPenalty(), 0.1, whiten=True)
    real = plain.advantages[plain.mask]
    expected = (real - real.mean()) / real.std(unbiased=False)
    torch.testing.assert_close(trajectory.advantages[trajectory.mask], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(trajectory.returns, plain.returns)


def test_kl_is_zero_at_padding_and_nowhere_nan(trajectory):
    difference = trajectory.logprobs - trajectory.reference_logprobs
    assert torch.equal(trajectory.kl, torch.where(trajectory.mask, difference, 0.0))


@pytest.mark.parametrize("rows", [slice(1, 3), slice(3, 9), torch.tensor([3, 0]), torch.tensor([1])])
def test_a_minibatch_holds_the_rows_cut_to_their_longest(trajectory, rows):
    trajectory.with_advantages(GAE(1.0, 0.95), KLPenalty(), 0.1, whiten=True)
    part = trajectory[rows]
    chosen = torch.arange(4)[rows].tolist()
    width = max(LENGTHS[row] for row in chosen)
    assert len(part) == len(chosen)
    assert torch.equal(part.sequences.responses[part.mask], trajectory.sequences.responses[rows][:, :width][part.mask])
    for name in ("mask", "logprobs", "reference_logprobs", "values", "rewards", "advantages", "returns"):
        torch.testing.assert_close(
            getattr(part, name), getattr(trajectory, name)[rows][:, :width], rtol=0, atol=0, equal_nan=True
        )


def test_a_minibatch_before_advantages_are_known(trajectory):
    assert trajectory[:2].advantages is None
