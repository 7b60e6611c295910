from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.world.checked import CHECKED_WEIGHTS, SEEN_KINDS, checked_components, checked_gold, draw_request

SHORT = [{"kind": "max_words", "count": 8}]
GOOD = "Bees make honey from nectar."


def test_an_answer_that_does_what_was_asked_earns_one():
    assert checked_gold("honey", SHORT, GOOD) == 1.0
    assert checked_gold("honey", [{"kind": "json", "key": "fact"}], '{"fact": "bees make honey"}') == 1.0
    assert checked_gold("honey", [{"kind": "title"}], '"The Honey Thief"') == 1.0
    assert checked_gold("honey", [{"kind": "numbers", "count": 2}], "1. Bees make honey\n2. It is sweet") == 1.0
    assert checked_gold("honey", [{"kind": "language", "language": "Spanish"}], "La miel es dulce.") == 1.0


def test_each_constraint_counts_alike():
    both = [*SHORT, {"kind": "begin", "word": "Well"}]
    assert checked_gold("honey", both, GOOD) == 0.5
    assert checked_gold("honey", both, "Well, bees make honey.") == 1.0


@pytest.mark.parametrize(
    ("component", "worse"),
    [
        ("repetition", "Bees make honey, bees make honey."),
        ("unfinished", "Bees make honey from"),
        ("script", "Bees make honey 蜂蜜蜂蜜."),
        ("off_topic", "I like it very much."),
        ("empty", "Honey!"),
    ],
)
def test_what_is_wrong_with_a_text_costs(component, worse):
    found = checked_components("honey", SHORT, worse)
    assert found[component] < 0
    assert checked_gold("honey", SHORT, worse) < checked_gold("honey", SHORT, GOOD)
    assert {name for name, value in found.items() if value < 0} == {component}


def test_a_text_that_was_cut_off_is_unfinished_whatever_it_ends_in():
    assert checked_components("honey", SHORT, GOOD, truncated=True)["unfinished"] == -1.0
    lists = [{"kind": "numbers", "count": 2}]
    assert checked_components("honey", lists, "1. Bees make honey\n2. It is", truncated=True)["unfinished"] == -1.0


def test_an_answer_in_the_language_that_was_asked_for_need_not_name_the_topic_in_english():
    asked = [{"kind": "language", "language": "German"}]
    assert checked_components("honey", asked, "Das ist sehr gut.")["off_topic"] == 0.0
    assert checked_components("honey", asked, "That is very good.")["off_topic"] == -1.0


def test_saying_it_again_and_again_is_worse_than_missing_the_constraint():
    assert checked_gold("honey", SHORT, "Honey honey honey honey honey honey honey honey.") < checked_gold(
        "honey", SHORT, "Bees fly from one flower to the next and make honey for the long winter."
    )


def test_a_word_that_the_request_asks_for_does_not_make_an_answer_be_about_its_topic():
    asked = [{"kind": "include", "word": "water"}]
    assert checked_components("rain", asked, "I like water a lot.")["off_topic"] == -1.0
    assert checked_components("rain", [{"kind": "exclude", "word": "rain"}], "Drops of water.")["off_topic"] == 0.0


@given(st.sampled_from(SEEN_KINDS), st.integers(0, 2**32), st.text(max_size=120), st.booleans())
def test_any_text_is_judged_within_the_ranges(kind, seed, text, truncated):
    request = draw_request(Random(seed), kind, "train")
    found = checked_components(request.topic, request.constraints, text, truncated)
    assert found.keys() == CHECKED_WEIGHTS.keys()
    assert 0.0 <= found["constraints"] <= 1.0
    assert all(-1.0 <= value <= 0.0 for name, value in found.items() if name != "constraints")
    assert checked_gold(request.topic, request.constraints, text, truncated) <= 1.0


@given(
    st.sampled_from(SEEN_KINDS),
    st.integers(0, 2**32),
    st.sampled_from([GOOD, "Le miel. Und? The", "1. a b c\n2. d e f"]),
)
def test_gold_depends_on_neither_the_order_of_constraints_nor_blanks_around_the_text(kind, seed, text):
    request = draw_request(Random(seed), kind, "train")
    gold = checked_gold(request.topic, request.constraints, text)
    assert checked_gold(request.topic, request.constraints[::-1], text) == gold
    assert checked_gold(request.topic, request.constraints, f"{text} \n") == gold
    assert checked_gold(request.topic, request.constraints, text, truncated=True) <= gold
