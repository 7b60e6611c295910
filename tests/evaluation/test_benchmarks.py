import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.evaluation.benchmarks import detect_benchmark, read_benchmarks

PAIR = {"prompt": "Hi", "chosen": "Hello.", "rejected": "No.", "subset": "chat", "id": 3}
STYLED = {"prompt": "Hi", "chosen": ["a", "bb", "ccc"], "rejected": ["d", "ee", "fff"], "domain": "math"}
LISTS = {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c", "d", "e"], "subset": "Ties"}
SCORED = {"prompt": "Hi", "responses": ["a", "b", "c"], "scores": [0.5, 2, -1]}
TIED = LISTS | {"id": "tied:1", "num_correct": 2, "num_incorrect": 3, "total_completions": 5, "models": ["m"] * 5}
ROWS = {"reward-bench": [PAIR], "rm-bench": [STYLED], "best-of-n": [LISTS, SCORED]}


def write(path: Path, rows: list[dict]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize(("format", "row"), [(format, row) for format, rows in ROWS.items() for row in rows])
def test_every_format_is_told_by_its_fields_in_every_kind_of_file(tmp_path, ending, format, row):
    (benchmark,) = read_benchmarks(write(tmp_path / f"test.{ending}", [row, row]))
    assert (benchmark.name, benchmark.format, len(benchmark.items)) == ("test", format, 2)
    assert benchmark.items == read_benchmarks(benchmark.file, format)[0].items


def test_a_pair_is_read_chosen_first(tmp_path):
    (item,) = read_benchmarks(write(tmp_path / "a.jsonl", [PAIR]))[0].items
    assert item.prompt == (Message("user", "Hi"),)
    assert (item.responses, item.gold, item.subset) == (("Hello.", "No."), (1, 0), "chat")
    assert item.location == f"{tmp_path / 'a.jsonl'}:1"


def test_a_pair_may_be_messages_and_go_without_a_subset(tmp_path):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    answers = [[*turns, {"role": "assistant", "content": "Hello."}], [{"role": "assistant", "content": "No."}]]
    row = {"prompt": turns, "chosen": answers[0], "rejected": answers[1]}
    (benchmark,) = read_benchmarks(write(tmp_path / "a.jsonl", [row]))
    assert benchmark.format == "reward-bench"
    assert benchmark.items[0].prompt == (Message("system", "Be kind."), Message("user", "Hi"))
    assert (benchmark.items[0].responses, benchmark.items[0].subset) == (("Hello.", "No."), "all")


def test_styles_stand_in_their_order_chosen_first(tmp_path):
    (item,) = read_benchmarks(write(tmp_path / "a.jsonl", [STYLED]))[0].items
    assert item.responses == ("a", "bb", "ccc", "d", "ee", "fff")
    assert (item.gold, item.subset) == ((1, 1, 1, 0, 0, 0), "math")


def test_lists_become_gold_scores_and_scores_are_kept(tmp_path):
    lists, scored = read_benchmarks(write(tmp_path / "a.jsonl", [LISTS, SCORED]))[0].items
    assert (lists.responses, lists.gold, lists.subset) == (tuple("abcde"), (1, 1, 0, 0, 0), "Ties")
    assert (scored.responses, scored.gold, scored.subset) == (tuple("abc"), (0.5, 2, -1), "all")


def test_a_response_may_be_empty(tmp_path):
    (item,) = read_benchmarks(write(tmp_path / "a.jsonl", [PAIR | {"rejected": ""}]))[0].items
    assert item.responses == ("Hello.", "")


def test_files_of_one_name_are_told_apart_and_patterns_are_expanded(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "test.jsonl", [PAIR])
    assert [each.name for each in read_benchmarks(str(tmp_path / "*" / "test.jsonl"))] == ["test", "test~2", "test~3"]


BAD = {
    "field 'prompt'.*missing": (PAIR, {"prompt": None}, "drop"),
    "field 'prompt'.*expected text, found a number": (PAIR, {"prompt": 5}, None),
    "field 'prompt'.*assistant": (PAIR, {"prompt": [{"role": "assistant", "content": "x"}]}, None),
    "field 'rejected'.*expected text, found a number": (PAIR, {"rejected": 5}, None),
    "field 'subset'.*expected text": (PAIR, {"subset": 5}, None),
    r"field 'chosen'.*expected three responses \(concise, detailed, markdown\), found 2": (
        STYLED, {"chosen": ["a", "b"]}, None,
    ),
    r"field 'rejected\[2\]'.*expected text, found null": (STYLED, {"rejected": ["a", "b", None]}, None),
    "field 'domain'.*expected text": (STYLED, {"domain": 1}, None),
    "field 'rejected'.*list of responses, found an empty one": (LISTS, {"rejected": []}, None),
    "field 'chosen'.*list of responses, found text": (LISTS, {"chosen": "a"}, None),
    "field 'num_correct'.*says 3, but the row has 2": (TIED, {"num_correct": 3}, None),
    "field 'num_incorrect'.*says 4, but the row has 3": (TIED, {"num_incorrect": 4}, None),
    "field 'num_rejected'.*says 1, but the row has 3": (TIED, {"num_rejected": 1}, None),
    "field 'total_completions'.*says 4, but the row has 5": (TIED, {"total_completions": 4}, None),
    "field 'id'.*'ref:N' or 'tied:N', found '7'": (TIED, {"id": 7}, None),
    "field 'scores'.*one number for each of 3 responses, found 2": (SCORED, {"scores": [1, 2]}, None),
    r"field 'scores\[1\]'.*expected a number, found text": (SCORED, {"scores": [1, "2", 3]}, None),
    "field 'responses'.*expected a list of responses, found text": (SCORED, {"responses": "abc"}, None),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_a_bad_row_stops_with_file_line_field_and_what_was_expected(tmp_path, message):
    row, change, drop = BAD[message]
    bad = {name: value for name, value in (row | change).items() if drop is None or value is not None}
    file = write(tmp_path / "bench.jsonl", [row, bad])
    with pytest.raises(DataError, match=message) as raised:
        read_benchmarks(file)
    assert str(raised.value).startswith(f"{file}:2: field")


def test_broken_lines_and_unknown_rows_are_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(PAIR) + "\n{broken\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: broken JSON"):
        read_benchmarks(str(file))
    with pytest.raises(DataError, match=r"b\.jsonl:1: no known benchmark.*question, answer") as raised:
        read_benchmarks(write(tmp_path / "b.jsonl", [{"question": "x", "answer": "y"}]))
    assert all(format in str(raised.value) for format in ROWS)
    with pytest.raises(DataError, match="option format"):
        read_benchmarks(str(file), "mt-bench")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not found"):
        read_benchmarks(str(tmp_path / "nothing.jsonl"))


def test_lists_of_three_are_styles_only_where_there_is_a_domain():
    assert detect_benchmark(STYLED) == "rm-bench"
    assert detect_benchmark({**STYLED, "domain": None, "subset": "Math"}) == "best-of-n"


def test_ids_are_kept_as_text(tmp_path):
    rows = [TIED, LISTS | {"id": 3, "subset": "Math"}, LISTS]
    items = read_benchmarks(write(tmp_path / "a.jsonl", rows))[0].items
    assert [item.id for item in items] == ["tied:1", "3", ""]


def test_a_file_of_one_domain_of_rm_bench_has_its_domain_from_its_name(tmp_path):
    row = {name: value for name, value in STYLED.items() if name != "domain"} | {"subset": "some set"}
    (found,) = read_benchmarks(write(tmp_path / "safety-refuse_filtered.jsonl", [row, row]))
    assert (found.format, found.items[0].subset) == ("rm-bench", "safety-refuse")
    (other,) = read_benchmarks(write(tmp_path / "mine.jsonl", [row, row]))
    assert (other.format, other.items[0].subset) == ("best-of-n", "some set")
    (named,) = read_benchmarks(write(tmp_path / "chat_filtered.jsonl", [row | {"domain": "math"}] * 2))
    assert named.items[0].subset == "math"
