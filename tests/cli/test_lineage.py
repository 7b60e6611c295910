"""Which models and stores a run has read and written, as its offline W&B file has it."""

import json

import pytest
import wandb

from lit_rlhf.cli import lineage
from lit_rlhf.cli.stage import run_stage
from lit_rlhf.cli.tracking import log_report
from lit_rlhf.evaluation.wandb_runs import read_wandb_run, read_wandb_runs


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """W&B writes files only; it reads the environment once per process."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


@pytest.mark.parametrize(
    ("module", "name"),
    [("PPOModule", "ppo"), ("Seq2SeqRewardModule", "seq2seq-reward"), ("SFTModule", "sft"), ("MyModel", "my-model")],
)
def test_a_stage_is_called_after_its_module(module, name):
    assert lineage.job_type(module) == name


def test_what_a_run_writes_is_not_what_it_reads(tmp_path):
    for name, file in (
        ("model", "config.json"),
        ("store", "key.json"),
        ("voters/table", "key.json"),
        ("new", "config.json"),
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_text("{}")
    (tmp_path / "pairs.jsonl").write_text("{}")
    at = {name: str(tmp_path / name) for name in ("model", "store", "voters", "new", "pairs.jsonl", "absent")}
    options = {
        "model": {"init_args": {"model": at["model"], "reward": {"init_args": {"store": at["store"]}}}},
        "data": {"sources": [at["pairs.jsonl"], at["absent"]], "strength": at["voters"], "template": "plain\n"},
        "export": {"directory": at["new"]},
    }
    found = lineage.inputs(options)
    assert {str(path.relative_to(tmp_path)) for path in found} == {"model", "store", "pairs.jsonl", "voters/table"}
    assert sorted(map(lineage.kind, found)) == ["data", "model", "store", "store"]
    assert lineage.outputs(options) == [tmp_path / "new"]


def test_a_version_goes_by_the_content_alone(offline):
    for name in ("one", "two"):
        (offline / name / "model").mkdir(parents=True)
        (offline / name / "model" / "config.json").write_text("{}")
    first, second = (lineage.describe(offline / name / "model", offline) for name in ("one", "two"))
    assert first.metadata["fingerprint"] == second.metadata["fingerprint"]
    assert lineage.describe(offline / "one" / "model", offline).digest == first.digest
    (offline / "one" / "model" / "config.json").write_text('{"a": 1}')
    assert lineage.describe(offline / "one" / "model", offline).digest != first.digest


@pytest.mark.slow
def test_stages_are_tied_together_by_what_they_hand_over(offline, tiny_model):
    prompts = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 6}}
    model = {"policy": tiny_model, "reward": {"class_path": "lit_rlhf.rewards.GoldReward"}, "store": "runs/store"}
    options = {
        "model": {"class_path": "BaselineModule", "init_args": {**model, "k": 2, "sampling": {"max_new_tokens": 3}}},
        "data": {"sources": prompts, "batch_size": 3, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"default_root_dir": "runs/baselines", "enable_progress_bar": False, "accelerator": "cpu"},
    }
    (offline / "options.yaml").write_text(json.dumps(options))
    run_stage(["predict", "-c", "options.yaml"])
    wandb.teardown()
    run = read_wandb_run(offline / "runs" / "baselines")
    assert (run.project, run.job_type) == ("lit_rlhf", "baseline")
    assert run.made == [("runs-store", "store")]
    assert run.used == [(lineage.artifact_name(lineage.inputs(options)[0]), "model")]
    assert run.complete


@pytest.mark.slow
def test_a_study_is_a_group_of_its_seeds(offline):
    claims = [
        {"id": "s1", "effect": 0.5, "values": [0.4, 0.6], "verdict": "holds"},
        {"id": "s2", "effect": 0.1, "values": [0.1, 0.1], "verdict": "undecided"},
    ]
    log_report("study", offline, {"study": "reward", "claims": claims, "settings": {"seeds": [3, 4]}}, None, 0.0)
    wandb.teardown()  # its service has written all of it then
    runs = read_wandb_runs(offline)
    assert {run.group for run in runs} == {"study reward"}
    assert [run.job_type for run in runs].count("seed") == 2
    seeds = {run.config["seed"]: run.history[["s1", "s2"]].iloc[0].tolist() for run in runs if run.job_type == "seed"}
    assert seeds == {3: [0.4, 0.1], 4: [0.6, 0.1]}
