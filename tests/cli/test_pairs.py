"""The experiment for one's own pairs and model, from end to end: on one trunk, and with all weights."""

import json
from pathlib import Path

import pytest

from lit_rlhf.cli.experiment import run_experiment
from lit_rlhf.world import WorldPairs

EXPERIMENT = Path(__file__).parents[2] / "configs" / "experiments" / "pairs.yaml"
QUIET = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
ALL_WEIGHTS = {"lora": None, "sft_lr": 1e-5, "reward_lr": 1e-5, "policy_lr": 1e-6, "critic_lr": 5e-6}


def run(folder: Path, model: str, **variables) -> dict:
    """Two iterations of everything on forty pairs."""
    pairs = [
        {"prompt": record.prompt[-1].content, "chosen": record.chosen, "rejected": record.rejected}
        for record in WorldPairs(40).records()
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    sizes = {"iterations": 2, "new_tokens": 6, "max_length": 128, "prompt_length": 80}
    given = {"pairs": str(folder / "pairs.jsonl"), "model": model, **sizes, **variables}
    return run_experiment(str(EXPERIMENT), str(folder / "run"), variables=given, extra=QUIET)


def adapters(folder: Path, stage: str) -> str:
    """Fingerprint of the weights that a stage's adapters lie on."""
    return json.loads((folder / "run" / stage / "model" / "adapters" / "base.json").read_text())["fingerprint"]


@pytest.mark.slow
def test_all_stages_share_the_fine_tuned_weights(tiny_model, tmp_path, monkeypatch):
    from lit_rlhf.policy.actor_critic import AdapterScores

    shared = []
    original = AdapterScores.__init__
    monkeypatch.setattr(AdapterScores, "__init__", lambda self, *given: shared.append(original(self, *given)))
    summary = run(tmp_path, tiny_model)
    assert {"sft", "ppo", "contrastive_ppo"} <= summary.keys()
    assert adapters(tmp_path, "reward_model") == adapters(tmp_path, "ppo") == adapters(tmp_path, "contrastive_ppo")
    assert adapters(tmp_path, "sft") != adapters(tmp_path, "ppo"), "fine-tuning changed them"
    assert len(shared) >= 2, "the reward model lies on the trunk of both"


@pytest.mark.slow
def test_all_weights_are_trained_where_lora_is_null(tiny_model, tmp_path):
    critic = str(tmp_path / "run" / "reward_model" / "model")
    summary = run(tmp_path, tiny_model, critic=critic, **ALL_WEIGHTS)
    assert {"sft", "ppo", "contrastive_ppo"} <= summary.keys()
    assert not list((tmp_path / "run").glob("*/model/adapters"))
