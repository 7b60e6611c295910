import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.treatments import AdaptiveMargin, EnsembleSoftLabel, Flip, Labels, Slice, SoftLabel


def labels(strengths, voters=3):
    """Labels whose voters lie around the given strengths."""
    spread = np.linspace(-0.5, 0.5, voters)
    return Labels.untouched(np.array(strengths, dtype=float)[:, None] + spread)


def apply(found, *treatments):
    for treatment in treatments:
        found = treatment.apply(found)
    return found


STRENGTHS = st.lists(st.integers(-50, 50).map(lambda x: x / 10), min_size=1, max_size=40)


@given(STRENGTHS, st.integers(0, 20).map(lambda x: x / 20))
def test_flip_swaps_the_weakest_share_and_turns_their_strength_round(strengths, fraction):
    before, after = labels(strengths), apply(labels(strengths), Flip(fraction))
    flipped = np.flatnonzero(after.flipped)
    assert len(flipped) == math.ceil(fraction * len(strengths) - 1e-12)
    kept = np.flatnonzero(~after.flipped)
    if len(flipped) and len(kept):
        assert before.strength[flipped].max() <= before.strength[kept].min() + 1e-12
    np.testing.assert_allclose(after.strength[flipped], -before.strength[flipped])
    np.testing.assert_array_equal(after.strength[kept], before.strength[kept])


@given(STRENGTHS)
def test_flipping_all_doubted_pairs_leaves_none_doubted(strengths):
    after = apply(labels(strengths), Flip(below=0.0))
    assert (after.strength >= -1e-12).all()
    np.testing.assert_array_equal(after.flipped, labels(strengths).strength < 0)


@given(STRENGTHS)
def test_ten_slices_hold_every_pair_once_in_order_of_strength(strengths):
    parts = [apply(labels(strengths), Slice(i / 10, (i + 1) / 10)) for i in range(10)]
    np.testing.assert_array_equal(np.sum([part.kept for part in parts], axis=0), np.ones(len(strengths)))
    ends = [part.strength[part.kept] for part in parts if part.kept.any()]
    assert all(low.max() <= high.min() + 1e-12 for low, high in pairwise(ends))
    dropped = apply(labels(strengths), Slice(0.2, 0.4, drop=True))
    np.testing.assert_array_equal(dropped.kept, ~apply(labels(strengths), Slice(0.2, 0.4)).kept)


def test_a_flip_counts_its_share_among_the_pairs_that_a_slice_left():
    after = apply(labels(range(100)), Slice(0.0, 0.1), Flip(1.0))
    assert after.kept.sum() == after.flipped.sum() == 10
    assert after.flipped[:10].all()


def test_soft_labels_are_for_doubted_pairs_unless_all_are_asked_for():
    np.testing.assert_allclose(apply(labels([-1, 0, 2]), SoftLabel(0.2)).target, [0.8, 1, 1])
    np.testing.assert_allclose(apply(labels([-1, 0, 2]), SoftLabel(0.3, only_doubted=False)).target, [0.7] * 3)


def test_the_ensemble_soft_label_is_the_mean_of_the_voters_probabilities():
    found = apply(Labels.untouched(np.array([[0.0, 2.0], [-800.0, 800.0]])), EnsembleSoftLabel())
    np.testing.assert_allclose(found.target, [(0.5 + 1 / (1 + math.exp(-2))) / 2, 0.5])


def test_the_margin_is_the_strength_and_after_a_flip_its_opposite():
    np.testing.assert_allclose(apply(labels([-1.5, 2]), AdaptiveMargin()).margin, [-1.5, 2])
    np.testing.assert_allclose(apply(labels([-1.5, 2]), Flip(below=0), AdaptiveMargin()).margin, [1.5, 2])
    np.testing.assert_allclose(apply(labels([-1.5, 2]), AdaptiveMargin(scale=2, clip=3.5)).margin, [-3, 3.5])


def test_soft_label_and_margin_compose():
    found = apply(labels([-1, 1]), SoftLabel(), AdaptiveMargin())
    np.testing.assert_allclose(found.target, [0.8, 1])
    np.testing.assert_allclose(found.margin, [-1, 1])


@pytest.mark.parametrize("first", [AdaptiveMargin(), SoftLabel()])
def test_a_flip_behind_what_it_would_contradict_is_refused(first):
    with pytest.raises(DataError, match="List Flip before"):
        apply(labels([-1, 1]), first, Flip())


def test_pairs_left_out_have_no_label_and_others_say_how_they_are_learned():
    first, second = apply(labels([-1, 1]), Slice(0, 0.5), Flip(1.0), AdaptiveMargin()).listed()
    assert second is None
    assert first is not None
    assert (first.flipped, first.margin, first.target, first.strength) == (True, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Flip(1.5),
        lambda: Flip(0.1, below=0.0),
        lambda: Slice(0.5, 0.5),
        lambda: Slice(-0.1, 0.5),
        lambda: SoftLabel(2),
        lambda: AdaptiveMargin(clip=-1),
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(DataError, match="treatment"):
        wrong()
