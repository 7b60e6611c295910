from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.world.fluency import fluency, read_sentences
from lit_rlhf.world.text import (
    split_sentences,
    split_words,
    stable_normal,
    stable_unit,
    template_pattern,
    template_trigrams,
)

SLOTS = {"who": ("the cat", "a very old dog", "she"), "does": ("sleeps", "runs away"), "where": ("at home", "here")}
TEMPLATE = "Today {who} {does} {where}, and {who} smiles."


def test_trigrams_equal_those_of_every_filling():
    expected = set()
    for first, does, where, second in product(SLOTS["who"], SLOTS["does"], SLOTS["where"], SLOTS["who"]):
        padded = ("", "", *split_words(f"Today {first} {does} {where}, and {second} smiles."), "")
        expected |= set(zip(padded, padded[1:], padded[2:], strict=False))
    assert template_trigrams(TEMPLATE, SLOTS) == expected


def test_a_slot_that_occurs_twice_is_filled_alike():
    pattern = template_pattern("{who} likes {who}.", {"who": "Anna|Tom"})
    assert pattern.fullmatch("Anna likes Anna.")
    assert not pattern.fullmatch("Anna likes Tom.")


@given(st.text())
def test_sentences_lose_nothing(text):
    assert "".join(split_sentences(text)) == text.strip()


def test_stable_numbers_are_pinned():
    assert stable_unit("a", 1) == stable_unit("a", "1") != stable_unit("a1")
    assert round(stable_unit("world"), 6) == 0.344509
    assert round(stable_normal("world"), 6) == -0.400187


def test_fluency_falls_with_every_kind_of_damage():
    good = "The harbour is dull and lonely. Even its boats seem sad."
    for bad in (
        "The harbour dull is and lonely. Even its boats seem sad.",
        "The harbour is dull and lonely.Even its boats seem sad.",
        "the harbour is dull and lonely. Even its boats seem sad.",
        "The harbour is dull and dull. Even its boats seem sad.",
        "The harbour is dull and lonely. Even its boats seem",
        "The harbour is dull and lonely. The harbour is dull and lonely.",
    ):
        assert fluency(read_sentences(bad)) < fluency(read_sentences(good)) == 1.0
    assert fluency([]) == -1.0
