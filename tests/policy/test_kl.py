import pytest
import torch

from lit_rlhf.data.errors import DataError
from lit_rlhf.policy import KLPenalty


def test_without_a_target_the_coefficient_stays():
    assert KLPenalty(0.1).adapted(0.1, kl=99.0, responses=64) == 0.1


@pytest.mark.parametrize(
    ("kl", "factor"), [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (5.4, 0.99), (0.0, 0.98)]
)  # one tenth of the horizon; errors are cut at a fifth
def test_the_coefficient_follows_the_target(kl, factor):
    assert KLPenalty(0.1, target=6.0, horizon=640).adapted(0.1, kl, 64) == pytest.approx(0.1 * factor)


def test_a_controlled_process_settles_at_its_target():
    penalty, coefficient = KLPenalty(0.2, target=4.0, horizon=100), 0.2
    for _ in range(400):
        kl = 1.0 / coefficient  # a policy that goes as far as the penalty lets it
        coefficient = penalty.adapted(coefficient, kl, 64)
    assert 1.0 / coefficient == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficient": -0.1}, "0 or more"),
        ({"target": 0.0}, "above 0"),
        ({"coefficient": 0.0, "target": 1.0}, "above 0"),
        ({"horizon": 0}, "1 or more"),
        ({"place": "loss"}, "k2 or k3"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        KLPenalty(**options)


def test_the_gradient_of_k1_in_the_loss_is_nothing_and_that_of_k2_is_the_divergences(  # why k1 is refused there
):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    weights = logprobs.exp().detach()  # the exact expectation over what the policy samples
    (k1,) = torch.autograd.grad((weights * (logprobs - reference)).sum(), logits, retain_graph=True)
    (k2,) = torch.autograd.grad((weights * 0.5 * (logprobs - reference).square()).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad((logprobs.exp() * (logprobs - reference)).sum(), logits)
    torch.testing.assert_close(k1, torch.zeros_like(k1), atol=1e-12, rtol=0)
    torch.testing.assert_close(k2, exact)
