"""What a report calls used: what the record was made of, and not what was looked at to tell the format."""

import json

import pytest

from lit_rlhf.data.files import PairFiles

ROWS = [
    ({"prompt": "Which metal is liquid?", "completion": "Mercury.", "label": 7}, ["label"]),
    ({"prompt": "Which metal is liquid?", "completion": "Mercury.", "label": True}, []),
    ({"prompt": "Which metal is liquid?", "chosen": "Mercury.", "rejected": "Iron.", "labels": [True]}, ["labels"]),
    ({"question": "Which metal is liquid?", "responses": ["Mercury.", "Iron."], "labels": [1, 0], "scores": [2, 1]},
     ["labels"]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "aside"), ROWS)
def test_looking_at_a_column_does_not_count_as_using_it(tmp_path, row, aside):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    source = PairFiles(str(path))
    assert len(list(source.records())) == 1
    report = source.reports[str(path)]
    assert report.left_aside == aside
    assert {*report.used, *aside} == set(row)


def test_bad_rows_behind_the_last_good_one_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": 1}\n{"prompt": "Which metal is liquid?"}\n{"prompt": 2}\n3\n')
    source = PairFiles(str(path), on_bad_row="skip")
    assert len(list(source.records())) == 1
    assert source.reports[str(path)].bad == source.bad_rows == 3
