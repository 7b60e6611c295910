import dataclasses

import numpy as np
import pytest

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.store import Store
from lit_rlhf.data.strength import OWN_SCORES, own_differences, strength_row, strengths
from lit_rlhf.data.treatments import AdaptiveMargin, Flip, Slice
from lit_rlhf.world import Annotator, WorldPairs

PAIRS = WorldPairs(40, seed=3, annotator=Annotator(flip_rate=0.3))


@pytest.fixture
def table(tmp_path):
    """A strength table of the 40 pairs; strengths grow with the place, the first eight are doubted."""
    store = Store(tmp_path / "table")
    store.begin({"voters": 2})
    rows = [strength_row(record, [i - 8, i - 7.5], "train") for i, record in enumerate(PAIRS.records())]
    store.write_part(0, rows)
    store.finish(1)
    return str(store.directory)


def data(tiny_model, strength, treatments=None, val_fraction=0.0):
    module = PreferenceDataModule(
        PAIRS, tokenizer=tiny_model, strength=strength, treatments=treatments, val_fraction=val_fraction, batch_size=4
    )
    module.load("pairs")
    return module


def rows_by_pair(module):
    return {row.record.pair_hash: row for row in module.train_rows}


def test_the_pair_hash_knows_prompt_responses_and_their_order():
    prompt = (Message("user", "Hi"),)
    pair = Record(prompt, "a", "b")
    others = [Record(prompt, "b", "a"), Record(prompt, "a", "c"), Record((Message("user", "Ho"),), "a", "b")]
    assert pair.pair_hash == dataclasses.replace(pair, source="other", strength=2.0).pair_hash
    assert len({pair.pair_hash, *(other.pair_hash for other in others)}) == 4


def test_treatments_reach_the_batches_and_the_original_label_stays(tiny_model, table):
    plain = rows_by_pair(data(tiny_model, table))
    module = data(tiny_model, table, [Flip(0.2), AdaptiveMargin()])
    assert module.counts["train"].flipped == 8
    seen = 0
    for batch in module.train_dataloader():
        for i, record in enumerate(batch.records):
            untreated = plain[record.pair_hash]
            first, second = (batch.rejected, batch.chosen) if batch.flipped[i] else (batch.chosen, batch.rejected)
            for sequences, response in ((first, untreated.chosen), (second, untreated.rejected)):
                assert sequences.ids[i, : sequences.length[i]].tolist() == untreated.prompt + response
            assert (batch.chosen_is_better[i] == 1) == (record.chosen_is_better != bool(batch.flipped[i]))
            assert batch.margin[i] == batch.strength[i] >= 0
            assert batch.flipped[i] == (untreated.label.strength < 0)
            seen += 1
    assert seen == 40


def test_pairs_that_a_slice_leaves_out_are_counted(tiny_model, table):
    module = data(tiny_model, table, [Slice(0.5, 1.0)])
    assert len(module.train_rows) == module.counts["train"].kept == module.counts["train"].treated_out == 20


def test_validation_pairs_know_their_strength_and_keep_their_labels(tiny_model, table):
    module = data(tiny_model, table, [Flip(1.0)], val_fraction=0.4)
    assert len(module.val_rows) > 5
    assert not any(row.label.flipped for row in module.val_rows)
    assert all(np.isfinite(row.label.strength) for row in module.val_rows)


def test_other_treatments_make_other_data(tiny_model, table):
    prints = [data(tiny_model, table, steps).fingerprint for steps in (None, [AdaptiveMargin()], [Flip(0.1)])]
    assert len(set(prints)) == 3


def test_a_pair_that_the_table_does_not_hold_is_an_error_or_unknown(table):
    stranger = Record((Message("user", "Hi"),), "a", "b", location="pairs.jsonl:7")
    with pytest.raises(DataError, match=r"pairs\.jsonl:7"):
        strengths(table, [stranger])
    assert np.isnan(strengths(table, [stranger], optional=True)).all()


def test_scores_that_came_with_the_data_take_the_place_of_voters():
    prompt = (Message("user", "Hi"),)
    scored = Record(prompt, "a", "b", chosen_scores=(1.0, 2.0), rejected_scores=(0.5, 3.0))
    np.testing.assert_allclose(strengths(OWN_SCORES, [scored]), [[0.5, -1.0]])
    np.testing.assert_allclose(strengths(OWN_SCORES, [Record(prompt, "a", "b", strength=0.7)]), [[0.7]])
    with pytest.raises(DataError, match="neither scores nor a strength"):
        strengths(OWN_SCORES, [Record(prompt, "a", "b")])
    with pytest.raises(DataError, match="different numbers"):
        strengths(OWN_SCORES, [scored, Record(prompt, "a", "b", strength=0.7)])


def test_treatments_without_a_strength_are_refused():
    with pytest.raises(DataError, match="option strength"):
        PreferenceDataModule(PAIRS, treatments=[Flip()])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p"}, "field 'pair_hash': missing; the row has: prompt"),
        ({"pair_hash": 7, "differences": [1.0]}, "field 'pair_hash': expected text, found a number"),
        ({"pair_hash": "a", "differences": None}, "field 'differences': is null"),
        ({"pair_hash": "a", "differences": 1.0}, "field 'differences': expected a list of numbers, found a number"),
        ({"pair_hash": "a", "differences": []}, "field 'differences': expected a list of numbers, found a list"),
        ({"pair_hash": "a", "differences": ["x"]}, r"field 'differences\[0\]': expected a number, found text"),
        ({"pair_hash": "a", "differences": [1.0, float("nan")]}, r"field 'differences\[1\]': expected a finite number"),
    ],
)
def test_a_row_that_is_none_of_a_strength_table_is_refused(tmp_path, row, says):
    store = Store(tmp_path / "table")
    store.begin({})
    store.write_part(0, [row])
    store.finish(1)
    with pytest.raises(DataError, match=rf"(?s):row 1: {says}.*lit-rlhf strength"):
        strengths(str(tmp_path), list(PAIRS.records()))


def test_scores_whose_difference_is_infinite_are_refused():
    scores = {"chosen_scores": (1e308,), "rejected_scores": (-1e308,)}
    record = Record((Message("user", "q"),), "a", "b", location="x:3", **scores)
    with pytest.raises(DataError, match="x:3: the difference of two scores is no finite number"):
        strengths(OWN_SCORES, [record])


def test_grades_of_several_responses_are_a_strength():
    prompt = (Message("user", "q"),)
    graded = Record(prompt, "a", "b", responses=("a", "c", "b"), grades=(3.0, 2.0, 0.5))
    assert own_differences(graded) == [2.5]
