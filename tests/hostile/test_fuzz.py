import json
import random
import sys

import pytest

from lit_rlhf.data import readers, transcripts
from lit_rlhf.data.formats import FORMATS
from lit_rlhf.data.records import Record
from lit_rlhf.data.store import Store
from reliability import fuzz
from reliability.fuzz_mutation import mutate
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


def exchanged(reader):
    def read(row):
        record = reader(row)
        return Record(record.prompt, record.rejected, record.chosen, tie=record.tie)

    return read


@pytest.mark.parametrize("name", ["explicit", "conversational", "implicit", "hh", "safe-rlhf", "tldr"])
def test_a_reader_that_exchanges_the_responses_is_caught(name, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, name, exchanged(FORMATS[name]))
    assert "WrongRow" in str(counted(f"row, {name}", 50, tmp_path).failures)


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
    assert readers.parse_transcript is right


def test_a_store_that_does_not_look_at_its_digests_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "_check_digest", lambda self, path: None)
    assert "WrongRow" in str(counted("store", 400, tmp_path).failures)


def test_a_row_that_is_lost_is_caught(tmp_path, monkeypatch):
    read = sys.modules["lit_rlhf.data.files"].read_rows
    monkeypatch.setattr("lit_rlhf.data.files.read_rows", lambda *given: (row for row in list(read(*given))[:1]))
    assert "WrongRow" in str(counted("JSON lines", 40, tmp_path).failures)


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
