import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.evaluation.benchmarks import Benchmark, Item
from lit_rlhf.evaluation.score_tables import read_score_tables, write_scores

JUDGED = {
    "pair_id": "a1",
    "subset": "law",
    "label": "B>A",
    "judge_model": "m/one",
    "scores": [1.5, -2],
    "decision": "A>B",
}
REWARDED = {"id": 7, "subset": "hep-go", "scores_chosen": [2.0], "scores_rejected": 1.0, "results": 1, "model": "m/two"}
SECOND = {"id": "tied:3", "subset": "Ties", "scores": [[3.0], [2.0], [0.5]], "num_correct": 2, "results": None}
STYLED = {"id": 4, "domain": "chat", "prompt": "Hi", "score_chosen": [1, 2, 3], "score_rejected": [4, 5, 6]}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_response_that_judge_bench_prefers_is_the_chosen_one(tmp_path):
    other = JUDGED | {"pair_id": "a2", "label": "A>B", "scores": [1, 1], "decision": "B>A"}
    (table,) = read_score_tables(write(tmp_path / "t.jsonl", [JUDGED, other]))
    assert table.model == "m/one"
    assert [item.scores for item in table.items] == [(-2, 1.5), (1, 1)]
    assert {item.gold for item in table.items} == {(1, 0)}
    assert [(item.id, item.subset, item.format) for item in table.items[:1]] == [("a1", "law", "reward-bench")]
    assert table.items[1].location == f"{tmp_path / 't.jsonl'}:2"


def test_the_files_of_its_authors_hold_judgments_of_both_orders(tmp_path):
    judgments = [
        {"judgment": {"judge_model": "m/one", "scores": [1, 3]}, "decision": "B>A"},
        {"judgment": {"judge_model": "m/one", "scores": [3, 1]}, "decision": "A>B"},
    ]
    row = {"pair_id": "a1", "source": "law", "label": "B>A", "judge_name": "reward_model", "judgments": judgments}
    (table,) = read_score_tables(write(tmp_path / "t.jsonl", [row, row | {"pair_id": "a2"}]))
    assert (table.model, table.items[0].scores, table.items[0].subset) == ("m/one", (3, 1), "law")


def test_several_models_in_a_file_are_told_apart_and_files_of_one_name(tmp_path):
    write(tmp_path / "a.jsonl", [JUDGED, JUDGED | {"judge_model": "m/three"}])
    write(tmp_path / "b.jsonl", [JUDGED])
    names = [table.model for table in read_score_tables(str(tmp_path / "*.jsonl"))]
    assert names == ["m/one", "m/three", "m/one~2"]


def test_reward_bench_scores_as_rows_and_as_columns(tmp_path):
    rows = [REWARDED, REWARDED | {"id": 8, "scores_chosen": 0.0, "results": 0}]
    columns = {name: [row[name] for row in rows] for name in REWARDED if name != "model"}
    columns |= {"model": "m/two", "chat_template": None}
    (tmp_path / "c.json").write_text(json.dumps(columns, indent=4))
    pq.write_table(
        pa.Table.from_pylist([row | {"scores_chosen": float(i)} for i, row in enumerate(rows)]), tmp_path / "p.parquet"
    )
    (by_rows,) = read_score_tables(write(tmp_path / "r.jsonl", rows))
    (by_columns,) = read_score_tables(str(tmp_path / "c.json"))
    assert (by_rows.model, by_columns.model) == ("m/two", "m/two")
    assert [item.scores for item in by_rows.items] == [item.scores for item in by_columns.items] == [(2, 1), (0, 1)]
    assert [item.id for item in by_columns.items] == ["7", "8"]
    assert by_columns.items[1].location.endswith("item 2")


def test_columns_that_differ_in_length_are_refused(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(REWARDED | {"id": [1, 2], "subset": ["a"]}, indent=4))
    with pytest.raises(DataError, match=r"c\.json.*columns differ in length: id 2, subset 1"):
        read_score_tables(str(tmp_path / "c.json"))


def test_reward_bench_2_and_rm_bench(tmp_path):
    (ties,) = read_score_tables(write(tmp_path / "ties.jsonl", [SECOND]))
    assert ties.model == "ties"
    assert (ties.items[0].scores, ties.items[0].gold, ties.items[0].id) == ((3, 2, 0.5), (1, 1, 0), "tied:3")
    assert ties.items[0].format == "best-of-n"
    (styles,) = read_score_tables(write(tmp_path / "styles.jsonl", [STYLED]))
    assert (styles.items[0].scores, styles.items[0].subset) == ((1, 2, 3, 4, 5, 6), "chat")
    assert styles.items[0].format == "rm-bench"


def test_what_is_written_is_read(tmp_path):
    asked = (Message("user", "Hi"),)
    items = [
        Item(asked, ("yes", "no, ü"), (1, 0), "s", "f:1", "9"),
        Item(asked, ("a", "b", "c"), (1, 1, 0), "t", "f:2"),
    ]
    write_scores(tmp_path / "s.jsonl", "runs/model", Benchmark("bench", "f", "best-of-n", items), [[0.25, -1.0], None])
    (table,) = read_score_tables(str(tmp_path / "s.jsonl"))
    first, second = table.items
    assert (table.model, first.id, second.id) == ("runs/model", "9", "")
    assert (first.scores, second.scores, first.lengths) == ((0.25, -1), None, (3, 5))
    assert (first.gold, second.gold, second.subset) == ((1, 0), (1, 1, 0), "t")
    assert len(first.digest) == 16
    assert first.digest != second.digest
    assert list(tmp_path.iterdir()) == [tmp_path / "s.jsonl"]


BAD = {
    "no known table of scores has the fields of this row: question, answer": {"question": "x", "answer": "y"},
    "field 'label': expected 'A>B' or 'B>A', found 'A=B'": JUDGED | {"label": "A=B"},
    "field 'scores': missing: this judge gives no scores": {k: v for k, v in JUDGED.items() if k != "scores"},
    "field 'scores': expected a list of 2 numbers, found 3 of them": JUDGED | {"scores": [1, 2, 3]},
    r"field 'scores\[1\]': expected a number, found text": JUDGED | {"scores": [1, "2"]},
    "field 'decision': says B>A, but the scores are 1.5 and -2": JUDGED | {"decision": "B>A"},
    "field 'results': says 1, but the scores are 0 .chosen. and 1 .rejected.": REWARDED | {"scores_chosen": 0.0},
    "field 'scores_chosen': is null": REWARDED | {"scores_chosen": None},
    "field 'scores_chosen': expected a number, found a list": REWARDED | {"scores_chosen": [1, 2]},
    "field 'num_correct': expected a whole number from 1 to 2, found 3": SECOND | {"num_correct": 3},
    "field 'id': rows of Ties are 'ref:N' or 'tied:N', found '3'": SECOND | {"id": "3"},
    "field 'domain': missing": {k: v for k, v in STYLED.items() if k != "domain"},
    "field 'score_rejected': expected a list of 3 numbers, found 2 of them": STYLED | {"score_rejected": [1, 2]},
    "field 'format': 'mt-bench' is unknown": {"format": "mt-bench", "gold": [1, 0], "scores": [1, 2]},
    "field 'scores': expected a list of 2 numbers, found 1 of them": {
        "format": "reward-bench", "gold": [1, 0], "scores": [1],
    },
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_a_table_that_does_not_fit_is_an_error_in_words(tmp_path, message):
    with pytest.raises(DataError, match=message) as raised:
        read_score_tables(write(tmp_path / "bad.jsonl", [BAD[message]]))
    assert str(raised.value).startswith(f"{tmp_path / 'bad.jsonl'}:1: ")


def test_lower_is_better_gets_a_hint(tmp_path):
    with pytest.raises(DataError, match="lower better"):
        read_score_tables(write(tmp_path / "bad.jsonl", [REWARDED | {"scores_chosen": 0.0}]))
