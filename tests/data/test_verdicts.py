"""Verdicts that can be mistaken: for the other response, for a tie, or for a number of steps."""

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.formats import FORMATS, with_options

GLUE, LACE = "Glue it.", "Tie the laces."
PAIR = {"prompt": "My shoe is loose.", "response_1": GLUE, "response_2": LACE}
LETTERED = {"prompt": "My shoe is loose.", "response_a": GLUE, "response_b": LACE}


def read(row: dict, first_wins: str | None = None):
    record = with_options("compared", first_wins=first_wins)(row)
    return "tie" if record.tie else record.chosen


@pytest.mark.parametrize(
    ("text", "verdict"),
    [(LACE, LACE), (LACE, f" {LACE}\n"), ("Let the cobbler go first", None), ("Plan a", None), ("Tied ones", None)],
)
def test_a_verdict_may_be_the_text_of_the_better_response(text, verdict):
    row = LETTERED | {"response_b": text, "best_response": verdict or text}
    assert read(row) == text
    assert read(row | {"response_a": text, "response_b": GLUE}) == text


@pytest.mark.parametrize(
    "models", [("llama-2", "gpt-4"), ("model 2", "model 3"), ("second", "other"), ("tie-net", "x")]
)
def test_a_verdict_may_be_the_name_of_the_better_model(models):
    row = PAIR | {"model_1": models[0], "model_2": models[1]}
    if models[0] == "second":
        with pytest.raises(DataError, match="second does not tell whether"):
            read(row | {"winner": models[0]})
    else:
        assert read(row | {"winner": models[0]}) == GLUE
    assert read(row | {"winner": models[1]}) == LACE


@pytest.mark.parametrize("winner", ["A", "b", "both", "first"])
def test_a_word_that_is_a_response_and_a_tag_of_the_other_one_is_unclear(winner):
    swapped = {"A": ("B", "A"), "b": ("b", "a"), "both": ("both", "one"), "first": ("last", "first")}[winner]
    with pytest.raises(DataError, match=rf"(?s){winner} does not tell.*first_wins {winner}"):
        FORMATS["compared"]({"prompt": "?", "response_a": swapped[0], "response_b": swapped[1], "winner": winner})
    assert read({"prompt": "?", "response_a": "A", "response_b": "B", "winner": "A"}) == "A"


@pytest.mark.parametrize(
    "verdict", ["B is no better than A", "Response A is not better", "not a", "b beats a", "nan", "inf", "the one of a"]
)
def test_sentences_and_what_is_no_number_are_unclear(verdict):
    for row in (LETTERED, PAIR | {"overall_preference": None}):
        with pytest.raises(DataError, match="does not tell whether"):
            read(row | {"winner": verdict})


@pytest.mark.parametrize("verdict", [float("nan"), float("inf"), "inf", "nan", 10**400])
def test_steps_are_finite(verdict):
    with pytest.raises(DataError, match="does not tell whether"):
        read(PAIR | {"overall_preference": verdict})


@pytest.mark.parametrize("verdict", ["response_a", "model a", "the response A", "human_ref_a", "[[A]]", "option-a"])
def test_nouns_before_a_tag_say_nothing(verdict):
    assert read(LETTERED | {"winner": verdict}) == GLUE


def test_one_column_per_outcome_may_say_true_and_false():
    outcomes = {"winner_model_a": False, "winner_model_b": True}
    assert read(LETTERED | outcomes) == LACE
    assert read(LETTERED | dict.fromkeys(outcomes, False)) == "tie"
    assert read(LETTERED | {name: str(value) for name, value in outcomes.items()}) == LACE


@pytest.mark.parametrize("first", [1, 1.0, "1", "1.0", " 1"])
@pytest.mark.parametrize("option", ["1", "1.0"])
def test_a_number_that_means_the_first_is_found_however_it_is_written(first, option):
    assert read(LETTERED | {"label": first}, option) == GLUE
    assert read(LETTERED | {"label": 0.0}, option) == LACE


@pytest.mark.parametrize(
    ("verdict", "better"),
    [
        ("Response B is better than A", LACE),
        ("response a is slightly better", GLUE),
        ("The second response is much better than the first.", LACE),
        ("Assistant A was worse", LACE),
        ("first is preferred", GLUE),
    ],
)
def test_plain_sentences_are_understood(verdict, better):
    assert read(LETTERED | {"winner": verdict}) == better


def test_beside_what_means_the_first_one_other_value_means_the_second():
    reader = with_options("compared", first_wins="yes")
    assert reader(LETTERED | {"winner": "yes"}).chosen == GLUE
    assert reader(LETTERED | {"winner": "no"}).chosen == LACE
    assert reader(LETTERED | {"winner": "tie"}).tie
    assert reader(LETTERED | {"winner": "no"}).chosen == LACE
    with pytest.raises(DataError, match=r"'no' and 'perhaps' stand beside 'yes'.*\n.*Write 'tie'"):
        reader(LETTERED | {"winner": "perhaps"})


def test_between_a_number_and_its_opposite_stands_a_tie():
    reader = with_options("compared", first_wins="-1")
    assert [reader(LETTERED | {"winner": value}).tie for value in (-1, 0, 1)] == [False, True, False]
    reader = with_options("compared", first_wins="1")  # 0 may be the second, or a tie
    assert reader(LETTERED | {"winner": 0}).chosen == LACE
    with pytest.raises(DataError, match="stand beside '1'"):
        reader(LETTERED | {"winner": -1})
