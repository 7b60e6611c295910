import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lit_rlhf.cli.experiment import _merged, _run_lightning, run_experiment
from lit_rlhf.cli.stage import make_cli
from lit_rlhf.policy import PPOModule

QUIET = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]

MINIATURE = """
out: nowhere
seed: 3
variables: {steps: 5, length: 6}
stages:
  - name: base
    command: world
    options: {directory: "${run}/base/model", preset: tiny, seed: "${seed}"}
  - name: sft
    command: fit
    config: [parts/cpu.yaml]
    options:
      model: {class_path: SFTModule, init_args: {model: "${run}/base/model", optimizer: {lr: 3.0e-3}}}
      data: {sources: {class_path: lit_rlhf.world.WorldDemonstrations, init_args: {size: 64}}, batch_size: 16}
      trainer: {max_epochs: 1}
  - name: reward_model
    command: fit
    config: [parts/cpu.yaml]
    options:
      model: {class_path: ScalarRewardModule, init_args: {model: "${run}/sft/model", optimizer: {lr: 1.0e-3}}}
      data:
        sources: {class_path: lit_rlhf.world.WorldPairs, init_args: {size: 64}}
        batch_size: 16
        val_fraction: 0.25
      trainer: {max_epochs: 1}
    report:
      reward_model: {accuracy: val/accuracy, accuracy_low: val/accuracy_low, truly: val/true_accuracy}
  - name: baselines
    command: predict
    config: [parts/cpu.yaml]
    options:
      model:
        class_path: BaselineModule
        init_args:
          policy: "${run}/sft/model"
          reward: &reward
            class_path: lit_rlhf.rewards.ScalarReward
            init_args: {model: "${run}/reward_model/model"}
          store: "${run}/baselines/store"
          k: 2
          sampling: {max_new_tokens: "${length}"}
      data: &prompts
        sources: {class_path: lit_rlhf.world.WorldPrompts, init_args: {size: 24}}
        val_sources: {class_path: lit_rlhf.world.WorldPrompts, init_args: {size: 6, split: val}}
        batch_size: 8
        max_length: 80
  - name: ppo
    command: fit
    config: [parts/cpu.yaml]
    options:
      model:
        class_path: PPOModule
        init_args:
          policy: "${run}/sft/model"
          critic: "${run}/reward_model/model"
          reward:
            class_path: lit_rlhf.rewards.ContrastiveReward
            init_args: {inner: *reward, store: "${run}/baselines/store"}
          sampling: {max_new_tokens: "${length}"}
          optimizer: {lr: 1.0e-3}
      data: *prompts
      trainer: {max_steps: "${steps}", log_every_n_steps: 1, val_check_interval: 2, check_val_every_n_epoch: null}
      checkpoint: {every_n_train_steps: 2}
    report: {last: {kl: train/kl, validated: val/reward}}
  - name: compare
    command: compare
    options:
      policies: {sft: "${run}/sft/model", ppo: "${run}/ppo/model"}
      reward: *reward
      sampling: {max_new_tokens: "${length}"}
      histories: {ppo: "${run}/ppo/metrics.jsonl"}
      data: {class_path: lit_rlhf.data.datamodule.PreferenceDataModule, init_args: *prompts}
      out: "${run}"
    report: all
"""
STAGES = ["base", "sft", "reward_model", "baselines", "ppo", "compare"]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> Path:
    """A whole experiment in one file, with one config beside it."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "parts").mkdir()
    (folder / "parts" / "cpu.yaml").write_text("trainer: {accelerator: cpu}\n")
    (folder / "mini.yaml").write_text(MINIATURE)
    return folder / "mini.yaml"


@pytest.fixture(scope="module")
def finished(miniature, tmp_path_factory) -> tuple[dict, Path]:
    """The experiment, run once; tests work on copies of its folder."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return run_experiment(str(miniature), out=str(out), extra=QUIET), out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def timeless(summary: dict) -> dict:
    return {name: value for name, value in summary.items() if name not in ("seconds", "peak_memory")}


@pytest.mark.slow
def test_the_summary_says_what_was_asked_for(finished):
    summary, out = finished
    assert json.loads((out / "summary.json").read_text()) == summary
    assert set(summary) == {
        *("reward_model", "last", "sft", "ppo", "splits", "differences", "seconds", "peak_memory", "seed", "versions")
    }
    assert list(summary["seconds"]) == STAGES
    assert summary["seed"] == 3
    assert {"lit_rlhf", "python", "torch", "lightning", "transformers"} <= summary["versions"].keys()
    reward = summary["reward_model"]
    assert 0 <= reward["accuracy_low"] < reward["accuracy"] <= 1
    assert reward["truly"] is not None
    rows = [json.loads(line) for line in (out / "ppo" / "metrics.jsonl").read_text().splitlines()]
    assert summary["last"]["kl"] == rows[-1]["train/kl"]
    assert summary["last"]["validated"] == [row["val/reward"] for row in rows if "val/reward" in row][-1]
    assert summary["sft"]["kl"] == 0.0 != summary["ppo"]["kl"]
    assert {"proxy_reward", "proxy_reward_low", "win_rate_vs_sft"} <= summary["ppo"].keys()


@pytest.mark.slow
def test_every_stage_leaves_what_the_next_one_and_people_need(finished):
    _, out = finished
    for stage in ("sft", "reward_model", "ppo"):
        assert (out / stage / "model" / "config.json").exists()
        assert (out / stage / "checkpoints" / "last.ckpt").exists()
        assert (out / stage / "metrics.jsonl").exists() or stage == "sft"  # too short for a line
        assert yaml.safe_load((out / stage / "fit.yaml").read_text())["seed_everything"] == 3
    for file in ("comparison.json", "samples.jsonl", "comparison.png", "training.png", "baselines/store/finished.json"):
        assert (out / file).stat().st_size > 0


@pytest.mark.slow
def test_a_second_call_does_nothing(finished, miniature, copied, ran):
    summary = run_experiment(str(miniature), out=str(copied), extra=QUIET)
    assert ran == []
    assert summary == finished[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed: 3", "seed: 4", STAGES),
        ("size: 64}}, batch_size: 16}", "size: 65}}, batch_size: 16}", STAGES[1:]),
        ("val_fraction: 0.25", "val_fraction: 0.5", STAGES[2:]),
        ("k: 2", "k: 3", ["baselines", "ppo", "compare"]),
        ("log_every_n_steps: 1", "log_every_n_steps: 2", ["ppo", "compare"]),
        ("histories: {ppo:", "histories: {again:", ["compare"]),
        ("steps: 5", "steps: 6", ["ppo", "compare"]),
        ("length: 6", "length: 7", ["baselines", "ppo", "compare"]),
        ("out: nowhere", "out: elsewhere", []),
    ],
)
def test_a_change_reruns_its_stage_and_those_that_build_on_it(miniature, copied, ran, old, new, expected):
    assert MINIATURE.count(old) == 1
    changed = miniature.with_name("changed.yaml")
    changed.write_text(MINIATURE.replace(old, new))
    before = {name: (copied / name / "done.json").read_text() for name in STAGES}
    run_experiment(str(changed), out=str(copied), extra=QUIET)
    assert ran == expected
    for name in STAGES:
        aside = copied / f"{name}~1"
        assert aside.exists() == (name in expected)
        assert ((aside if name in expected else copied / name) / "done.json").read_text() == before[name]


@pytest.mark.slow
def test_a_changed_config_file_or_option_for_all_stages_counts_as_well(miniature, copied, ran, tmp_path):
    run_experiment(str(miniature), out=str(copied), extra=[*QUIET, "--trainer.gradient_clip_val", "1"])
    assert ran == STAGES[1:]  # the first is no Lightning run
    ran.clear()
    place = Path(shutil.copytree(miniature.parent, tmp_path / "experiment"))
    (place / "parts" / "cpu.yaml").write_text("trainer: {accelerator: cpu, precision: 32-true}\n")
    run_experiment(str(place / "mini.yaml"), out=str(copied), extra=QUIET)
    assert ran == STAGES[1:]
    assert (copied / "sft~2").exists()


@pytest.mark.slow
def test_an_interrupted_stage_goes_on_and_ends_with_the_same_summary(
    finished, miniature, copied, dies_at, monkeypatch, capsys
):
    for stage in ("ppo", "compare"):
        shutil.rmtree(copied / stage)
    dies_at(PPOModule, 3)
    with pytest.raises(RuntimeError, match="went down"):
        run_experiment(str(miniature), out=str(copied), extra=QUIET)
    assert not (copied / "ppo" / "done.json").exists()
    assert not (copied / "ppo" / "model").exists()
    monkeypatch.undo()
    trained = []
    original = PPOModule.training_step
    monkeypatch.setattr(
        PPOModule, "training_step", lambda self, *args: trained.append(self.global_step) or original(self, *args)
    )
    summary = run_experiment(str(miniature), out=str(copied), extra=QUIET)
    assert trained == [2, 3, 4]
    assert timeless(summary) == timeless(finished[0])
    ours, theirs = (folder / "ppo" / "model" / "model.safetensors" for folder in (copied, finished[1]))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_a_stage_that_was_killed_when_all_but_done_reports_the_same(finished, miniature, copied):
    for stage in ("reward_model", "ppo"):
        (copied / stage / "done.json").unlink()
    shutil.rmtree(copied / "reward_model" / "model")
    summary = run_experiment(str(miniature), out=str(copied), extra=QUIET)
    assert timeless(summary) == timeless(finished[0])
    ours, theirs = (folder / "reward_model" / "model" / "config.json" for folder in (copied, finished[1]))
    assert json.loads(ours.read_text())["calibration"] == json.loads(theirs.read_text())["calibration"]


@pytest.mark.parametrize("text", ["1e5", "4748415884271e96", "-1.5e3", "012", "no", "1_000", "2024-01-01"])
def test_texts_that_look_like_something_else_reach_a_stage_as_texts(monkeypatch, write_experiment, tmp_path, text):
    built = []

    def build(args):
        built.append(make_cli(args[1:], run=False))
        return SimpleNamespace(trainer=SimpleNamespace(interrupted=False, callback_metrics={}, callbacks=[]))

    monkeypatch.setattr("lit_rlhf.cli.stage.run_stage", build)
    source = "{class_path: lit_rlhf.world.WorldPrompts, init_args: {size: 5, name: '${text}'}}"
    model = "{class_path: SFTModule, init_args: {model: '${text}'}}"
    stage = f"{{name: a, command: fit, options: {{model: {model}, data: {{sources: {source}}}}}}}"
    file = write_experiment(tmp_path / "x.yaml", stage, variables={"text": text})
    run_experiment(file, out=str(tmp_path / text))
    (cli,) = built
    assert cli.model.path == cli.datamodule.sources[0].name == cli.trainer.logger._wandb_init["group"] == text


def test_deep_merge():
    first = {"a": {"b": 1, "c": {"d": 2}}, "e": [1], "f": {"g": 1}}
    second = {"a": {"b": 3, "c": {"x": 4}}, "e": [2], "f": 5, "h": 6}
    assert _merged(first, second) == {"a": {"b": 3, "c": {"d": 2, "x": 4}}, "e": [2], "f": 5, "h": 6}
    assert first == {"a": {"b": 1, "c": {"d": 2}}, "e": [1], "f": {"g": 1}}


def test_processes_that_read_a_stage_s_options_find_them_whole_while_another_writes_them(tmp_path, monkeypatch):
    stage = SimpleNamespace(directory=tmp_path, name="sft", command="fit", config=[], options={"x": 1}, key="k")
    (tmp_path / "stage.yaml").write_text("whole")
    write = Path.write_text

    def dies(path, text, *rest):
        write(path, text[:3], *rest)
        raise RuntimeError("the machine went down")

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(RuntimeError, match="went down"):
        _run_lightning(stage, "any", 0, [])  # type: ignore[arg-type]
    assert (tmp_path / "stage.yaml").read_text() == "whole"
