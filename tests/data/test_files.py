import gzip
import json
import os
import tempfile
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.records import Message, Source

REAL = Path(os.environ.get("LIT_RLHF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
PAIRS = [{"id": i, "prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
BARE = {"prompt": "only a prompt"}


@pytest.fixture
def write(tmp_path):
    def to_file(*rows, name: str = "pairs.jsonl") -> str:
        texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(texts) + "\n")
        return str(tmp_path / name)

    return to_file


def test_records_carry_source_location_and_id_in_file_order(write):
    path = write(*PAIRS[:2], "", PAIRS[2])
    source = PairFiles(path, weight=0.5)
    records = list(source.records())
    assert isinstance(source, Source)
    assert [record.location for record in records] == [f"{path}:{line}" for line in (1, 2, 4)]
    assert [record.meta for record in records] == [{"id": 0}, {"id": 1}, {"id": 2}]
    assert {record.source for record in records} == {"pairs"}
    assert records[2].prompt == (Message("user", "q2"),)
    assert (records[2].chosen, records[2].rejected) == ("good 2", "bad 2")
    assert list(source.records()) == records
    assert source.bad_rows == 0


@pytest.mark.parametrize("identity", [None, ["a"], {"a": 1}, "x" * 1000, 1.5])
def test_an_id_that_is_none_is_left_out(write, identity):
    (record,) = PairFiles(write(PAIRS[0] | {"id": identity})).records()
    assert record.meta == {}


def test_several_files_are_read_one_after_the_other_each_in_its_format(write):
    first = write(*PAIRS[:1], name="a.jsonl")
    second = write(BARE, name="b.jsonl")
    records = list(PairFiles([second, first], name="mixed").records())
    assert [record.location for record in records] == [f"{second}:1", f"{first}:1"]
    assert {record.source for record in records} == {"mixed"}
    pattern = PairFiles(str(Path(first).parent / "*.jsonl"))
    assert [record.location for record in pattern.records()] == [f"{first}:1", f"{second}:1"]


def test_parquet_rows_are_numbered(tmp_path):
    path = str(tmp_path / "pairs.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), path)
    assert [record.location for record in PairFiles(path).records()] == [f"{path}:row {i}" for i in (1, 2, 3, 4)]


def test_limit_stops_early_and_counts_over_all_files(write):
    paths = [write(*PAIRS[:2], name="a.jsonl"), write(*PAIRS[2:], name="b.jsonl")]
    assert [record.meta["id"] for record in PairFiles(paths, limit=3).records()] == [0, 1, 2]
    assert len(list(PairFiles(paths, limit=99).records())) == 4


def test_stop_names_file_line_and_field(write):
    path = write(*PAIRS[:2], PAIRS[2] | {"chosen": "  "}, PAIRS[3])
    with pytest.raises(DataError) as caught:
        list(PairFiles(path).records())
    assert str(caught.value).startswith(f"{path}:3: field 'chosen': empty response")
    assert caught.value.location == f"{path}:3"


def test_skip_counts_bad_rows_and_reads_the_rest(write):
    bad = [PAIRS[0] | {"chosen": None}, "{broken", "[1]", '{"prompt": NaN}', PAIRS[0] | {"prompt": 3}]
    source = PairFiles(write(bad[0], PAIRS[0], *bad[1:], PAIRS[1]), on_bad_row="skip")
    for _ in range(2):  # counts anew at every call
        assert [record.meta["id"] for record in source.records()] == [0, 1]
        assert source.bad_rows == len(bad)


def test_many_broken_lines_in_front_do_not_hide_the_format(write):
    source = PairFiles(write(*["{broken"] * 120, *PAIRS), on_bad_row="skip")
    assert len(list(source.records())) == 4
    assert source.bad_rows == 120


def test_a_file_without_one_good_row_is_an_error_even_when_skipping(write):
    with pytest.raises(DataError, match=r"(?s)not one row can be read.*pairs.jsonl:2: broken JSON"):
        list(PairFiles(write("{", "{"), on_bad_row="skip").records())


@pytest.mark.parametrize("odd", [BARE, PAIRS[0] | {"prompt": "Human: q\n\nAssistant:"}])
@pytest.mark.parametrize("line", [1, 3, 80])
def test_a_row_of_another_format_is_never_read_silently(write, odd, line):
    rows = [PAIRS[0]] * 90
    rows[line - 1] = odd
    path = write(*rows)
    with pytest.raises(DataError) as caught:
        list(PairFiles(path).records())
    assert caught.value.location == f"{path}:{line}"
    skipping = PairFiles(path, on_bad_row="skip")
    assert len(list(skipping.records())) == 89
    assert skipping.bad_rows == 1


def test_a_named_format_reads_all_rows_alike(write):
    path = write(PAIRS[0], PAIRS[1] | {"prompt": "Human: q\n\nAssistant:"})
    _, second = PairFiles(path, format="explicit").records()
    assert second.prompt == (Message("user", "Human: q\n\nAssistant:"),)
    assert [record.rejected for record in PairFiles(path, format="prompt").records()] == [None, None]


def test_an_unknown_layout_lists_its_fields_and_the_formats(write):
    path = write({"question": "q", "good": "x"})
    with pytest.raises(DataError) as caught:
        list(PairFiles(path).records())
    assert str(caught.value).startswith(f"{path}:1: no known format has the fields of this row: question, good")
    assert "hh-strength" in str(caught.value)


def test_fields_rename_what_the_file_calls_otherwise(write):
    path = write({"question": "q", "good": "x", "bad": "y"})
    names = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    (record,) = PairFiles(path, fields=names).records()
    assert (record.prompt[0].content, record.chosen, record.rejected) == ("q", "x", "y")
    (record,) = PairFiles(path, format="demonstration", fields={"prompt": "question", "response": "good"}).records()
    assert (record.chosen, record.rejected) == ("x", None)


def test_label_picks_one_of_the_two_of_safe_rlhf(write):
    row = {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    path = write(row)
    assert [next(PairFiles(path, label=label).records()).chosen for label in ("better", "safer")] == ["a", "b"]
    with pytest.raises(DataError, match="label: 'safer' has a meaning for format 'safe-rlhf' only"):
        list(PairFiles(write(PAIRS[0]), label="safer").records())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": ""}, "path: no file is named"),
        ({"path": []}, "path: no file is named"),
        ({"format": "hhh"}, "format: unknown format 'hhh'; known are unprompted"),
        ({"on_bad_row": "drop"}, "on_bad_row: expected 'stop' or 'skip', found 'drop'"),
        ({"weight": 0.0}, "weight: expected a positive number"),
        ({"weight": float("nan")}, "weight: expected a positive number"),
        ({"limit": 0}, "limit: expected a positive number"),
        ({"label": "best"}, "label: expected 'better' or 'safer'"),
        ({"pairs": "best"}, "pairs: expected 'extremes' or 'all', found 'best'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(options, says):
    with pytest.raises(DataError, match=says):
        PairFiles(**{"path": "missing.jsonl"} | options)


def test_identical_responses_are_no_error_here(write):
    (record,) = PairFiles(write(PAIRS[0] | {"rejected": PAIRS[0]["chosen"]})).records()
    assert record.chosen == record.rejected


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from(["stop", "skip"]))
def test_damaged_files_give_records_or_a_data_error(data, gzipped, on_bad_row):
    content = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()
    content = gzip.compress(content) if gzipped else content
    begin, end = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    content = content[:begin] + data.draw(st.binary(max_size=4)) + content[end:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.jsonl.gz" if gzipped else "a.jsonl")
        path.write_bytes(content)
        source = PairFiles(str(path), on_bad_row=on_bad_row)
        try:
            records = list(source.records())
        except DataError:
            return
    assert records
    assert all(record.chosen is None or record.chosen.strip() for record in records)
    assert on_bad_row == "skip" or source.bad_rows == 0


@pytest.mark.skipif(not (REAL / "preference").is_dir(), reason="real preference data is not here")
def test_real_preference_files_read_without_a_bad_row():
    files = sorted((REAL / "preference").glob("*.jsonl"))
    for file in files:
        source = PairFiles(str(file))
        records = list(source.records())
        lines = file.read_text(encoding="utf-8").split("\n")
        assert len(records) == sum(map(bool, lines)), file.name
        for record, line in zip(records, filter(None, lines), strict=True):
            row = json.loads(line)
            # The last human words and both responses are in the row word for word, stray markers aside.
            words = " ".join(str(row.get(name, "")) for name in ("prompt", "chosen", "rejected")).split()
            for text in (record.prompt[-1].content, record.chosen, record.rejected):
                assert set(text.split()) <= set(words)


@pytest.mark.parametrize(
    ("row", "options", "hint"),
    [
        ({"promt": "a", "chosen": "b", "rejected": "c"}, {}, "--data.sources.fields.prompt promt"),
        (
            {"prompt": "a", "choosen": "b", "rejected": "c"},
            {"format": "explicit"},
            "--data.sources.fields.chosen choosen",
        ),
        ({"ask": "a", "fine": "b", "poor": "c"}, {}, "--data.sources PairFiles --data.sources.path {file}"),
        ({"ask": "a", "fine": "b", "poor": "c"}, {"fields": {"prompt": "as"}}, "did you mean 'ask'?"),
        ({"q": "a", "chosen": "b", "rejected": "c"}, {"fields": {"promt": "q"}}, "did you mean fields.prompt?"),
    ],
)
def test_fields_of_other_names_come_with_the_option_that_helps(tmp_path, row, options, hint):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        list(PairFiles(str(file), **options).records())
    assert hint.format(file=file) in str(caught.value)
    assert "on_bad_row" not in str(caught.value)  # it is no single row that is bad


def test_a_single_bad_row_comes_with_the_option_that_leaves_it_out(tmp_path):
    file = tmp_path / "broken.jsonl"
    good = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    file.write_text(f'{good}\n{{"prompt": "a", "chosen": "b", rejected": "c"}}\n')
    with pytest.raises(DataError) as caught:
        list(PairFiles(str(file)).records())
    assert "where it says 'rejected" in str(caught.value)
    assert f"--data.sources PairFiles --data.sources.path {file} --data.sources.on_bad_row skip" in str(caught.value)
    assert len(list(PairFiles(str(file), on_bad_row="skip").records())) == 1


def test_a_row_with_many_and_long_names_is_refused_quickly_and_briefly(tmp_path):
    file = tmp_path / "wide.jsonl"
    names = {f"promp{'t' * 5000}{i}": "x" for i in range(2000)} | {"a\x1b[2Jb": "x"}
    file.write_text((json.dumps(names) + "\n") * 3)
    start = time.process_time()
    for options in ({}, {"format": "explicit"}, {"format": "explicit", "fields": {"prompt": "question"}}):
        with pytest.raises(DataError) as caught:
            list(PairFiles(str(file), **options).records())
        assert len(str(caught.value)) < 3000
        assert "\x1b" not in str(caught.value)
    assert time.process_time() - start < 10.0  # a second or two
