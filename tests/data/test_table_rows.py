"""CSV and TSV: cells come back as they were written, whatever the dialect; what does not fit is named."""

import csv
import gzip
import io

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import read_rows, seekable_kind
from lit_rlhf.data.table_rows import _holds_numbers
from tests.data.layouts import bomb, plain, read

ROWS = [
    {"prompt": "Which is the longest river?", "chosen": "The Nile.", "rejected": "42"},
    {"prompt": 'Say "yes", please;\nor no.', "chosen": "Yes, yes.\r\n\r\nReally.", "rejected": "{[\t|"},
    {"prompt": "é\u2028\u00a0", "chosen": "#", "rejected": None},
]

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6) | st.sampled_from(
    ['"', '""', ",", ";", "\n", "a,b", ' " ', "true", "1.5", "[1]", "None", "nan"]
)


def table(rows: list[dict], **options) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\n\n", "\ufeff\n"], ids=["", "mark", "blank", "both"])
@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.CSV", ","), ("a.tsv", "\t"), ("a.tab", "\t")],
)
def test_a_dialect_makes_no_difference(name, delimiter, mark, end, quoting):
    content = mark + table(ROWS, delimiter=delimiter, lineterminator=end, quoting=quoting)
    assert plain(content, name) == ROWS
    assert plain(content.rstrip("\r\n"), name) == ROWS


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from(",;\t"),
)
def test_any_cells_come_back(rows, end, delimiter):
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    expected = [{name: cell or None for name, cell in row.items()} for row in rows]
    content = table(rows, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    assert plain(content, "a.csv") == expected


def test_what_pandas_writes_is_read():
    frame = pandas.DataFrame(ROWS)
    assert plain(frame.to_csv(index=False), "a.csv") == ROWS
    assert plain(frame.to_csv(sep="\t", index=False), "a.tsv") == ROWS
    numbered = [{"Unnamed: 0": str(number), **row} for number, row in enumerate(ROWS)]
    assert plain(frame.to_csv(), "a.csv") == numbered


def test_locations_are_the_lines_where_rows_begin():
    content = table(ROWS, lineterminator="\n").replace("é", "\n\né", 1)
    lines = [place for place, _ in read("\n" + content, "a.csv")]
    assert lines == [":3", ":4", ":10"]


def test_blanks_around_names_and_behind_delimiters_are_no_part_of_them():
    content = 'prompt, chosen , rejected\nWhy?, "Because, well.", No.\n'
    assert plain(content, "a.csv") == [{"prompt": "Why?", "chosen": "Because, well.", "rejected": "No."}]
    assert plain("prompt,chosen\n Why?, Well.\n", "a.csv") == [{"prompt": " Why?", "chosen": " Well."}]


def test_what_excel_puts_in_front_is_obeyed():
    assert plain("sep=;\r\nprompt;chosen\r\na,b;c,d\r\n", "a.csv") == [{"prompt": "a,b", "chosen": "c,d"}]


def test_one_column_is_a_table_too():
    assert plain("prompt\nWhy, then?\n\nHow?\n".replace("Why, then?", '"Why, then?"'), "a.csv") == [
        {"prompt": "Why, then?"},
        {"prompt": "How?"},
    ]


# ---------------------------------------------------------------------- text and numbers


@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected", "answer", "id", "title", "label_text", "winner_name",
                                  "choice_answer", "frank", "response_score_text", "better_answer"])  # fmt: skip
@pytest.mark.parametrize("cell", ["42", "1e3", "true", "-1", "null", "[1, 2]", " 7 "])
def test_text_stays_text(name, cell):
    assert plain(f'{name},other\n"{cell}",x\n', "a.csv") == [{name: cell, "other": "x"}]


@pytest.mark.parametrize("name", ["score", "score_chosen", "chosen_rating", "better_response_id", "label", "labels",
                                  "GPT4 label", "overall_preference", "rank", "margin", "tie", "winner_model_a",
                                  "scoreChosen", "Grade", "reward-1", "choice", "human_ref_score"])  # fmt: skip
@pytest.mark.parametrize(
    ("cell", "value"),
    [("1", 1), ("-2", -2), ("0.50", 0.5), ("1e2", 100.0), ("true", True), ("False", False), ("TRUE", True), (" 3 ", 3),
     ("", None), ("model_a", "model_a"), ("007", "007"), ("nan", "nan"), ("1e999", "1e999"), ("1,5", "1,5"),
     ("inf", "inf"), ("9" * 5000, "9" * 5000), ("A", "A")],
)  # fmt: skip
def test_numbers_stand_in_columns_of_numbers(name, cell, value):
    ((_, row),) = read(f'{name},other\n"{cell}",x\n', "a.csv")
    assert row[name] == value
    assert type(row[name]) is type(value)


@pytest.mark.parametrize("name", ["responses", "scores", "Ratings", "ranks", "score"])
@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('[""a"", ""b""]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        ("[1, 2.5]", [1, 2.5]),
        (" [1] ", [1]),
        ("['a' 'b']", "['a' 'b']"),
        ("[see above", "[see above"),
        ("[x]", "[x]"),
    ],
)
def test_lists_stand_in_columns_of_several(name, cell, value):
    ((_, row),) = read(f'{name},margin\n"{cell}","[1]"\n', "a.csv")
    assert row == {name: value, "margin": "[1]"}


@given(st.text(max_size=12))
def test_any_name_of_a_column_is_one_of_the_two(name):
    assert _holds_numbers(name) in (True, False)


# ---------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a,b", "2 cells, but the header has 3"),
        ("a,b,c,d", "4 cells, but the header has 3"),
        ("a", "1 cells, but the header has 3"),
        ("a,b, c, d, e", "5 cells, but the header has 3"),
        ('"a"b,c,d', "broken table: ',' expected after '\"'"),
        ('a,"b \\"c\\" d",e', "broken table"),
    ],
)
def test_a_bad_row_comes_as_its_error_and_the_next_is_read(row, says):
    first, (place, error), last = read(f"p,c,r\n1,2,3\n{row}\n4,5,6\n", "a.csv")
    assert (first, last) == ((":2", {"p": "1", "c": "2", "r": "3"}), (":4", {"p": "4", "c": "5", "r": "6"}))
    assert place == ":3"
    assert isinstance(error, DataError)
    assert says in str(error)
    assert "quote" in str(error)


def test_rows_that_a_stray_quote_runs_together_are_named_by_their_lines():
    content = 'p,c\n1,2\n3,"4\n5,6\n7,"8"\n9,0\n1,"2\n3"\n'
    _, (place, error), *rest = read(content, "a.csv")
    assert place == ":3"
    assert "broken table in lines 3 to 5" in str(error)
    assert rest == [(":6", {"p": "9", "c": "0"}), (":7", {"p": "1", "c": "2\n3"})]
    _, (place, error) = read('p,c\n1,2\n3,"4\n5,6\n7,8",9\n', "a.csv")
    assert (place, str(error).split("\n")[0]) == (":3", "3 cells in lines 3 to 5, but the header has 2")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'p,c\n1,2\n3,"4\n5,6\n7,8\n', "a.csv:3: a quote opens here that is never closed"),
        (b"p,c,p\n1,2,3\n", "a.csv:1: field 'p' is given more than once"),
        (b"p,c\n1,2\n\xe9,3\n", "a.csv:3: not UTF-8: byte 0xe9 at position 1"),
        ("p,c\n1,2\n".encode("utf-16"), "a.csv:1: not UTF-8"),
        (b"p,c\n", "empty: it holds no row"),
        (b"", "empty: it holds no row"),
        (b"\n\n", "empty: it holds no row"),
    ],
)
def test_what_is_wrong_with_a_whole_table_is_raised(content, says):
    with pytest.raises(DataError) as caught:
        read(content, "a.csv")
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("content", ["p,c\n" + "x" * 2**18, 'p,c\n1,2\n"' + "x\n" * 2**17, "p" * 2**18])
def test_a_row_that_would_fill_the_memory_is_refused_before_it_does(monkeypatch, name, content):
    monkeypatch.setattr("lit_rlhf.data.rows._LONGEST_ROW", 2**16)
    with pytest.raises(DataError, match=rf"{name}:\d+: a row of 0 MiB or more"):
        read(bomb(content, name), name)


def test_a_cell_may_be_longer_than_python_takes_by_default():
    assert plain(f"p,c\n{'x' * 300_000},y\n", "a.csv") == [{"p": "x" * 300_000, "c": "y"}]


def test_json_in_a_file_that_is_called_a_table_is_read_as_what_it_is():
    assert plain('{"a": 1}\n{"a": 2}\n', "a.csv") == [{"a": 1}, {"a": 2}]


def test_a_table_has_no_splits_and_no_middle(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(table(ROWS).encode()))
    assert [row for _, row in read_rows(str(path))] == ROWS
    with pytest.raises(DataError, match="a file has no splits"):
        list(read_rows(str(path), "train"))
    assert seekable_kind(str(path)) is None


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["a.csv", "a.tsv"]))
def test_damage_gives_rows_or_a_data_error(data, name):
    content = table(ROWS).encode()
    begin, end = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    content = content[:begin] + data.draw(st.binary(max_size=4)) + content[min(end, begin + 9) :]
    try:
        found = plain(content, name)
    except DataError:
        return
    assert all(isinstance(row, dict | DataError) for row in found)
