import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_rlhf.data.store import Store
from reliability.kills import Kills, Stage, check_whole
from reliability.report import markdown
from reliability.run import parts, passed, results, summarise


@pytest.mark.slow
def test_a_stage_that_is_killed_and_goes_on_leaves_the_same_bytes(tmp_path):
    words = ["--kills", "2", "--stage", "base", "--stage", "sft", "--out", str(tmp_path / "kills")]
    done = subprocess.run([sys.executable, "-m", "reliability.kills", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "kills" / "kills.json").read_text())
    assert result["kills_survived"] >= 2
    assert result["rows_lost"] == 0 < result["rows"]


@pytest.fixture
def kills(tmp_path) -> Kills:
    """A finished stage and its reference, equal as yet."""
    found = Kills(tmp_path)
    for folder in (found.run, found.reference):
        stage = folder / "sft"
        (stage / "model").mkdir(parents=True)
        (stage / "model" / "model.safetensors").write_bytes(b"weights")
        (stage / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
        (stage / "done.json").write_text(json.dumps({"key": "k", "seconds": os.getpid(), "result": {"loss": 1.0}}))
        store = Store(stage / "store")
        store.begin({"policy": "p"})
        store.write_part(0, [{"x": 1}, {"x": 2}])
        store.finish(1)
    return found


SFT = Stage("sft", 1.0, 1)


def test_equal_folders_are_equal_whatever_time_they_took(kills):
    (kills.run / "sft" / "done.json").write_text(json.dumps({"key": "k", "seconds": 9, "result": {"loss": 1.0}}))
    assert kills._equal(SFT)
    assert (kills.result["rows"], kills.result["rows_lost"]) == (4, 0)


@pytest.mark.parametrize(
    ("name", "content", "lost"),
    [
        ("metrics.jsonl", b'{"step": 1}\n', 1),
        ("metrics.jsonl", b'{"step": 1}\n{"step": 2}\n{"step": 2}\n', 0),
        ("model/model.safetensors", b"weighty", 0),
        ("done.json", b'{"key": "k", "result": {"loss": 1.5}}', 0),
    ],
)
def test_what_differs_is_noticed_and_lost_rows_are_counted(kills, name, content, lost):
    (kills.run / "sft" / name).write_bytes(content)
    assert not kills._equal(SFT)
    assert kills.result["rows_lost"] == lost
    assert kills.result["failures"]


def test_a_part_that_is_missing_counts_with_all_its_rows(kills):
    (kills.run / "sft" / "store" / "part-00000.parquet").unlink()
    assert not kills._equal(SFT)
    assert kills.result["rows_lost"] == 2


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["model/model.safetensors", "store/part-00000.parquet", "checkpoints/last.ckpt"])
def test_what_is_half_written_under_its_final_name_is_noticed(kills, name):
    stage, reference = kills.run / "sft", kills.reference / "sft"
    (stage / "checkpoints").mkdir()
    torch.save({"x": torch.zeros(1000)}, stage / "checkpoints" / "last.ckpt")
    check_whole(stage, reference)
    _half(stage / name)
    with pytest.raises(Exception, match=r"half written|damaged|archive"):
        check_whole(stage, reference)


def test_the_summary_counts_what_the_parts_found(tmp_path):
    for name, content in {
        "kills": {"kills_survived": 51, "rows_lost": 0, "failures": []},
        "faults": {"fault_kinds": 20, "failures": {}},
        "fuzz": {"inputs": 1_000_000, "crashes": 0, "failures": []},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "pairs").mkdir()
    bad = '<testcase name="b"><failure/></testcase><testcase name="c"><skipped/></testcase>'
    (tmp_path / "pairs" / "junit.xml").write_text(f'<testsuites><testcase name="a"/>{bad}</testsuites>')
    assert passed(tmp_path / "pairs" / "junit.xml") == 1
    summary = summarise(tmp_path, {"kills": {"exit_code": 1, "seconds": 2.0}}, "full")
    counts = ("kills_survived", "fault_kinds", "inputs_fuzzed", "malformed_files", "rows_lost", "two_process_checks")
    assert [summary[name] for name in counts] == [51, 20, 1_000_000, 0, 0, 1]
    assert summary["failures"]["kills ended with"] == 1
    report = markdown(summary, results(tmp_path))
    assert "| 1,000,000 | inputs fuzzed |" in report
    assert "- kills ended with: 1" in report


@pytest.mark.parametrize("quick", [True, False])
def test_every_part_runs_once_in_either_size(tmp_path, quick):
    names = [part.name for row in parts(tmp_path, quick) for part in row]
    assert sorted(names) == ["faults", "fuzz", "hostile", "kills", "pairs"]
