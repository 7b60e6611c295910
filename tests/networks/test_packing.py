import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.networks.packing import attend, pack

WORDS = st.lists(st.integers(1, 9), min_size=1, max_size=7)
ROWS = st.lists(st.tuples(st.sampled_from([(1,), (1, 2), (3, 1, 4, 1, 5)]), WORDS), min_size=1, max_size=9)


def _rows(rows):
    return stack_sequences([list(prompt) for prompt, _ in rows], [response for _, response in rows], 0)


@given(ROWS, st.booleans())
def test_every_token_of_every_row_is_found_again(rows, share):
    sequences = _rows(rows)
    packed = pack(sequences, sequences.prompt_length if share else None)
    places = torch.arange(sequences.ids.shape[1]).expand(len(sequences), -1)
    index = packed.index(places)[sequences.mask]
    assert torch.equal(packed.ids[0, index], sequences.ids[sequences.mask])
    assert torch.equal(packed.positions[0, index], places[sequences.mask])
    assert set(index.tolist()) == set(range(packed.ids.shape[1])), "nothing else is computed"


@given(ROWS)
def test_a_prompt_stands_there_once(rows):
    sequences = _rows(rows)
    apart, shared = pack(sequences), pack(sequences, sequences.prompt_length)
    assert apart.ids.shape[1] == int(sequences.length.sum())
    once = sum(map(len, {prompt for prompt, _ in rows})) + sum(len(response) for _, response in rows)
    assert shared.ids.shape[1] == once


@given(ROWS, st.booleans(), st.sampled_from([1, 2]))
def test_attention_is_that_of_each_row_alone(rows, share, key_heads):
    sequences = _rows(rows)
    packed = pack(sequences, sequences.prompt_length if share else None)
    generator = torch.Generator().manual_seed(0)
    # What a token brings depends on its place and on all before it, so that equal beginnings bring the same.
    tables = [torch.randn(10, heads, 8, 4, generator=generator) for heads in (2, key_heads, key_heads)]
    query, key, value = (
        table[packed.ids[0], :, packed.positions[0] % 8].transpose(0, 1)[None] for table in tables
    )  # (1, heads, L, D)
    found, weights = attend(torch.nn.Identity(), query, key, value, None, packed, scaling=0.5)
    assert weights is None
    for row, length in enumerate(sequences.length.tolist()):
        index = packed.index(torch.arange(length).expand(len(sequences), -1))[row]
        q, k, v = query[:, :, index], key[:, :, index], value[:, :, index]
        k, v = (each.repeat_interleave(2 // key_heads, 1) for each in (k, v))
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5).transpose(1, 2)
        torch.testing.assert_close(found[:, index], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[7] * 6, [1, 2, 40, 41, 42]])
def test_pieces_of_similar_length_are_one_call(lengths):
    packed = pack(_rows([((index + 1,), [1] * length) for index, length in enumerate(lengths)]))
    assert [len(group.queries) for group in packed.groups] == ([6] if lengths[0] == 7 else [3, 1, 1])
