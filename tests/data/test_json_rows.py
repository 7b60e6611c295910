"""JSON in any layout gives the same rows; what is broken is named with its line."""

import gzip
import itertools
import json
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rows import read_rows, seekable_kind
from tests.data.layouts import LAYOUTS, ROWS, bomb, outcome, plain, pretty, read

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
rows_strategy = st.lists(st.dictionaries(st.text(max_size=4), values, min_size=1, max_size=4), min_size=2, max_size=5)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "mark"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.txt", "a", "a.JSON"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_makes_no_difference_nor_does_the_name(layout, name, mark):
    assert plain(mark + LAYOUTS[layout](ROWS).encode(), name) == ROWS


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("data", "examples over lines")])
@settings(max_examples=25, deadline=None)
@given(rows=rows_strategy)
def test_any_rows_are_read_in_any_layout(layout, rows):
    assert plain(LAYOUTS[layout](rows)) == rows


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_makes_no_difference_how_much_is_read_at_a_time(monkeypatch, layout, size):
    rows = [*ROWS, {"number": 12345, "more": [123, -4.5e-7, True, None, '\\"é']}]
    monkeypatch.setattr("lit_rlhf.data.json_text._READ", size)
    monkeypatch.setattr("lit_rlhf.data.json_rows._LOOKED_AT", 8 * size)
    assert plain(LAYOUTS[layout](rows)) == rows


def test_locations_are_lines_or_items():
    assert [place for place, _ in read(LAYOUTS["blank lines"](ROWS))] == [":4", ":7", ":10"]
    assert [place for place, _ in read("\n" + pretty(ROWS[:1] * 3, "\n\n"))] == [":2", ":8", ":14"]
    assert [place for place, _ in read(pretty(ROWS[:1] * 3, ""))] == [":1", ":5:2", ":9:2"]
    assert [place for place, _ in read('{"a": 1} {"a": 2}\n{"a": 3}{"a": 4}')] == [":1", ":1:10", ":2", ":2:9"]
    for layout in ("list", "list over lines", "data"):
        assert [place for place, _ in read(LAYOUTS[layout](ROWS))] == [":item 1", ":item 2", ":item 3"]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_single_object_is_one_row(indent):
    for row in ROWS:
        assert read(json.dumps(row, indent=indent), "a.json") == [(":1", row)]
    assert read("\n\n" + json.dumps(ROWS[0], indent=indent), "a.json") == [(":3", ROWS[0])]


# ---------------------------------------------------------------------- what is broken


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[\n {"a": 1},\n {"a": 2},\n]', "a.json:4: broken JSON at character 1, where it says ']': expecting another"),
        ('[{"a": 1},]', "Take away the comma before it."),
        ('[\n {"a": 1}\n {"a": 2}\n]', "a.json:3: broken JSON at character 2, where it says '{\"a\": 2}\\n]'"),
        ('[\n {"a": 1},\n {"a": 2', "a.json:3: broken JSON at character 9, where it ends"),
        ('[{"a": 1}, {"a": 2]', "a.json: broken JSON at character 19, where it says ']'"),
        ('[\n{"a": 1}\n]\n]', "a.json:4: broken JSON at character 1, where it says ']': expecting nothing behind the"),
        ('[\n{"a":\n "é", "b": x}\n]', "a.json:3: broken JSON at character 12, where it says 'x}"),
        ('{\n "a": 1\n}\n{\n "a": 1,\n}\n', "a.json:6: broken JSON at character 1, where it says '}'"),
        ('{\n "a": 1\n}\n{\n "a": \'x\'\n}\n', "a.json:5: broken JSON at character 7"),
        ('{\n "a": 1\n}\n{\n "a": 2\n', "where it ends"),
        ("[" + '{"a": ' + "[" * 90_000 + "]" * 90_000 + "}]", "unreadable JSON"),
        ('[{"a": ' + "9" * 5000 + "}]", "unreadable JSON"),
        ("[", "where it ends"),
        ("[,]", "expecting value"),
    ],
)
def test_broken_json_over_lines_is_named_with_its_line(content, says):
    with pytest.raises(DataError) as caught:
        read(content, "a.json")
    assert says in str(caught.value)
    assert "\n  " in str(caught.value), "and says what to do"


def test_broken_bytes_over_lines_are_named_with_their_line():
    content = pretty(ROWS).encode().replace(b"swims", "schwärmt".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.json:3: not UTF-8: byte 0xe4\n  Save the file as UTF-8"):
        read(content, "a.json")
    with pytest.raises(DataError, match=r"a\.json:5: not UTF-8: byte 0xff"):
        read(b'[\n{"a": 1},\n{"a": 2}\n]\n\xff', "a.json")


@pytest.mark.parametrize("layout", ["list", "list over lines", "objects over lines"])
def test_a_bad_row_comes_as_its_error_and_the_next_is_read(layout):
    content = LAYOUTS[layout]([{"a": 1}, {"a": 2, "b": {"c": 3, "d": 4}}, {"a": 5}]).replace('"d"', '"c"')
    first, (place, error), last = read(content, "a.json")
    assert (first[1], last[1]) == ({"a": 1}, {"a": 5})
    assert "field 'c' is given more than once" in str(error)
    assert place in (":item 2", ":4")


@pytest.mark.parametrize("bad", ["3", "null", '"text"', "[1]", "[[]]", "true"])
def test_what_is_no_object_is_a_bad_row(bad):
    for content in (f'[{{"a": 1}}, {bad}, {{"a": 2}}]', f'{{"data": [{{"a": 1}}, {bad}, {{"a": 2}}]}}'):
        first, (place, error), last = read(content, "a.json")
        assert (first[1], last[1], place) == ({"a": 1}, {"a": 2}, ":item 2")
        assert "expected one JSON object per row, found" in str(error)


@pytest.mark.parametrize("cut", ["3", "null", "true", '"id"', "{}"])
def test_what_only_looks_like_a_row_of_the_hubs_viewer_is_a_row(cut):
    content = f'{{"row_idx": 0, "row": {{"a": 1}}, "truncated_cells": {cut}}}'
    for layout in (f"{content}\n{content}", f"[{content}, {content}]"):
        for _, row in read(layout, "a.jsonl"):
            assert list(row) == ["row_idx", "row", "truncated_cells"]


def test_rows_without_names_come_with_what_helps():
    (_, error), _ = read('[["q", "a", "b"], ["q", "a", "b"]]', "a.json")
    assert "orient='records', lines=True" in str(error)


@pytest.mark.parametrize(
    "first",
    ['{"a": 1', '{"a": "x', '{"a": 1,', '{"a":', "{broken", "{", '{"a": [', '{"a": 1}}', '{"a": 1},', "{'a': 1}",
     '["a", x', '["a"]', "[}", '[{"a": 1}]', '{"a": 1, "a": 2}', '{"a": "\\x"}', "3", "x", "]", "{'a", '{"a": \x01}'],
)  # fmt: skip
@pytest.mark.parametrize("rest", [2, 60])
def test_a_broken_first_line_does_not_hide_the_rows_behind_it(first, rest):
    """Whether a first line that is no JSON goes on in the second, or is broken."""
    good = [{"n": n, "text": "x" * 3000} for n in range(rest)]
    (place, error), *others = read(first + "\n" + LAYOUTS["lines"](good))
    assert place in (":1", ":item 1")
    assert isinstance(error, DataError)
    assert [row for _, row in others] == good


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(["a.json", "a.jsonl"]))
def test_damage_gives_rows_or_a_data_error(data, layout, name):
    content = LAYOUTS[layout](ROWS).encode()
    begin, end = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    content = content[:begin] + data.draw(st.binary(max_size=4)) + content[min(end, begin + 9) :]
    found = outcome(content, name)
    assert found
    assert all(isinstance(row, dict | DataError) for row in found)


# ---------------------------------------------------------------------- numbers that are none


def test_a_number_that_is_none_is_read_where_it_stands():
    """Whether it stops anything is for the reader that uses the field."""
    (_, row), (_, other) = read('{"a": NaN, "b": [Infinity, -Infinity]}\n{"a": 1}\n')
    assert repr(row) == "{'a': nan, 'b': [inf, -inf]}"
    assert other == {"a": 1}
    for layout in ("list", "list over lines", "objects over lines", "data"):
        rows = plain(LAYOUTS[layout]([{"a": float("nan")}, {"a": 2}]))
        assert repr(rows) == "[{'a': nan}, {'a': 2}]"


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz"])
@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"a": "' + "x" * 2**18 + '"}', 1),
        ('{"a": 1}\n{"a": "' + "x" * 2**18 + '"}', 2),
        ('{"a": 1}\n' + "[" * 2**18, 2),
        ("\n\n" + " " * 2**18, 3),
        ('{\n"a": 1\n}\n{\n"a": "' + "x" * 2**18 + '"}', 4),
        ('{\n"a": "' + "x" * 2**18 + '"}', 1),
        ('[{"a": 1},\n{"a": "' + "x" * 2**18 + '"}]', 2),
        ('[{"a": "' + "x" * 2**18, 1),
        ("[" + '{"a": 1}, ' * 2**10 + '{"a": "' + "x" * 2**18, 1),
    ],
)
def test_a_row_that_would_fill_the_memory_is_refused_before_it_does(monkeypatch, name, content, place):
    monkeypatch.setattr("lit_rlhf.data.rows._LONGEST_ROW", 2**16)
    monkeypatch.setattr("lit_rlhf.data.json_rows.LONGEST_ITEM", 2**16)
    monkeypatch.setattr("lit_rlhf.data.json_rows._LOOKED_AT", 2**10)
    with pytest.raises(DataError, match=rf"{name}:{place}: a row of 0 MiB or more"):
        read(bomb(content, name), name)


def test_very_many_blank_lines_are_stepped_over():
    assert read(b"\n" * 200_000 + b'{"a": 1}\n')[0][0] == ":200001"
    assert plain(gzip.compress(b" " * 9 + b"\n" * 200_000 + b'[{"a": 1}]'), "a.json.gz") == [{"a": 1}]
    assert plain(b'{"a": 1}\n' + b"\n" * 300_000 + b'{"a": 2}') == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("layout", ["lines", "list", "list over lines", "objects over lines"])
def test_rows_come_before_the_rest_is_read(tmp_path, layout):
    """A file that is broken behind its first megabytes gives its first rows."""
    rows = [{"n": n, "text": "x" * 1000} for n in range(3000)]
    path = tmp_path / "a.json"
    path.write_text(LAYOUTS[layout](rows) + "\n\0")
    taken = itertools.islice(read_rows(str(path)), 2500)
    assert [row for _, row in taken] == rows[:2500]


@pytest.mark.parametrize("layout", ["lines", "list", "objects over lines"])
def test_a_pipe_is_read_from_its_beginning(tmp_path, layout):
    path = tmp_path / "a.jsonl"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=[LAYOUTS[layout](ROWS)])
    writer.start()
    try:
        assert [row for _, row in read_rows(str(path))] == ROWS
    finally:
        writer.join()


# ---------------------------------------------------------------------- reading from the middle


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_lines_can_be_read_from_the_middle(tmp_path, layout):
    path = tmp_path / "a.jsonl"
    path.write_text(LAYOUTS[layout](ROWS))
    by_lines = layout in ("lines", "lines with foreign ends", "blank lines")
    assert seekable_kind(str(path)) == ("JSON" if by_lines else None)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (json.dumps(ROWS[0]), "JSON"),
        (json.dumps(ROWS[0]) + "\n\n", "JSON"),
        (json.dumps(ROWS[0], indent=1), None),
        (json.dumps({"train": ROWS, "test": ROWS}), None),
        ('{"a": 1, "a": 2}', "JSON"),
        ("{broken\n" + json.dumps(ROWS[0]), "JSON"),
        ("", "JSON"),
    ],
)
def test_a_single_object_is_a_line_if_it_is_one_row_on_one(tmp_path, content, kind):
    path = tmp_path / "a.json"
    path.write_text(content)
    assert seekable_kind(str(path)) == kind


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(['{"a": 1}', "{", "[", "]", "}", " ", ",", "3", '{"a":', "\ufeff"]), max_size=6))
@example(["{", "}"])
def test_what_can_be_read_from_the_middle_is_read_by_lines(lines):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("\n".join(lines))
        if seekable_kind(str(path)) is None:
            return
        text = "\n".join(lines).removeprefix("\ufeff")
        expected = [f"{path}:{number}" for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if expected:
            assert [location for location, _ in read_rows(str(path))] == expected
