"""Every way of training under bf16 autocast, as on a GPU: much the same numbers as in fp32, with weights in fp32."""

import json
import math

import pytest
import torch
from lightning import Trainer

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.policy import SFTModule
from lit_rlhf.world import WorldDemonstrations

CASES = {
    "sft": ("policy.SFTModule", {}),
    "scalar": ("rewards.ScalarRewardModule", {}),
    "lora": ("rewards.ScalarRewardModule", {"lora": {"r": 4}}),
    "simcse": ("rewards.ContrastiveRewardModule", {"dropout": 1e-9}),
    "swav": ("rewards.ContrastiveRewardModule", {"dropout": 1e-9, "objective": "swav"}),
    "meta": ("rewards.MetaRewardModule", {"inner_lr": 0.01, "inner_step": "relative"}),
    "seq2seq": ("rewards.Seq2SeqRewardModule", {"examples": 1}),
    "ppo": ("policy.PPOModule", {}),
    "trunk": ("policy.PPOModule", {"lora": {"r": 4}}),
}


def options(case: str, model: str, scorer: str, samples: str, precision: str) -> dict:
    module, given = CASES[case]
    source = "WorldPrompts" if case in ("ppo", "trunk") else "WorldPairs"
    given = {**given, "optimizer": {"lr": 1e-3, "warmup": 0.0, "schedule": "constant"}}
    if source == "WorldPrompts":
        reward = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": scorer}}
        given |= {
            "policy": model,
            "reward": reward,
            "sampling": {"max_new_tokens": 5},
            "settings": {"minibatch_size": 2},
        }
        given |= {} if "lora" in given else {"critic": scorer}
    else:
        given |= {"model": model} | (
            {"samples": samples, "inner_batch_size": 2, "max_grad_norm": 0.5} if case == "meta" else {}
        )
    by_hand = case in ("ppo", "trunk", "meta")  # they clip by themselves
    clip = {} if by_hand else {"gradient_clip_val": 0.5}
    return {
        "model": {"class_path": f"lit_rlhf.{module}", "init_args": given},
        "data": {
            "sources": {"class_path": f"lit_rlhf.world.{source}", "init_args": {"size": 12}},
            "batch_size": 4,
            "val_fraction": 0.0,
            "max_length": 256,
        },
        "trainer": {"max_steps": 2, "max_epochs": -1, "log_every_n_steps": 1, "precision": precision, **clip},
    }


@pytest.mark.parametrize("case", CASES)
def test_training_in_bf16_is_much_like_training_in_fp32(case, lit, tiny_model, tiny_reward_model, samples, tmp_path):
    lines = {}
    for precision in ("32-true", "bf16-mixed"):
        cli = lit("fit", tmp_path / precision, options(case, tiny_model, tiny_reward_model, samples, precision))
        lines[precision] = [json.loads(line) for line in (tmp_path / precision / "metrics.jsonl").open()]
        kept = [each for each in cli.model.parameters() if each.requires_grad]
        assert {each.dtype for each in kept} == {torch.float32}
        assert all(bool(each.isfinite().all()) for each in kept)
    exact, rough = (lines[precision][0] for precision in ("32-true", "bf16-mixed"))
    if case in ("ppo", "trunk"):  # which samples other words
        assert exact["train/first_ratio"] == rough["train/first_ratio"] == 1.0
        assert all(math.isfinite(value) for value in rough.values())
    else:
        assert rough["train/loss"] == pytest.approx(exact["train/loss"], rel=0.05)
    assert len(lines["bf16-mixed"]) == 2


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("case", CASES)
def test_weights_in_half_precision_are_refused_in_words(
    case, precision, lit, tiny_model, tiny_reward_model, samples, tmp_path
):
    for command in ("fit", "validate", "test"):
        given = options(case, tiny_model, tiny_reward_model, samples, precision)
        with pytest.raises(DataError, match=rf"precision: is {precision}.*\n.*bf16-mixed.*dtype of ScalarReward"):
            lit(command, tmp_path / command, given)


def test_baselines_refuse_them_too(lit, tiny_model, tiny_reward_model, tmp_path):
    given = {"policy": tiny_model, "reward": None, "store": str(tmp_path / "store")}
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 2}}
    model = {"class_path": "lit_rlhf.policy.BaselineModule", "init_args": given}
    with pytest.raises(DataError, match=r"trainer\.precision: is bf16-true"):
        lit("predict", tmp_path, {"model": model, "data": {"sources": source}, "trainer": {"precision": "bf16-true"}})
    module, data = (
        SFTModule(tiny_model),
        PreferenceDataModule(WorldDemonstrations(4), tokenizer=tiny_model, view="responses", max_length=200),
    )
    with pytest.raises(DataError, match=r"trainer\.precision: is 64-true"):  # without the command line
        Trainer(precision="64-true", accelerator="cpu", logger=False, barebones=True).fit(module, data)
