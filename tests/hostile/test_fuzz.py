import json
import random
import sys
from dataclasses import replace

import pytest

from lit_rlhf.data import json_rows, public_readers, transcripts
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.formats import FORMATS, detect_format
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.store import Store
from reliability import fuzz
from reliability.fuzz_mutation import mutate
from reliability.fuzz_oracles import check_record
from reliability.fuzz_plain import WrongRow
from reliability.fuzz_seeds import ROWS
from reliability.fuzz_targets import TARGETS

CHEAP = [name for name, target in TARGETS.items() if target.share > 5000]


def counted(name: str, inputs: int, folder) -> fuzz.Worker:
    worker = fuzz.Worker(name, inputs, folder / "counts.json")
    worker.mutations(seed=0)
    worker.save()
    worker.folder.cleanup()
    return worker


@pytest.mark.parametrize("name", CHEAP)
def test_mutated_inputs_are_refused_or_read_rightly(name, tmp_path):
    worker = counted(name, 150, tmp_path)
    assert list(worker.failures.values()) == []
    assert worker.counts["accepted"] + worker.counts["refused"] == worker.counts["inputs"] >= 150
    assert worker.counts["accepted"] >= len(worker.seeds), "the seeds are well formed"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_rows_that_its_plain_reader_agrees_about(name):
    assert name in ROWS or name == "stepwise"
    for row in ROWS.get(name, []):
        check_record(name, row, FORMATS[name](row))
    assert any(detect_format(row) == name for row in ROWS.get(name, [])) or name in ("unprompted", "stepwise")


def with_changes(reader, change):
    def read(row):
        record = reader(row)
        return replace(record, **change(record))

    return read


def caught(name: str, change, folder, monkeypatch) -> str:
    monkeypatch.setitem(FORMATS, name, with_changes(FORMATS[name], change))
    return str(counted(f"row, {name}", 50, folder).failures)


PAIRED = sorted({*ROWS} - {"prompt", "demonstration"})


@pytest.mark.parametrize("name", PAIRED)
def test_a_reader_that_exchanges_the_responses_is_caught(name, tmp_path, monkeypatch):
    def exchanged(record):
        return {"chosen": record.rejected, "rejected": record.chosen}

    assert "WrongRow" in caught(name, exchanged, tmp_path, monkeypatch)


CHANGES = {
    "the system turn": (
        "demonstration",
        lambda record: {"prompt": tuple(t for t in record.prompt if t.role != "system")},
    ),
    "the tools": ("prompt", lambda record: {"prompt": tuple(t for t in record.prompt if t.role != "tools")}),
    "calls": ("demonstration", lambda record: {"prompt": tuple(Message(t.role, t.content) for t in record.prompt)}),
    "earlier turns": ("conversational", lambda record: {"prompt": record.prompt[-1:]}),
    "a blank": ("explicit", lambda record: {"chosen": f"{record.chosen} "}),
    "reasoning": ("conversational", lambda record: {"chosen": record.chosen.rpartition("</think>\n\n")[2]}),
    "scores": ("ultrafeedback-binarized", lambda record: {"chosen_scores": None}),
    "scores of the other": ("compared", lambda record: {"chosen_scores": record.rejected_scores}),
    "a margin": ("explicit", lambda record: {"strength": None}),
    "steps": ("compared", lambda record: {"strength": None}),
    "its sign": ("hh-strength", lambda record: {"strength": -record.strength}),
    "ties": ("compared", lambda record: {"tie": False}),
    "grades": ("graded", lambda record: {"grades": tuple(-grade for grade in record.grades)}),
    "responses": ("ranked", lambda record: {"responses": record.responses[::-1]}),
    "a bad mark": ("marked", lambda record: {"chosen": record.chosen or record.rejected, "rejected": None}),
}


@pytest.mark.parametrize("lost", CHANGES)
def test_what_a_reader_loses_or_changes_is_caught(lost, tmp_path, monkeypatch):
    name, change = CHANGES[lost]
    assert "WrongRow" in caught(name, change, tmp_path, monkeypatch)


def test_steps_that_are_read_as_preferences_are_caught():
    row = {"prompt": "q", "completions": ["one", "two"], "labels": [True, False]}
    assert detect_format(row) == "stepwise"
    with pytest.raises(WrongRow, match="steps are no preferences"):
        check_record("stepwise", row, Record((Message("user", "q"),), "one", "two"))


def test_a_column_that_matters_but_is_not_said_to_be_used_is_caught(tmp_path, monkeypatch):
    right = FORMATS["explicit"]

    def peeking(row):
        return replace(right(row), source=str(dict.get(row, "id")))

    monkeypatch.setitem(FORMATS, "explicit", peeking)
    read = TARGETS["row, explicit"].make(tmp_path)
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    read(json.dumps(row).encode())
    with pytest.raises(WrongRow, match="not all is used"):
        read(json.dumps({**row, "id": 1}).encode())


def test_a_reader_that_falls_over_is_caught_with_its_input(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "explicit", lambda row: Record((), row["chosen"].strip()))
    worker = counted("row, explicit", 60, tmp_path)
    assert worker.counts["crashes"] > 0
    errors = [failure["error"] for failure in worker.failures.values()]
    assert any(error.startswith(("KeyError", "AttributeError")) for error in errors)
    for failure in worker.failures.values():
        assert (tmp_path / failure["input"]).exists()


def test_a_transcript_whose_speakers_are_mixed_up_is_caught(tmp_path, monkeypatch):
    right = transcripts.parse_transcript
    monkeypatch.setattr("reliability.fuzz_targets.parse_transcript", lambda text, name: right(text, name)[::-1])
    assert "WrongRow" in str(counted("transcript", 30, tmp_path).failures)
    assert public_readers.parse_transcript is right


def test_a_store_that_does_not_look_at_its_digests_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "_check_digest", lambda self, path: None)
    assert "WrongRow" in str(counted("store", 400, tmp_path).failures)


def test_a_row_that_is_lost_is_caught(tmp_path, monkeypatch):
    read = sys.modules["lit_rlhf.data.files"].read_rows
    monkeypatch.setattr("lit_rlhf.data.files.read_rows", lambda *given: (row for row in list(read(*given))[:1]))
    assert "WrongRow" in str(counted("JSON lines", 40, tmp_path).failures)


@pytest.mark.parametrize("name", ["JSON", "tables", "compressed"])
def test_a_row_that_is_lost_in_any_layout_is_caught(name, tmp_path, monkeypatch):
    read = sys.modules["lit_rlhf.data.files"].read_rows
    monkeypatch.setattr("lit_rlhf.data.files.read_rows", lambda *given: iter(list(read(*given))[1:]))
    assert "WrongRow" in str(counted(name, 40, tmp_path).failures)


def test_a_row_of_another_line_is_caught(tmp_path, monkeypatch):
    read = sys.modules["lit_rlhf.data.files"].read_rows

    def turned(*given):
        places, found = zip(*read(*given), strict=True)
        return iter(zip(places, found[::-1], strict=True))

    monkeypatch.setattr("lit_rlhf.data.files.read_rows", turned)
    for name in ("JSON lines", "JSON", "tables"):
        assert "WrongRow" in str(counted(name, 40, tmp_path).failures)


def test_a_cell_that_is_changed_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_rlhf.data.table_rows._text", lambda cell: cell.strip(" 0") or None)
    assert "WrongRow" in str(counted("tables", 40, tmp_path).failures)


def test_a_field_that_is_given_twice_and_read_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "parse_line", json.loads)
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "chosen": "c"}\n' * 2)
    assert [record.chosen for record in PairFiles(str(path)).records()] == ["c", "c"]
    read = TARGETS["JSON lines"].make(tmp_path)
    with pytest.raises(WrongRow):
        read(path.read_bytes())


def test_a_report_that_forgets_bad_rows_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_rlhf.data.file_report.FileReport.bad", property(lambda self: 0, lambda self, bad: None))
    assert "a wrong count" in str(counted("JSON lines", 300, tmp_path).failures)


def test_mutations_are_a_function_of_the_seed_and_change_something():
    seeds = [seed for target in ("row, hh", "transcript", "JSON lines") for seed in TARGETS[target].seeds()]
    for seed in seeds:
        changed = [mutate(seed, random.Random(number)) for number in range(40)]
        assert changed == [mutate(seed, random.Random(number)) for number in range(40)]
        assert len(set(changed) - {seed}) > 20


@pytest.mark.slow
def test_the_command_writes_its_figures(tmp_path):
    result = fuzz.fuzz(tmp_path, inputs=300, jobs=2, readers=["row, hh", "store"])
    assert result == json.loads((tmp_path / "fuzz.json").read_text())
    assert result["crashes"] == 0
    assert result["inputs"] == sum(each["inputs"] for each in result["readers"].values()) >= 300
    assert result["inputs"] == result["refused"] + result["accepted"]
    assert [path.name for path in tmp_path.iterdir()] == ["fuzz.json"]


@pytest.mark.slow
def test_a_process_that_dies_is_told_with_how_it_ended(tmp_path):
    ended = fuzz._watched([sys.executable, "-c", "import os; os.abort()"], tmp_path / "x.last")
    assert ended.startswith("the process ended with -6")


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS_WITHOUT_NEWS", 1.0)
    ended = fuzz._watched([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "x.last")
    assert ended == "one input took more than 1 s"
