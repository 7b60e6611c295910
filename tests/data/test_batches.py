import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.utilities.apply_func import move_data_to_device

from lit_rlhf.data.batches import (
    Batch,
    Completions,
    PairBatch,
    PromptBatch,
    ResponseBatch,
    Sequences,
    pad_rows,
    stack_sequences,
)
from lit_rlhf.data.records import Message, Record

PAD = 99
token_lists = st.lists(st.integers(0, 9), min_size=1, max_size=6)
rows = st.lists(st.tuples(token_lists, token_lists), min_size=1, max_size=5)
RECORD = Record((Message("user", "q"),))


def stacked(pairs) -> Sequences:
    return stack_sequences([prompt for prompt, _ in pairs], [response for _, response in pairs], PAD)


def unstacked(sequences: Sequences) -> list[tuple[list[int], list[int]]]:
    """Rows as prompt and response, read by length alone."""
    columns = (sequences.ids.tolist(), sequences.prompt_length.tolist(), sequences.length.tolist())
    return [(ids[:start], ids[start:end]) for ids, start, end in zip(*columns, strict=True)]


@given(rows)
def test_stacking_keeps_every_token_and_pads_on_the_right(pairs):
    sequences = stacked(pairs)
    assert len(sequences) == len(pairs)
    assert unstacked(sequences) == pairs
    assert sequences.ids.shape[1] == max(len(p) + len(r) for p, r in pairs)
    assert (sequences.ids[~sequences.mask] == PAD).all()
    assert sequences.mask.dtype == sequences.response_mask.dtype == torch.bool


@given(rows)
def test_views_of_the_response_match_loops(pairs):
    sequences = stacked(pairs)
    width = max(len(response) for _, response in pairs)
    assert sequences.responses.shape == sequences.response_mask.shape == (len(pairs), width)
    assert sequences.response_lists() == [response for _, response in pairs]
    for row, (prompt, response) in enumerate(pairs):
        assert sequences.response_length[row] == len(response)
        assert sequences.response_mask[row].tolist() == [t < len(response) for t in range(width)]
        assert sequences.mask[row].sum() == len(prompt) + len(response)
        last = len(prompt) + len(response) - 1
        assert sequences.response_positions[row].tolist() == [min(len(prompt) + t, last) for t in range(width)]


@given(rows, st.data())
def test_taking_rows_is_stacking_them_alone(pairs, data):
    indices = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=4))
    taken = stacked(pairs)[torch.tensor(indices)]
    assert unstacked(taken) == [pairs[i] for i in indices]
    assert taken.ids.shape[1] == int(taken.length.max())
    stop = data.draw(st.integers(1, len(pairs)))
    assert unstacked(stacked(pairs)[:stop]) == pairs[:stop]


@given(rows, rows)
def test_joining_puts_one_behind_the_other(first, second):
    joined = stacked(first).joined(stacked(second))
    assert unstacked(joined) == first + second
    assert joined.ids.shape == (len(first + second), int(joined.length.max()))


@given(st.lists(token_lists, min_size=1, max_size=5))
def test_padded_rows_come_back_by_their_lengths(lists):
    ids, length = pad_rows(lists, PAD)
    assert [row[:n] for row, n in zip(ids.tolist(), length.tolist(), strict=True)] == lists
    assert ids.dtype == torch.long
    assert all(value == PAD for row, n in zip(ids.tolist(), length.tolist(), strict=True) for value in row[n:])


def test_prompts_and_responses_have_to_be_equally_many():
    with pytest.raises(ValueError, match="zip"):
        stack_sequences([[1]], [[2], [3]], PAD)


def tensors(batch: Batch) -> list[torch.Tensor]:
    nested = [tensors(value) if isinstance(value, Batch) else [value] for value in vars(batch).values()]
    return [value for values in nested for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("move", [lambda batch: batch.to("meta"), lambda batch: move_data_to_device(batch, "meta")])
def test_moving_a_batch_moves_all_its_tensors_and_nothing_else(move):
    sequences = stacked([([1, 2], [3]), ([4], [5, 6])])
    two = torch.tensor([1, 0])
    batches = [
        (sequences, 3),
        (ResponseBatch(sequences), 3),
        (PairBatch(sequences, sequences, two, two > 0, two, two, two, []), 11),
        (PromptBatch(*pad_rows([[1], [2, 3]], PAD), [RECORD, RECORD]), 2),
        (Completions(sequences, two.bool(), [RECORD, RECORD], ["a", "b"]), 4),
    ]
    for batch, count in batches:
        moved = move(batch)
        assert type(moved) is type(batch)
        assert len(moved) == len(batch) == 2
        assert [tensor.device.type for tensor in tensors(moved)] == ["meta"] * count
        assert {tensor.device.type for tensor in tensors(batch)} == {"cpu"}
        for name in ("records", "texts"):
            assert getattr(moved, name, None) is getattr(batch, name, None)
