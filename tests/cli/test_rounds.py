"""The experiment with rounds of PPO and MetaRM, small: what its rounds hand on, and that a killed one goes on."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lit_rlhf.cli import experiment
from lit_rlhf.cli.experiment import run_experiment
from lit_rlhf.policy import PPOModule

FILE = str(Path(__file__).parents[2] / "configs" / "experiments" / "rounds.yaml")
SMALL = {
    **{"rounds": 2, "plain_rounds": 1, "preset": "tiny", "demonstrations": 64, "pairs": 160, "prompts": 16},
    **{"iterations": 3, "sampled_prompts": 16, "judged_prompts": 8, "unseen_prompts": 2, "new_tokens": 6},
}
QUIET = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--checkpoint.every_n_train_steps", "1"]


def run(out: Path) -> dict:
    summary = run_experiment(FILE, out=str(out), variables=SMALL, extra=QUIET)
    return {name: value for name, value in summary.items() if name != "seconds"}


def options(folder: Path) -> dict:
    """What a stage's model was given."""
    return yaml.safe_load((folder / "stage.yaml").read_text())["model"]["init_args"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("rounds") / "run"
    return run(out), out


@pytest.mark.slow
def test_each_round_takes_over_what_the_one_before_left(finished):
    _, out = finished
    sft, reward = str(out / "sft" / "model"), str(out / "reward_model" / "model")
    first, second = options(out / "meta_1_ppo"), options(out / "meta_2_ppo")
    assert (first["policy"], first["critic"], first["reward"]["init_args"]["model"]) == (sft, reward, reward)
    assert second["policy"] == str(out / "meta_1_ppo" / "model")
    made = str(out / "meta_1_reward" / "model")
    assert (second["critic"], second["reward"]["init_args"]["model"]) == (made, made)
    assert options(out / "meta_2_reward")["samples"] == str(out / "meta_2_samples" / "store")
    assert first["seed"] != second["seed"]
    references = [
        torch.load(out / f"meta_{number}_ppo" / "checkpoints" / "last.ckpt", weights_only=False)["ppo"]["reference"]
        for number in (1, 2)
    ]
    assert references[0] == references[1]


@pytest.mark.slow
def test_the_arms_share_their_first_round_and_the_report_has_every_round(finished):
    summary, out = finished
    ours, theirs = (out / f"{arm}_1_ppo" / "model" / "model.safetensors" for arm in ("meta", "plain"))
    assert ours.read_bytes() == theirs.read_bytes()
    figures = summary["rounds"]
    assert {arm: list(each) for arm, each in figures.items()} == {"meta": ["0", "1", "2"], "plain": ["0", "1"]}
    assert figures["plain"]["1"]["spread_before"] == figures["plain"]["1"]["spread_after"]
    assert figures["meta"]["1"]["spread_before"] == figures["plain"]["1"]["spread_before"]
    assert figures["meta"]["1"]["spread_before"] != figures["meta"]["1"]["spread_after"]
    assert {"gold_reward", "proxy_gain", "win_rate", "kl", "true_accuracy_after"} <= figures["meta"]["2"].keys()
    assert {"sft", "meta_1", "meta_2", "plain_1"} <= summary.keys()
    for file in ("rounds.png", "comparison.png", "meta_2_judged/comparison.png"):
        assert (out / file).stat().st_size > 0


@pytest.mark.slow
def test_a_run_that_was_killed_in_the_second_round_ends_with_the_same_files(finished, tmp_path, dies_at, monkeypatch):
    expected, there = finished
    out = Path(shutil.copytree(there, tmp_path / "run"))
    for path in out.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name.startswith(("meta_2", "report", "compare")):
            shutil.rmtree(path)
    dies_at(PPOModule, 2)
    with pytest.raises(RuntimeError, match="went down"):
        run(out)
    assert (out / "meta_2_ppo" / "checkpoints" / "last.ckpt").exists()
    assert not (out / "meta_2_ppo" / "done.json").exists()
    monkeypatch.undo()
    ran, trained = [], []
    run_now, step = experiment._run_now, PPOModule.training_step
    monkeypatch.setattr(experiment, "_run_now", lambda stage, *rest: ran.append(stage.name) or run_now(stage, *rest))
    monkeypatch.setattr(
        PPOModule, "training_step", lambda self, *args: trained.append(self.global_step) or step(self, *args)
    )
    assert run(out) == expected
    assert ran == [*(f"meta_2_{stage}" for stage in ("ppo", "judged", "samples", "reward")), "report", "compare"]
    assert trained == [2]
    for name in ("meta_2_ppo/model/model.safetensors", "meta_2_reward/model/model.safetensors"):
        assert (out / name).read_bytes() == (there / name).read_bytes()
    for name in ("rounds.json", "comparison.json", "samples.jsonl", "meta_2_judged/comparison.json"):
        assert (out / name).read_bytes() == (there / name).read_bytes()
