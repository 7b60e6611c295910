import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.world.checked import KINDS, TOPICS, is_met
from lit_rlhf.world.checked.constraints import can_stand_together
from lit_rlhf.world.checked.wordings import WORDINGS

MET = [
    ({"kind": "max_words", "count": 3}, ["Bees make honey.", "Honey!", "1. Bees make honey."]),
    ({"kind": "min_words", "count": 3}, ["Bees make honey.", "Bees make a lot of honey."]),
    ({"kind": "about_words", "count": 8}, ["one two three four five six", "a b c d e f g h i j"]),
    ({"kind": "sentences", "count": 2}, ["One. Two.", "Is it? It is!", "Dr. Ito came. He left."]),
    ({"kind": "sentences", "count": 1}, ["Just one.", "Just one"]),
    ({"kind": "dashes", "count": 2}, ["- One.\n- Two.", "Here you are:\n\n* One\n* Two"]),
    ({"kind": "numbers", "count": 2}, ["1. One.\n2. Two.", "Sure!\n1) One\n2) Two\n"]),
    ({"kind": "include", "word": "because"}, ["Because it is.", "It is, because."]),
    ({"kind": "exclude", "word": "is"}, ["This was it.", "Issues."]),
    ({"kind": "begin", "word": "Imagine"}, ["Imagine a cat.", '"Imagine" that.', "IMAGINE!", "**Imagine**, cats"]),
    ({"kind": "question"}, ["How old are bees?", "Good. I wonder. How old are bees?", 'Sure! "How old are bees?"']),
    ({"kind": "end_question"}, ["Bees fly. Do you?", 'They ask: "Why?"']),
    ({"kind": "end_exclamation"}, ["Bees fly!", '"Bees fly!"']),
    ({"kind": "language", "language": "German"}, ["Das ist ein Brot und es ist gut."]),
    ({"kind": "lower"}, ["bees make honey.", "1 bee"]),
    ({"kind": "upper"}, ["BEES MAKE HONEY.", "1 BEE"]),
    ({"kind": "json", "key": "answer"}, ['{"answer": "Bees."}', ' ```json\n{"answer": "Bees."}\n``` ']),
    ({"kind": "title"}, ['"The Last Bee"', "“A Bee's Life”", '"Where Is the Bee?"']),
    ({"kind": "distinct"}, ["Bees make sweet honey.", "Bees"]),
]
MISSED = [
    ({"kind": "max_words", "count": 3}, ["Bees make sweet honey."]),
    ({"kind": "min_words", "count": 3}, ["Bees fly.", ""]),
    ({"kind": "about_words", "count": 8}, ["a b c d e", "a b c d e f g h i j k"]),
    ({"kind": "sentences", "count": 2}, ["One.", "One. Two. Three.", ""]),
    ({"kind": "dashes", "count": 2}, ["- One.", "- a\n- b\n- c", "1. One\n2. Two", "One - two - three", "- a\n1. b"]),
    ({"kind": "numbers", "count": 2}, ["1. One", "2. a\n1. b", "1. a\n1. b", "- One\n- Two", "1. a\n2. b\n3. c"]),
    ({"kind": "include", "word": "because"}, ["It is so.", "cause", ""]),
    ({"kind": "exclude", "word": "is"}, ["It is.", "IS"]),
    ({"kind": "begin", "word": "Imagine"}, ["Imagining cats.", "A cat. Imagine!", ""]),
    ({"kind": "question"}, ["Bees fly.", "Why? How?", "?", "How old are bees? They are old.", ""]),
    ({"kind": "end_question"}, ["Do bees fly? Yes.", ""]),
    ({"kind": "end_exclamation"}, ["Wow! Bees.", ""]),
    ({"kind": "language", "language": "German"}, ["That is a loaf of bread.", "El pan es bueno.", "Brot", ""]),
    ({"kind": "lower"}, ["Bees make honey.", "12!", ""]),
    ({"kind": "upper"}, ["BEES MAKE honey.", "12!", ""]),
    (
        {"kind": "json", "key": "answer"},
        ['{"text": "Bees."}', '{"answer": "Bees."', '{"answer": 1}', '{"answer": ""}', '["answer"]', "Bees.",
         '{"answer": "Bees.", "more": 1}', 'Here: {"answer": "Bees."}', "[" * 5000],
    ),
    ({"kind": "title"}, ["The Last Bee", '"A" or "B"', '"One\ntwo"', '"' + "a b " * 9 + '"', '"Bee"', '""', ""]),
    ({"kind": "distinct"}, ["A bee is a bee."]),
]  # fmt: skip


@pytest.mark.parametrize(("constraint", "texts"), MET)
def test_what_meets_a_constraint_is_seen(constraint, texts):
    assert [text for text in texts if not is_met(constraint, text)] == []


@pytest.mark.parametrize(("constraint", "texts"), MISSED)
def test_what_misses_a_constraint_is_seen(constraint, texts):
    assert [text for text in texts if is_met(constraint, text)] == []


def test_each_kind_has_been_tried_both_ways_and_has_words():
    assert {each["kind"] for each, _ in MET} == {each["kind"] for each, _ in MISSED} == KINDS.keys() == WORDINGS.keys()
    assert all(wordings.seen for wordings in WORDINGS.values())


@pytest.mark.parametrize(
    "constraint",
    [{}, {"kind": "sonnet"}, {"kind": "max_words"}, {"kind": "max_words", "count": "8"},
     {"kind": "max_words", "count": True}, {"kind": "include", "word": 3}, {"kind": ["max_words"]}],
)  # fmt: skip
def test_what_is_no_constraint_is_refused(constraint):
    with pytest.raises(DataError, match="checked world, constraint"):
        is_met(constraint, "Bees.")


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32), st.text(max_size=60))
def test_a_drawn_constraint_is_plain_and_judges_any_text_alike_behind_json(kind, seed, text):
    rng = Random(seed)
    constraint = {"kind": kind, **KINDS[kind].draw(rng, rng.choice(list(TOPICS)))}
    again = json.loads(json.dumps(constraint))
    assert again == constraint
    assert is_met(again, text) == is_met(constraint, text)


@given(st.lists(st.sampled_from(["bee", "bees", "is", "sweet"]), min_size=1, max_size=20), st.integers(1, 20))
def test_numbers_of_words_bound_from_both_sides(said, count):
    text = " ".join(said) + "."
    most, least = ({"kind": kind, "count": count} for kind in ("max_words", "min_words"))
    assert is_met(most, text) == (len(said) <= count)
    assert is_met(least, text) == (len(said) >= count)


@given(st.text(max_size=60), st.sampled_from(["honey", "is", "bees"]))
def test_a_word_occurs_or_does_not(text, word):
    constraints = ({"kind": kind, "word": word} for kind in ("include", "exclude"))
    assert sum(is_met(each, text) for each in constraints) == 1


@given(st.lists(st.sampled_from(["One thing.", "Another", "And this!"]), min_size=1, max_size=4))
def test_a_list_is_one_of_dashes_or_one_of_numbers(said):
    dashes = "\n".join(f"- {each}" for each in said)
    numbers = "\n".join(f"{i}. {each}" for i, each in enumerate(said, 1))
    for count in (1, 2, 3, 4):
        assert is_met({"kind": "dashes", "count": count}, dashes) == (count == len(said))
        assert is_met({"kind": "numbers", "count": count}, numbers) == (count == len(said))
        assert not is_met({"kind": "numbers", "count": count}, dashes)


def test_contradictions_do_not_stand_together():
    def together(one, other):
        return can_stand_together(one, other) or can_stand_together(other, one)

    assert not together({"kind": "begin", "word": "In"}, {"kind": "exclude", "word": "in"})
    assert not together({"kind": "max_words", "count": 8}, {"kind": "sentences", "count": 3})
    assert not together({"kind": "language", "language": "French"}, {"kind": "include", "word": "world"})
    assert not together({"kind": "numbers", "count": 2}, {"kind": "begin", "word": "Well"})
    assert not together({"kind": "lower"}, {"kind": "upper"})
    assert together({"kind": "language", "language": "French"}, {"kind": "max_words", "count": 8})
    assert together({"kind": "include", "word": "world"}, {"kind": "sentences", "count": 1})
