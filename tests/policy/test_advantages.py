import pytest
import torch

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.functional import gae
from lit_rlhf.policy import GAE, KLPenalty, LeaveOneOut, MovingBaseline, NoBaseline
from lit_rlhf.policy.trajectory import Trajectory

LENGTHS = [4, 1, 6, 3]


@pytest.fixture
def trajectory() -> Trajectory:
    """Two prompts with two responses each, with NaN in the padding of what networks give."""
    generator = torch.Generator().manual_seed(0)
    sequences = stack_sequences([[7] * 3] * 4, [list(range(length)) for length in LENGTHS], 0)
    mask = sequences.response_mask
    noise = [torch.randn(mask.shape, generator=generator) for _ in range(4)]
    logprobs, reference, values = (each.masked_fill(~mask, torch.nan) for each in noise[:3])
    return Trajectory(sequences, mask, logprobs, reference, values, noise[3].masked_fill(~mask, 0.0))


def test_gae_is_the_formula(trajectory):
    for found, expected in zip(
        GAE(0.9, 0.5)(trajectory, trajectory.rewards),
        gae(trajectory.rewards, trajectory.values, trajectory.mask, 0.9, 0.5),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_leave_one_out_compares_responses_to_one_prompt_with_each_other(trajectory):
    trajectory.values = None
    beta = 0.3
    trajectory.with_advantages(LeaveOneOut(2), KLPenalty(), beta, whiten=False)
    paid = trajectory.rewards.sum(1) - beta * trajectory.kl.sum(1)
    for row, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        tokens = trajectory.advantages[row]
        assert tokens[: LENGTHS[row]].tolist() == pytest.approx([float(paid[row] - paid[other])] * LENGTHS[row])
        assert not tokens[LENGTHS[row] :].any()


def test_a_prompts_own_offset_does_not_matter_to_leave_one_out(trajectory):
    estimator = LeaveOneOut(2)
    plain, _ = estimator(trajectory, trajectory.rewards)
    offset = torch.tensor([5.0, 5.0, -3.0, -3.0])[:, None] / trajectory.mask.sum(1, keepdim=True)
    shifted, _ = estimator(trajectory, trajectory.rewards + offset * trajectory.mask)
    torch.testing.assert_close(shifted, plain, atol=1e-5, rtol=0)


def test_the_moving_baseline_is_the_average_of_earlier_rollouts_and_goes_on_where_it_was(trajectory):
    estimator, totals = MovingBaseline(0.75), trajectory.rewards.sum(1)
    first, returns = estimator(trajectory, trajectory.rewards)
    torch.testing.assert_close(first[:, 0], totals - totals.mean())
    torch.testing.assert_close(returns[:, 0], totals)
    later = MovingBaseline(0.75)
    later.load_state_dict(estimator.state_dict())
    for each in (estimator, later):
        second, _ = each(trajectory, 2 * trajectory.rewards)
        torch.testing.assert_close(second[:, 0], 2 * totals - totals.mean())
        assert each.average == pytest.approx(float(0.75 * totals.mean() + 0.25 * 2 * totals.mean()))


def test_whitening_leaves_to_each_estimator_its_own_baseline(trajectory):
    penalty, totals = KLPenalty(), trajectory.rewards.sum(1)
    trajectory.with_advantages(NoBaseline(), penalty, 0.0, whiten=True)
    none = trajectory.advantages[:, 0].clone()
    torch.testing.assert_close(none / none[0], totals / totals[0])  # only divided
    moving = MovingBaseline(0.5)
    moving.load_state_dict({"average": 3.0})
    trajectory.with_advantages(moving, penalty, 0.0, whiten=True)
    assert not torch.allclose(trajectory.advantages[:, 0], none)
    first = trajectory.advantages[:, 0]
    torch.testing.assert_close(first / first[0], (totals - 3) / (totals[0] - 3))


def test_no_baseline_is_the_reward_itself(trajectory):
    advantages, returns = NoBaseline()(trajectory, trajectory.rewards)
    assert torch.equal(advantages, returns)
    torch.testing.assert_close(advantages[:, 0], trajectory.rewards.sum(1))


@pytest.mark.parametrize(
    "make", [lambda: GAE(1.1), lambda: GAE(1.0, -0.1), lambda: LeaveOneOut(1), lambda: MovingBaseline(1.0)]
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(DataError, match="advantages"):
        make()


def test_with_exact_advantages_an_offset_of_the_prompt_changes_nothing_once_the_policy_has_converged():
    """The optimum of the KL-regularised objective is π_ref exp(r/β)/Z, whatever b(x) is added to r or taken off it."""
    generator = torch.Generator().manual_seed(0)
    prompts, answers, beta = 5, 7, 0.5
    reward = torch.randn(prompts, answers, generator=generator, dtype=torch.float64)
    reference = torch.randn(prompts, answers, generator=generator, dtype=torch.float64).log_softmax(1)
    offset = 10 * torch.randn(prompts, 1, generator=generator, dtype=torch.float64)
    found = []
    for shifted in (reward, reward + offset, reward - (reference.exp() * reward).sum(1, keepdim=True)):
        logits = reference.clone()
        for _ in range(200):
            logprobs = logits.log_softmax(1)
            total = shifted - beta * (logprobs - reference)
            advantages = total - (logprobs.exp() * total).sum(1, keepdim=True)  # exact
            logits = logits + 0.5 * advantages  # the exact natural gradient of a softmax policy
        found.append(logits.log_softmax(1))
    expected = (reference + reward / beta).log_softmax(1)
    for policy in found:
        torch.testing.assert_close(policy, expected, atol=1e-4, rtol=0)
