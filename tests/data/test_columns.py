"""Columns whose names differ in case and blanks alone, and lists with nothing in them."""

import itertools

import pytest

from lit_rlhf.data import columns
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.formats import FORMATS, detect_format

PAIR = {"prompt": "Which metal is liquid?", "chosen": "Mercury.", "rejected": "Iron."}


@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("other", [str.title, str.upper, lambda name: f" {name}"])
def test_of_two_columns_alike_the_one_spelt_so_counts(name, other):
    for value in (None, "other"):
        for row in ({other(name): value, **PAIR}, {**PAIR, other(name): value}):
            record = FORMATS["explicit"](row)
            assert (record.prompt[0].content, record.chosen, record.rejected) == tuple(PAIR.values())
    known = columns.names({"Best Answer": 1, "best-answer": 2})
    assert known == {"best_answer": "Best Answer"}


@pytest.mark.parametrize("values", list(itertools.permutations(([], ["Mercury."], "Iron."), 2)))
def test_an_empty_list_of_responses_is_refused(values):
    chosen, rejected = values
    if [] in values:
        with pytest.raises(
            DataError, match=f"field '{'chosen' if chosen == [] else 'rejected'}': the list of responses"
        ):
            FORMATS["graded"](PAIR | {"chosen": chosen, "rejected": rejected})
    else:
        assert FORMATS["graded"](PAIR | {"chosen": chosen, "rejected": rejected}).tie is False


@pytest.mark.parametrize("rejected", [["Iron."], "Iron.", {"role": "assistant", "content": "Iron."}])
def test_a_list_of_one_is_the_response_itself_and_its_score_is_kept(rejected):
    row = PAIR | {"chosen": ["Mercury."], "rejected": rejected, "chosen_score": 1, "rejected_score": 2}
    assert detect_format(row) == "explicit"
    record = FORMATS["explicit"](row)
    assert (record.chosen_scores, record.rejected_scores, record.responses) == ((1.0,), (2.0,), ())
    assert detect_format(row | {"rejected": ["Iron.", "Tin."]}) == "graded"


@pytest.mark.parametrize(
    ("columns", "format"),
    [
        ({"output_1": "Iron.", "output_2": "Mercury.", "best": 2}, "compared"),
        ({"answer_1": "Iron.", "answer_2": "Tin.", "answer_3": "Mercury.", **dict.fromkeys(["rank_1", "rank_2"], 2),
          "rank_3": 1}, "graded"),
        ({"response": "Mercury."}, "hh"),
    ],
)  # fmt: skip
def test_a_transcript_is_the_prompt_of_several_responses_too(columns, format):
    row = {"prompt": "\n\nHuman: Which metal is liquid?\n\nAssistant:", **columns}
    assert detect_format(row) == format
    record = FORMATS[format](row)
    assert (record.prompt[0].content, record.chosen) == (PAIR["prompt"], PAIR["chosen"])


@pytest.mark.parametrize("label", [1, "good", "a topic", True])
def test_a_mark_by_name_counts_before_a_label_that_may_mean_anything(label):
    row = {"prompt": "Which metal is liquid?", "response": "Iron.", "label": label, "is_good": False}
    for given in (row, dict(reversed(row.items()))):
        assert detect_format(given) == "marked"
        record = FORMATS["marked"](given)
        assert (record.chosen, record.rejected) == (None, "Iron.")
