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
