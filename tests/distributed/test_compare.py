"""Comparisons by two processes, alone and as a stage of an experiment, give the results of one."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.processes import connect
from tests.distributed.test_ppo import world

OPTIONS = {"samples": 2, "sampling": {"max_new_tokens": 6}, "seed": 4}


def data() -> dict[str, Any]:
    return {
        "class_path": "lit_rlhf.data.datamodule.PreferenceDataModule",
        "init_args": {
            "sources": world("WorldPrompts", 1),
            "val_sources": world("WorldPrompts", 11),  # three batches: one process has two, the other one
            "batch_size": 4,
            "max_length": 80,
        },
    }


def length(prompt: str, response: str) -> float:
    return float(len(response))


def compared(folder: str, policies: dict[str, str]) -> dict[str, Any]:
    from lit_rlhf.data.datamodule import PreferenceDataModule
    from lit_rlhf.evaluation.compare import compare
    from lit_rlhf.networks.sampling import Sampling
    from lit_rlhf.rewards import PythonReward
    from lit_rlhf.world import WorldPrompts

    prompts = PreferenceDataModule(WorldPrompts(1), WorldPrompts(11), val_batch_size=4, max_length=80)
    return compare(policies, prompts, folder, PythonReward(length), None, 2, Sampling(max_new_tokens=6), seed=4)


def compared_together(folder: str, policies: dict[str, str]) -> dict[str, Any]:
    connect()
    return compared(folder, policies)


def experiment(file: str) -> dict[str, Any]:
    """The first process takes its time over each stage's folder: the other one must not be there before."""
    from lit_rlhf.cli import folders
    from lit_rlhf.cli.experiment import run_experiment

    make_way = folders._make_way

    def late(stage: Any) -> Any:
        time.sleep(1.0 if os.environ["LOCAL_RANK"] == "0" else 0.0)
        return make_way(stage)

    folders._make_way = late  # type: ignore[assignment]
    try:
        return run_experiment(file)
    finally:
        folders._make_way = make_way


@pytest.fixture
def policies(tiny_model, tmp_path) -> dict[str, str]:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    return {"sft": tiny_model, "other": str(other)}


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_two_processes_compare_as_one(pair, policies, tmp_path):
    alone = compared(str(tmp_path / "one"), policies)
    result, nothing = pair.run(compared_together, str(tmp_path / "two"), policies)
    assert nothing == {}
    assert result == alone
    assert read(tmp_path / "two") == read(tmp_path / "one")
    assert len(read(tmp_path / "two")) == 2 * 2 * 11
    assert json.loads((tmp_path / "two" / "comparison.json").read_text()) == alone


def test_an_experiment_goes_through_all_its_stages_in_two_processes(pair, policies, tmp_path):
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False, "enable_progress_bar": False}
    module = {"policy": policies["sft"], "store": "${run}/samples/store", "k": 2, "sampling": {"max_new_tokens": 4}}
    prompts = {"sources": world("WorldPrompts", 6), "val_fraction": 0.0, "batch_size": 2, "max_length": 80}
    samples = {
        "model": {"class_path": "BaselineModule", "init_args": module},
        "data": prompts,
        "trainer": trainer,
    }
    compare = {"policies": policies, "data": data(), "out": "${run}/compare", **OPTIONS}
    base = {"directory": "${run}/alone/base", "preset": "tiny"}
    stages = [
        {"name": "samples", "command": "predict", "options": samples},
        {"name": "alone", "command": "world", "options": base},
        {"name": "compare", "command": "compare", "options": compare, "report": "all"},
    ]
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps({"out": str(tmp_path / "run"), "stages": stages}))
    summary, _ = pair.run(experiment, str(file))
    assert set(summary) >= {"sft", "other", "seconds", "peak_memory"}
    assert set(summary["seconds"]) == {"samples", "alone", "compare"}
