import weakref

import pytest
import torch
from torch import nn

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.micro_batches import added_up, check_size, parts


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    model.add_module("unused", nn.Linear(2, 2))
    model[0].bias.requires_grad_(False)
    return model


def value(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return model[2](model[1](model[0](rows))).square().sum()


def test_gradients_of_parts_are_those_of_the_whole():
    whole, split, rows = network(), network(), torch.randn(7, 3)
    expected = value(whole, rows)
    (0.5 * expected).backward()
    found = added_up((value(split, rows[part]) for part in parts(7, 3)), split.parameters())
    torch.testing.assert_close(found, expected)
    assert all(parameter.grad is None for parameter in split.parameters()), "only the way back gives them"
    (0.5 * found).backward()
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad)


def test_a_second_batch_adds_to_the_gradients_of_the_first():
    whole, split, rows = network(), network(), torch.randn(8, 3)
    for batch in rows.split(4):
        value(whole, batch).backward()
        added_up((value(split, batch[part]) for part in parts(4, 1)), split.parameters()).backward()
    torch.testing.assert_close(split[2].weight.grad, whole[2].weight.grad)


def test_a_part_is_forgotten_before_the_next_is_computed():
    model, rows, saved = network(), torch.randn(6, 3), []

    def losses():
        for part in parts(6, 2):
            assert not any(each() is not None for each in saved), "what the part before needed for its way back"
            hidden = model[1](model[0](rows[part]))
            saved.append(weakref.ref(hidden))
            yield model[2](hidden).square().sum()
            del hidden

    added_up(losses(), model.parameters())
    assert len(saved) == 3


@pytest.mark.parametrize(("rows", "size", "expected"), [(5, 2, [2, 2, 1]), (4, 4, [4]), (3, 9, [3]), (2, 1, [1, 1])])
def test_every_row_is_in_one_part(rows, size, expected):
    cut = parts(rows, size)
    assert [each.stop - each.start for each in cut] == expected
    assert [number for each in cut for number in range(rows)[each]] == list(range(rows))


@pytest.mark.parametrize("size", [0, -1])
def test_a_number_of_rows_below_one_is_refused(size):
    with pytest.raises(DataError, match="micro_batch_size"):
        check_size(size)
    check_size(None)
