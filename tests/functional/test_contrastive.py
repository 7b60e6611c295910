import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.functional import simcse_loss, sinkhorn, swav_loss


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return sum((a * b).tolist()) / math.sqrt(sum((a * a).tolist()) * sum((b * b).tolist()))


def sinkhorn_by_loops(scores: list[list[float]], epsilon: float, iterations: int) -> list[list[float]]:
    q = [[math.exp(s / epsilon) for s in row] for row in scores]
    batch, prototypes = len(q), len(q[0])
    for _ in range(iterations):
        for j in range(prototypes):
            mass = sum(q[i][j] for i in range(batch))
            for i in range(batch):
                q[i][j] /= mass * prototypes
        for i in range(batch):
            mass = sum(q[i])
            q[i] = [value / mass / batch for value in q[i]]
    return [[value * batch for value in row] for row in q]


# SimCSE


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.05, 2), st.integers(0, 10**6))
def test_simcse_equals_a_loop_over_the_batch(batch, hidden, temperature, seed):
    a, b = normal(batch, hidden, seed=seed), normal(batch, hidden, seed=seed + 1)
    total = 0.0
    for i in range(batch):
        weights = [math.exp(cosine(a[i], b[j]) / temperature) for j in range(batch)]
        total -= math.log(weights[i] / sum(weights))
    assert simcse_loss(a, b, temperature).item() == pytest.approx(total / batch, abs=1e-9)


def test_simcse_ignores_lengths_common_rotations_and_the_order_of_the_batch():
    a, b = normal(6, 4, seed=1), normal(6, 4, seed=2)
    loss = simcse_loss(a, b)
    rotation, _ = torch.linalg.qr(normal(4, 4, seed=3))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss, simcse_loss(a * normal(6, 1, seed=4).exp(), b * 1e-6))
    torch.testing.assert_close(loss, simcse_loss(a @ rotation, b @ rotation))
    torch.testing.assert_close(loss, simcse_loss(a[order], b[order]))


def test_simcse_is_lower_for_matching_views_than_for_shuffled_ones():
    a = normal(8, 16, seed=1)
    assert simcse_loss(a, a + 0.1 * normal(8, 16, seed=2)) < 0.1 < simcse_loss(a, a.roll(1, dims=0))


# Sinkhorn


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_sinkhorn_equals_scaling_rows_and_columns_in_loops(batch, prototypes, iterations, seed):
    scores = normal(batch, prototypes, seed=seed).tanh()
    expected = torch.tensor(sinkhorn_by_loops(scores.tolist(), 0.3, iterations), dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(scores, epsilon=0.3, iterations=iterations), expected)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_rows_sum_to_one_whatever_the_size_of_the_scores(scale):
    scores = normal(32, 7, seed=1).float() * scale
    q = sinkhorn(scores)
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(32))


def test_many_iterations_spread_the_batch_evenly_over_the_prototypes():
    scores = normal(40, 5, seed=2) + torch.tensor([3.0, 0, 0, 0, -3], dtype=torch.float64)
    q = sinkhorn(scores, epsilon=0.5, iterations=200)
    torch.testing.assert_close(q.sum(dim=0), torch.full((5,), 8.0, dtype=torch.float64))


def test_a_prototype_that_is_popular_with_everyone_gains_nothing_by_it():
    scores, popularity = normal(12, 4, seed=3), torch.tensor([5.0, -2, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(scores), sinkhorn(scores + popularity))


def test_sinkhorn_passes_no_gradient():
    assert not sinkhorn(normal(4, 3).requires_grad_()).requires_grad


# SwAV


def test_swav_equals_a_loop_over_batch_and_prototypes():
    a, b, prototypes = normal(5, 4, seed=1), normal(5, 4, seed=2), normal(3, 4, seed=3)
    scores_a, scores_b = ([[cosine(h, c) for c in prototypes] for h in view] for view in (a, b))
    total = 0.0
    for predicted, assigned in ((scores_a, scores_b), (scores_b, scores_a)):
        q = sinkhorn_by_loops(assigned, 0.05, 3)
        for i in range(5):
            normaliser = sum(math.exp(s / 0.1) for s in predicted[i])
            total -= sum(q[i][j] * math.log(math.exp(predicted[i][j] / 0.1) / normaliser) for j in range(3)) / 5
    assert swav_loss(a, b, prototypes).item() == pytest.approx(total)


def test_swav_is_symmetric_and_ignores_lengths_and_the_order_of_prototypes():
    a, b, prototypes = normal(6, 4, seed=1), normal(6, 4, seed=2), normal(3, 4, seed=3)
    loss = swav_loss(a, b, prototypes)
    torch.testing.assert_close(loss, swav_loss(b, a, prototypes))
    torch.testing.assert_close(loss, swav_loss(a * 7, b / 3, prototypes[[2, 0, 1]] * 100))


def test_swav_gradients_take_the_assignments_as_constants():
    a, b, prototypes = (normal(n, 4, seed=n).requires_grad_() for n in (5, 5, 3))
    swav_loss(a, b, prototypes).backward()

    def fixed(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        scores_a, scores_b = ((v / v.norm(dim=1, keepdim=True)) @ (c / c.norm(dim=1, keepdim=True)).T for v in (a, b))
        q_a, q_b = sinkhorn(scores_a.detach()), sinkhorn(scores_b.detach())
        return -(q_b * (scores_a / 0.1).log_softmax(1) + q_a * (scores_b / 0.1).log_softmax(1)).sum(1).mean()

    expected = torch.autograd.grad(fixed(a, b, prototypes), (a, b, prototypes))
    for tensor, gradient in zip((a, b, prototypes), expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient)
        assert gradient.abs().max() > 1e-3


# Both


def losses(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return simcse_loss(a, b) + swav_loss(a, b, torch.eye(3, a.shape[1], dtype=a.dtype))


def test_a_feature_of_zeros_gets_a_finite_loss_and_no_gradient():
    a, b = normal(4, 5, seed=1), normal(4, 5, seed=2)
    a[1] = b[2] = 0
    a, b = a.float().requires_grad_(), b.float().requires_grad_()
    loss = losses(a, b)
    loss.backward()
    assert loss.isfinite()
    assert (a.grad[1] == 0).all()
    assert (b.grad[2] == 0).all()
    assert a.grad.abs().max() < 100
    assert a.grad[0].abs().max() > 0


def test_simcse_gradient_agrees_with_finite_differences():
    inputs = (normal(4, 5, seed=1).requires_grad_(), normal(4, 5, seed=2).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: simcse_loss(a, b, 0.5), inputs)


def test_autocast_does_not_blur_the_cosines():
    a = normal(16, 64, seed=1).float()
    b = a + 0.8 * normal(16, 64, seed=2).float()
    expected = losses(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(losses(a, b), expected)
