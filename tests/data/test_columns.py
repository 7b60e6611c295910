"""Columns whose names differ in case and blanks alone, and lists with nothing in them."""

import itertools

import pytest

from lit_rlhf.data import columns
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.formats import FORMATS

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
