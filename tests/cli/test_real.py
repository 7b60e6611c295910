"""The experiment on a real chat model, run on the tiny preset of the embedded world."""

import json
from pathlib import Path

import pytest
import yaml

from lit_rlhf.cli.experiment import run_experiment
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.policy.actor_critic import AdapterScores, SharedTrunk
from lit_rlhf.rewards import ScalarReward
from lit_rlhf.world import write_base_model
from lit_rlhf.world.checked import CHECKED_WEIGHTS

EXPERIMENT = Path(__file__).parents[2] / "configs" / "experiments" / "real.yaml"
SMALL = {
    **{"sampled": 27, "prompts": 12, "iterations": 2, "batch": 6, "val_prompts": 9, "unseen_prompts": 5},
    **{"new_tokens": 12, "rank": 2, "trainer": "../trainer/cpu.yaml"},
}
QUIET = [
    "--trainer.logger",
    "false",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.enable_model_summary",
    "false",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Summary and folder of the whole experiment."""
    folder = tmp_path_factory.mktemp("real")
    write_base_model(str(folder / "base"), "tiny")
    variables = {**SMALL, "model": str(folder / "base")}
    return run_experiment(str(EXPERIMENT), out=str(folder / "run"), variables=variables, extra=QUIET), folder / "run"


@pytest.mark.slow
def test_the_summary_has_the_form_of_the_demos(finished):
    summary, folder = finished
    assert json.loads((folder / "summary.json").read_text()) == summary
    figures = {
        "gold_reward",
        "gold_reward_low",
        "gold_reward_high",
        "proxy_reward",
        "kl",
        "truncated",
        "win_rate_vs_base",
    }
    for policy in ("base", "ppo", "contrastive_ppo"):
        assert figures | {f"gold/{name}" for name in CHECKED_WEIGHTS} <= summary[policy].keys()
        assert (
            summary[policy]["gold_reward_low"] <= summary[policy]["gold_reward"] <= summary[policy]["gold_reward_high"]
        )
    assert summary["base"]["kl"] == 0.0
    assert list(summary["splits"]) == ["unseen_topics", "unseen_wording", "unseen_kinds"]
    assert "contrastive_ppo - ppo" in summary["differences"]
    assert {"seconds", "seed", "versions"} <= summary.keys()
    assert 0.1 < summary["peak_memory"] < 20
    assert summary["reward_model"]["accuracy_true_labels"] is not None
    assert {path.name for path in folder.glob("*.png")} >= {"comparison.png", "training.png"}


@pytest.mark.slow
def test_stages_see_prompts_of_their_own(finished):
    _, folder = finished
    first, second = (
        [row["prompt"] for row in Store(folder / name / "store").rows()] for name in ("samples", "baselines")
    )
    assert (len(first), len(second)) == (SMALL["sampled"], SMALL["prompts"])
    trained = {*first, *second}
    assert len(trained) == len(first) + len(second)
    judged = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(judged) == 3 * (SMALL["val_prompts"] + 3 * SMALL["unseen_prompts"])
    assert not trained & {row["prompt"] for row in judged}


@pytest.mark.slow
def test_policy_and_reward_model_stand_on_one_trunk(finished):
    _, folder = finished
    base = str(folder.parent / "base")
    trunk = SharedTrunk(base, base, LoRA(r=2), with_critic=True)
    reward = ScalarReward(str(folder / "reward_model" / "model")).load(Renderer.load(base), trunk.reference_fingerprint)
    trunk.lend(reward)
    assert isinstance(reward.model.network, AdapterScores)


def test_each_stage_draws_at_the_same_temperature():
    stages = yaml.safe_load(EXPERIMENT.read_text("utf-8"))["stages"]

    def samplings(value):
        if isinstance(value, dict):
            found = [value["sampling"]] if "sampling" in value else []
            return [*found, *(each for part in value.values() for each in samplings(part))]
        return [each for part in value for each in samplings(part)] if isinstance(value, list) else []

    found = [(s["max_new_tokens"], s["temperature"]) for s in samplings(stages)]
    assert found == [("${new_tokens}", "${temperature}")] * 5
