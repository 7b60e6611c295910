"""One JSON object that holds rows, and one that is a row."""

import json
from io import StringIO

import pandas
import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.json_objects import rows_within
from tests.data.layouts import plain, read

ROWS = [
    {"prompt": "Name a bird.", "chosen": "A stork.", "rejected": "A spoon."},
    {"prompt": "Name a tree.", "chosen": "A birch.", "rejected": "A fork."},
]
OTHERS = [{"prompt": "Name a tool.", "chosen": "A saw.", "rejected": "A cloud."}]
RENAMED = [{"ask": "Name a bird.", "good": "A stork.", "bad": "A spoon."}]
TURNS = [{"role": "user", "content": "Name a bird."}, {"role": "assistant", "content": "A stork."}]
SHAREGPT = [{"from": "human", "value": "Name a bird."}, {"from": "gpt", "value": "A stork."}]


def within(value: dict, split: str | None = None) -> list | None:
    found = rows_within(value, split, "a.json")
    return None if found is None else list(found)


@pytest.mark.parametrize("rows", [ROWS, RENAMED, [{"messages": TURNS}], [{"text": "A joy.", "label": 1}]])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: {"data": rows},
        lambda rows: {"version": "1.1", "data": rows},
        lambda rows: {"rows": rows, "count": len(rows)},
        lambda rows: {"Examples": rows, "meta": {"author": "me", "tags": ["a", "b"]}},
        lambda rows: {"instances": rows, "schema": None},
        lambda rows: {"license": [{"name": "MIT"}], "data": rows},
        lambda rows: {"animals_v2": rows},
        lambda rows: {"animals_v2": rows, "name": "animals", "size": 3},
        lambda rows: {"data": {"items": rows}},
        lambda rows: {"status": "ok", "data": {"total": 2, "rows": rows}},
        lambda rows: {"train": rows},
        lambda rows: {"name": "birds", "test": rows},
    ],
)
def test_the_key_that_holds_the_rows_is_found(wrap, rows):
    assert within(wrap(rows)) == rows


@pytest.mark.parametrize(
    "row",
    [
        ROWS[0],
        {"messages": TURNS},
        {"conversations": SHAREGPT, "source": "x"},
        {"chosen": TURNS, "rejected": TURNS},
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": TURNS[1:]},
        {"chosen": SHAREGPT, "rejected": SHAREGPT, "id": 3},
        {"better": TURNS, "worse": TURNS},
        {"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
        {"instruction": "i", "completions": [{"response": "a", "rating": 1}, {"response": "b", "rating": 2}]},
        {"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
        {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]},
        {"prompt": "q", "tests": [{"in": 1}], "test": [{"in": 1, "out": 2}], "response": "a"},
        {"chosen": ["q", "a"], "rejected": ["q", "b"]},
        {"chosen": ["q", "a"], "rejected": ["q", "b"], "chosen score list": [1, 2], "rejected score list": [0, 1]},
        {"chosen": {"role": "assistant", "content": "a"}, "rejected": {"role": "assistant", "content": "b"}},
        {"chosen": {"text": "a"}, "rejected": {"text": "b"}},
        {"question": {"id": 1, "text": "q"}, "answer": {"id": 2, "text": "a"}},
        {"conversation": [{"speaker": "A", "text": "Hello."}, {"speaker": "B", "text": "Good day."}]},
        {"prompt": ["a"]},
        {"a": 1, "b": None},
        {},
    ],
)
def test_a_row_stays_a_row(row):
    assert within(row) is None
    assert plain(json.dumps(row)) == plain(json.dumps([row])) == [row]


@pytest.mark.parametrize("names", [("train", "test"), ("train_prefs", "test_prefs"), ("Training", "dev")])
@pytest.mark.parametrize("more", [{}, {"version": 3, "about": {"a": "b"}}])
def test_splits_are_asked_for(names, more):
    value = more | dict(zip(names, (ROWS, OTHERS), strict=True))
    assert within(value, names[0]) == ROWS
    assert within(value, names[1]) == OTHERS
    with pytest.raises(DataError) as caught:
        within(value)
    assert f"none was named; the splits are {', '.join(sorted(names))}" in str(caught.value)
    with pytest.raises(DataError, match="there is no split 'other'"):
        within(value, "other")


def test_a_split_may_be_laid_out_in_its_own_way():
    value = {"train": {"data": ROWS}, "validation": {name: [row[name] for row in OTHERS] for name in OTHERS[0]}}
    assert (within(value, "train"), within(value, "validation")) == (ROWS, OTHERS)
    assert within(value, "dev") == OTHERS
    numbered = {"train": {"0": ROWS[0], "1": ROWS[1]}, "test": {"0": OTHERS[0], "1": OTHERS[0]}}
    assert within(numbered, "train") == ROWS
    assert within({"data": {"train": ROWS, "test": OTHERS}}, "test") == OTHERS
    assert within({"train": ROWS, "test": []}, "test") == []


def test_several_lists_under_names_of_their_own_are_asked_for():
    value = {"birds": ROWS, "tools": OTHERS, "version": 1}
    with pytest.raises(DataError, match="the splits are birds, tools"):
        within(value)
    assert within(value, "tools") == OTHERS


def test_the_only_list_can_be_named_or_not():
    assert within({"data": ROWS}, "data") == ROWS
    with pytest.raises(DataError, match="there is no split 'train'; the splits are data"):
        within({"data": ROWS}, "train")
    assert within({"train": ROWS}, "train") == ROWS


@pytest.mark.parametrize("beside", [{"instruction": "Answer briefly."}, {"prompt": "Name one."}, {"context": "x"}])
def test_what_the_rows_may_need_is_not_lost(beside):
    with pytest.raises(DataError, match=f"holds rows in 'data', and beside them {next(iter(beside))}"):
        within(beside | {"data": ROWS})


def test_an_empty_list_is_no_row():
    for value in ({"data": []}, {"version": 1, "rows": []}, {"train": []}):
        with pytest.raises(DataError, match="empty: it holds no row"):
            plain(json.dumps(value))


def test_a_file_of_splits_is_asked_for_with_the_option():
    content = json.dumps({"train": ROWS, "test": OTHERS})
    assert read(content, "a.json", split="test") == [(":item 1", OTHERS[0])]
    with pytest.raises(DataError) as caught:
        read(content, "a.json")
    assert "--data.sources.split train" in str(caught.value)
    for content in (json.dumps(ROWS), json.dumps(ROWS[0]), json.dumps({"prompt": {"0": "a"}, "chosen": {"0": "b"}})):
        with pytest.raises(DataError, match="a file has no splits, but split 'test' was asked for"):
            read(content, "a.json", split="test")


# ---------------------------------------------------------------------- pandas and its like


FRAMES = {
    "of pairs": pandas.DataFrame(ROWS),
    "of one row": pandas.DataFrame(OTHERS),
    "of other names": pandas.DataFrame(RENAMED * 3),
    "with gaps": pandas.DataFrame([*ROWS, *OTHERS], index=[3, 17, 40]),
    "with numbers and nothing": pandas.DataFrame([{"text": "a", "score": 1.5, "n": None}, {"text": "b", "score": 2.0}]),
    "with messages": pandas.DataFrame([{"chosen": TURNS, "rejected": TURNS}] * 2),
    "with one column": pandas.DataFrame([{"prompt": "a"}, {"prompt": "b"}]),
    "with a column called data": pandas.DataFrame([{"data": "a", "label": 0}, {"data": "b", "label": 1}]),
}


@pytest.mark.parametrize("orient", [None, "columns", "split", "table", "index", "records"])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=list(FRAMES))
@pytest.mark.parametrize("indent", [0, 2])
def test_the_layouts_of_pandas_are_read(frame, orient, indent):
    expected = plain(frame.to_json(orient="records", lines=True))
    assert plain(frame.to_json(orient=orient, indent=indent), "a.json") == expected


@pytest.mark.parametrize("orient", ["split", "tight", "list", "dict", "index", "records"])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=list(FRAMES))
def test_dictionaries_of_pandas_are_read(frame, orient):
    rows = plain(frame.to_json(orient="records", lines=True))
    value = json.loads(json.dumps(frame.astype(object).where(frame.notna(), None).to_dict(orient)))
    assert plain(json.dumps(value)) == rows


def test_columns_as_lists_are_read_where_they_are_no_row():
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    assert within(columns) == ROWS
    assert within({"messages": [TURNS, TURNS[:1]]}) == [{"messages": TURNS}, {"messages": TURNS[:1]}]
    assert within({"chosen": [TURNS, TURNS], "rejected": [TURNS, TURNS]}) == [{"chosen": TURNS, "rejected": TURNS}] * 2
    assert within({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}) == [
        {"prompt": "a", "chosen": "b", "rejected": "c"}
    ]
    uneven = {"prompt": ["a", "b"], "chosen": ["c"]}
    assert within(uneven) is None


def test_rows_by_their_names_are_read():
    assert within({"q1": ROWS[0], "q2": ROWS[1]}) == ROWS
    assert within({"0": RENAMED[0], "1": RENAMED[0]}) == RENAMED * 2


def test_rows_of_another_length_than_the_columns_are_bad():
    value = {"columns": ["prompt", "chosen"], "index": [0, 1, 2], "data": [["a", "b"], ["a"], 7]}
    good, (place, short), (_, other) = read(json.dumps(value), "a.json")
    assert good[1] == {"prompt": "a", "chosen": "b"}
    assert (place, str(short)) == (":item 2", "1 cells, but there are 2 columns")
    assert "found a number" in str(other)


@pytest.mark.parametrize("columns", [["a", "a"], [["a", "b"], ["a", "c"]], [1, 2]])
def test_columns_without_names_of_their_own_are_refused(columns):
    with pytest.raises(DataError, match="pandas' layout 'split'") as caught:
        plain(json.dumps({"columns": columns, "index": [0], "data": [[1, 2]]}))
    assert "orient='records', lines=True" in str(caught.value)


def test_an_index_with_a_name_is_a_column():
    frame = pandas.DataFrame(ROWS, index=pandas.Index(["x", "y"], name="id"))
    assert plain(frame.to_json(orient="table")) == [{"id": "x", **ROWS[0]}, {"id": "y", **ROWS[1]}]
    assert plain(pandas.read_json(StringIO(json.dumps(ROWS))).to_json(orient="table")) == ROWS


# ---------------------------------------------------------------------- the Hub's viewer


def viewed(rows: list, cut: list | None = None) -> list:
    return [{"row_idx": number, "row": row, "truncated_cells": cut or []} for number, row in enumerate(rows)]


def test_what_the_viewer_answers_is_read():
    features = [{"feature_idx": 0, "name": "prompt", "type": {"dtype": "string", "_type": "Value"}}]
    answer = {
        "features": features,
        "rows": viewed(ROWS),
        "num_rows_total": 2,
        "num_rows_per_page": 100,
        "partial": False,
    }
    assert read(json.dumps(answer), "a.json") == [(":item 1", ROWS[0]), (":item 2", ROWS[1])]
    assert plain(json.dumps({"rows": [{"row_idx": 0, "row": ROWS[0]}]}, indent=1)) == ROWS[:1]
    assert plain(json.dumps(viewed(ROWS))) == ROWS
    assert plain("\n".join(map(json.dumps, viewed(ROWS)))) == ROWS
    assert plain(json.dumps(viewed(ROWS)[0])) == ROWS[:1]


def test_what_the_viewer_cut_off_is_a_bad_row():
    good, (_, error) = read(json.dumps({"rows": [*viewed(ROWS[:1]), *viewed(ROWS[1:], ["chosen"])]}))
    assert good[1] == ROWS[0]
    assert "cut off are chosen" in str(error)
    assert "download" in str(error)


def test_a_row_that_has_such_fields_among_others_is_no_answer_of_the_viewer():
    row = {"row_idx": 1, "row": {"a": 1}, "prompt": "q"}
    assert plain(json.dumps(row)) == [row]
