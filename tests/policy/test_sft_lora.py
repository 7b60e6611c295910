"""Supervised fine-tuning of adapters: checkpoints, resuming, export, and what goes on from there."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.policy import SFTModule
from lit_rlhf.rewards import RewardModel

LORA = {"r": 4, "alpha": 8.0, "dropout": 0.1}


def options(folder, model: str, **init) -> dict:
    demonstrations = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 40}}
    given = {"model": model, "optimizer": {"lr": 1e-2}, "lora": LORA, **init}
    return {
        "model": {"class_path": "SFTModule", "init_args": given},
        "data": {"sources": demonstrations, "val_fraction": 0.2, "batch_size": 8},
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1},
        "export": {"directory": str(folder / "model")},
        "checkpoint": {"every_n_train_steps": 2},
    }


def last(folder) -> str:
    return str(folder / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module", params=["gpt2", "qwen2"])
def trained(request, lit, write_model, tmp_path_factory):
    """A finished run: one model with dropout and tied weights, one whose output layer is its own."""
    folder = tmp_path_factory.mktemp("sft_lora")
    model = write_model(request.param)
    return lit("fit", folder, options(folder, model)), folder, model


def test_adapters_alone_are_trained_and_kept(trained):
    cli, folder, model = trained
    names = torch.load(last(folder), weights_only=False)["state_dict"]
    assert names
    assert all(".lora_" in name for name in names)
    assert names.keys() == {name for name, each in cli.model.named_parameters() if each.requires_grad}
    start = load_model(model, "causal").state_dict()
    now = {name.replace(".base_layer", ""): each for name, each in cli.model.network.model.state_dict().items()}
    assert all(torch.equal(now[name], start[name]) for name in start)


def test_the_export_is_a_plain_model_and_peft_makes_the_same_of_its_adapters(trained):
    cli, folder, model = trained
    ids = torch.arange(6, 30)[None]
    with torch.no_grad():
        expected = cli.model.network.eval().model(input_ids=ids).logits
        exported = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        untouched = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, folder / "model" / "adapters").eval()
        torch.testing.assert_close(exported(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(adapted(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert (untouched - expected).abs().max() > 0.01


def test_a_resumed_run_equals_one_that_never_stopped(lit, trained, dies_at, monkeypatch, tmp_path):
    finished, whole, model = trained
    given = options(tmp_path, model)
    dies_at(SFTModule, 3)
    with pytest.raises(RuntimeError, match="went down"):
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    assert (
        lit("fit", tmp_path, given, "--ckpt_path", last(tmp_path)).trainer.global_step == finished.trainer.global_step
    )
    for file in ("model.safetensors", "adapters/adapter_model.safetensors"):
        assert (tmp_path / "model" / file).read_bytes() == (whole / "model" / file).read_bytes()


@pytest.mark.parametrize("lora", [{**LORA, "r": 2}, None])
def test_a_checkpoint_of_other_adapters_is_refused(lit, trained, lora, tmp_path):
    _, folder, model = trained
    given = options(tmp_path, model, lora=lora)
    given["trainer"]["max_epochs"] = 2
    with pytest.raises(DataError, match="lora"):
        lit("fit", tmp_path / "run", given, "--ckpt_path", last(folder))


def test_lit_rlhf_export_makes_the_same_of_the_checkpoint(trained, tmp_path):
    from lit_rlhf.cli.export import export

    _, folder, _ = trained
    export(last(folder), str(tmp_path / "model"))
    for file in ("model.safetensors", "adapters/adapter_model.safetensors"):
        assert (tmp_path / "model" / file).read_bytes() == (folder / "model" / file).read_bytes()


@pytest.mark.parametrize("reference", [None, "base"])
def test_policy_optimisation_starts_from_it_on_its_own_weights_or_on_the_bases(
    lit, ppo_options, tiny_model, tmp_path, reference
):
    """Below the adapters lie the fine-tuned weights, or the base's: then those of fine-tuning are gone on with."""
    lora = {"r": 4, "alpha": 8.0}
    lit("fit", tmp_path / "sft", options(tmp_path / "sft", tiny_model, lora={**lora, "dropout": 0.1}))
    policy = str(tmp_path / "sft" / "model")
    reward = {"class_path": "lit_rlhf.rewards.GoldReward"}
    given = {"policy": policy, "reward": reward, "critic": None, "judge": None, "lora": lora}
    given["reference"] = tiny_model if reference else None
    module = lit("fit", tmp_path / "ppo", ppo_options(1, optimizer={"lr": 0.0}, **given)).model
    ids = torch.arange(6, 30)[None]
    with torch.no_grad():
        expected = load_model(policy, "causal")(ids).logits
        torch.testing.assert_close(module.networks.policy.model(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert module.networks.path == (tiny_model if reference else policy)


def test_a_folder_of_adapters_is_a_policy_and_a_reward_model(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, options(tmp_path, tiny_model))
    ids = torch.arange(6, 30)[None]
    with torch.no_grad():
        logits = [load_model(str(tmp_path / name), "causal")(ids).logits for name in ("model", "model/adapters")]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    pairs = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 16}}
    reward = tmp_path / "reward"
    init = {"model": str(tmp_path / "model"), "lora": {"r": 2}, "optimizer": {"lr": 1e-2}}
    lit("fit", reward, {
        "model": {"class_path": "ScalarRewardModule", "init_args": init},
        "data": {"sources": pairs, "batch_size": 8},
        "trainer": {"max_epochs": 1},
        "export": {"directory": str(reward / "model")},
    })  # fmt: skip
    found = [RewardModel.load(reward / name) for name in ("model", "model/adapters")]
    scores = [each.score(["Hello"] * 2, ["a", "b c"]) for each in found]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


# ---------------------------------------------------------------------- rows a few at a time


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_a_few_rows_at_a_time_give_the_step_of_the_whole_batch(lit, tiny_model, lora, tmp_path):
    found = {}
    for size in (None, 3):
        given = options(tmp_path / str(size), tiny_model, lora=lora, micro_batch_size=size)
        given["trainer"] = {"max_steps": 2, "log_every_n_steps": 1, "gradient_clip_val": 0.1}
        cli = lit("fit", tmp_path / str(size), given)
        found[size] = cli.model.state_dict(), float(cli.trainer.callback_metrics["train/loss"])
    assert found[3][1] == pytest.approx(found[None][1], abs=1e-5)
    start = load_model(tiny_model, "causal").state_dict()
    for name, value in found[None][0].items():
        torch.testing.assert_close(found[3][0][name], value, atol=2e-4, rtol=1e-3)
    moved = [name for name, each in found[None][0].items() if not torch.equal(each, start.get(name[14:], each + 1))]
    assert moved
