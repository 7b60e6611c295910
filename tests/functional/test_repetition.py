import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.functional import ngram_repetition


def brute_force(row: list[int], n: int) -> float:
    grams = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 5))
def test_repetition_is_that_of_each_row_alone_whatever_stands_in_the_padding(rows, n, padding):
    width = max(map(len, rows)) + padding
    ids = torch.randint(0, 3, (len(rows), width), generator=torch.Generator().manual_seed(padding))
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row, dtype=torch.long), True
    expected = torch.tensor([brute_force(row, n) for row in rows])
    torch.testing.assert_close(ngram_repetition(ids, mask, n), expected)


def test_a_response_that_goes_round_in_circles_nears_one_and_one_without_repeats_is_zero():
    ids = torch.stack([torch.arange(99) % 3, torch.arange(99)])
    assert ngram_repetition(ids, torch.ones(2, 99, dtype=torch.bool)).tolist() == pytest.approx([1 - 3 / 97, 0.0])


def test_ids_of_any_size_are_told_apart():
    ids = torch.tensor([[2**62, 1, 2**62, 1, 2**62 + 1, 1]])  # of five pairs four are distinct
    assert ngram_repetition(ids, torch.ones(1, 6, dtype=torch.bool), 2).item() == pytest.approx(1 - 4 / 5)


def test_what_cannot_be_counted_is_refused():
    ids = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="n is 0"):
        ngram_repetition(ids, ids == 0, 0)
    with pytest.raises(ValueError, match="mask"):
        ngram_repetition(ids, ids)
