import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.functional import masked_mean, masked_whiten


def ragged(rows: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (B, T) with NaN and infinity as padding, and a mask with arbitrary holes and at least two real entries."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, length, generator=generator) < 0.6
    mask[0, :2] = True
    x = torch.randn(rows, length, generator=generator, dtype=torch.float64) * 3 + 7
    poison = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=x.dtype)
    return torch.where(mask, x, poison[torch.randint(3, x.shape, generator=generator)]), mask


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 10**6))
def test_masked_mean_and_whitening_equal_those_of_the_real_entries_alone(rows, length, seed):
    x, mask = ragged(rows, length, seed)
    real = [x[i, t].item() for i in range(rows) for t in range(length) if mask[i, t]]
    mean = sum(real) / len(real)
    std = (sum((r - mean) ** 2 for r in real) / len(real)) ** 0.5
    assert masked_mean(x, mask).item() == pytest.approx(mean)
    white = masked_whiten(x, mask)
    torch.testing.assert_close(white[mask], torch.tensor([(r - mean) / std for r in real], dtype=x.dtype))
    assert (white[~mask] == 0).all()


def test_whitened_entries_have_mean_zero_and_std_one_whatever_shift_and_scale():
    x, mask = ragged(8, 50, 0)
    for scale, shift in ((1.0, 0.0), (1e-6, 0.0), (1e5, 3.0), (1.0, -1e4)):
        white = masked_whiten((x * scale + shift).float(), mask)[mask]
        assert white.mean().item() == pytest.approx(0, abs=1e-6)
        assert white.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)


def test_whitening_without_centring_keeps_the_mean_in_units_of_the_spread():
    x, mask = ragged(8, 50, 0)
    scaled = masked_whiten(x, mask, centre=False)
    real = x[mask]
    torch.testing.assert_close(scaled[mask], real / real.std(unbiased=False))
    assert (scaled[~mask] == 0).all()


def test_spread_of_the_size_of_rounding_is_not_blown_up():
    x = torch.tensor([[0.1 + 0.2, 0.3, 0.3, 0.3]], dtype=torch.float64)
    assert x.unique().numel() == 2
    assert (masked_whiten(x, torch.ones_like(x, dtype=torch.bool)) == 0).all()


def test_the_mean_of_a_single_entry_is_that_entry():
    mask = torch.tensor([[False, True, False]])
    assert masked_mean(torch.tensor([[1.0, 5.0, 9.0]]), mask).item() == 5


@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.567, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whitening_equal_entries_gives_zero_and_a_finite_gradient(constant, dtype):
    x = torch.full((7, 33), constant, dtype=dtype, requires_grad=True)
    mask = torch.arange(33).expand(7, 33) < torch.randint(1, 33, (7, 1), generator=torch.Generator().manual_seed(1))
    white = masked_whiten(x, mask)
    white.square().sum().backward()
    assert (white == 0).all()
    assert x.grad.isfinite().all()


def test_a_mask_without_real_entries_gives_zero_and_a_zero_gradient():
    x = torch.full((2, 3), float("nan"), requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    loss = masked_mean(x, mask) + masked_whiten(x, mask).sum()
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(x.grad, torch.zeros(2, 3))
    assert masked_mean(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("function", [masked_mean, masked_whiten])
def test_poisoned_padding_leaves_no_trace_in_the_gradient(function):
    x, mask = ragged(3, 6, 4)

    def gradient(values: torch.Tensor) -> torch.Tensor:
        values = values.clone().requires_grad_()
        function(values, mask).pow(3).sum().backward()
        return values.grad

    torch.testing.assert_close(gradient(x), gradient(torch.where(mask, x, 5.0)))
    assert (gradient(x)[~mask] == 0).all()


@pytest.mark.parametrize("function", [masked_mean, masked_whiten])
def test_gradients_agree_with_finite_differences(function):
    x, mask = ragged(2, 5, 2)
    assert torch.autograd.gradcheck(lambda v: function(v, mask), x.nan_to_num(0, 0, 0).requires_grad_())


def test_half_precision_is_averaged_in_single_precision():
    x = torch.full((1, 1001), 0.1, dtype=torch.bfloat16)
    mean = masked_mean(x, torch.ones_like(x, dtype=torch.bool))
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(x[0, 0].item(), rel=1e-5)
