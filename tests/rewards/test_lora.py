"""Reward modules that train adapters: checkpoints, resuming and export."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.data.batches import PairBatch, Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards import ContrastiveRewardModule, RewardModel, ScalarRewardModule

MODULES = {"ScalarRewardModule": ScalarRewardModule, "ContrastiveRewardModule": ContrastiveRewardModule}


def options(folder, model: str, module: str = "ScalarRewardModule", **init) -> dict:
    source = lambda **given: {"class_path": "lit_rlhf.world.WorldPairs", "init_args": given}  # noqa: E731
    given = {"model": model, "optimizer": {"lr": 1e-2}, "lora": {"r": 4, "dropout": 0.1}, **init}
    return {
        "model": {"class_path": module, "init_args": given},
        "data": {"sources": source(size=32), "val_sources": source(size=6, split="val"), "batch_size": 8},
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1},
        "export": {"directory": str(folder / "model")},
        "checkpoint": {"every_n_train_steps": 2},
    }


def last(folder) -> str:
    return str(folder / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def trained(lit, write_model, tmp_path_factory):
    """A finished run on GPT-2, whose dropout and transposed weights make it the hardest."""
    folder = tmp_path_factory.mktemp("lora")
    return lit("fit", folder, options(folder, write_model("gpt2"))), folder


def test_a_checkpoint_holds_what_was_trained_and_nothing_else(trained):
    cli, folder = trained
    names = torch.load(last(folder), weights_only=False)["state_dict"]
    assert names.keys() == {
        name for name, each in cli.model.named_parameters(remove_duplicate=False) if each.requires_grad
    }
    assert {name for name in names if "lora_" not in name} == {"network.model.score.weight", "network.head.weight"}
    optimised = [each for group in cli.trainer.optimizers[0].param_groups for each in group["params"]]
    assert {id(each) for each in optimised} == {id(each) for each in cli.model.parameters() if each.requires_grad}


def test_training_moves_adapters_and_head_and_leaves_the_rest(trained, write_model):
    cli, _ = trained
    start = RewardNetwork(write_model("gpt2")).state_dict()
    now = {name.replace(".base_layer", ""): each for name, each in cli.model.network.state_dict().items()}
    frozen = [name for name in start if "score" not in name and "head" not in name]
    assert len(frozen) > 20
    assert all(torch.equal(now[name], start[name]) for name in frozen)
    moved = [each for name, each in now.items() if "lora_B" in name]
    assert len(moved) == 8
    assert all(each.abs().max() > 0 for each in moved)


def test_the_export_is_a_plain_model_with_equal_scores(trained):
    cli, folder = trained
    batch = next(iter(cli.datamodule.val_dataloader())).chosen
    theirs = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    with torch.no_grad():
        expected = cli.model.network.eval()(batch)
        ids = torch.where(batch.mask, batch.ids, theirs.config.pad_token_id)
        logits = theirs(input_ids=ids, attention_mask=batch.mask.long()).logits[:, 0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01
    assert theirs.config.calibration["std"] > 0


@pytest.mark.parametrize("module", MODULES)
def test_a_resumed_run_equals_one_that_never_stopped(lit, write_model, dies_at, monkeypatch, tmp_path, module):
    init = {"objective": "swav", "contrast": "differences"} if module == "ContrastiveRewardModule" else {}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    lit("fit", whole, options(whole, write_model("gpt2"), module, **init))
    given = options(broken, write_model("gpt2"), module, **init)
    dies_at(MODULES[module], 3)
    with pytest.raises(RuntimeError, match="went down"):
        lit("fit", broken, given)
    monkeypatch.undo()
    cli = lit("fit", broken, given, "--ckpt_path", last(broken))
    assert cli.trainer.global_step == 4
    lines = [without_throughput((folder / "metrics.jsonl").read_text()) for folder in (broken, whole)]
    assert lines[0] == lines[1]
    weights = "model/model.safetensors"
    assert (broken / weights).read_bytes() == (whole / weights).read_bytes()


def other_base(write_model, folder) -> str:
    """GPT-2 with one number changed."""
    path = write_model("gpt2")
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 5] += 1
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("changed", ["base", "r", "alpha", "targets", None])
def test_a_checkpoint_of_other_adapters_is_refused(lit, trained, write_model, tmp_path, changed):
    changes = {"base": None, "r": {"r": 8}, "alpha": {"alpha": 1.0}, "targets": {"targets": ["c_attn"]}, None: None}
    lora = {"r": 4, "dropout": 0.1, **(changes[changed] or {})}
    model = other_base(write_model, tmp_path / "other") if changed == "base" else write_model("gpt2")
    given = options(tmp_path, model, lora=lora if changed else None)
    given["trainer"]["max_epochs"] = 2
    named = {"base": "the checkpoint's adapters have base", None: "lora"}.get(changed, f"lora.{changed}")
    with pytest.raises(DataError, match=named):
        lit("fit", tmp_path / "run", given, "--ckpt_path", last(trained[1]))


def test_a_checkpoint_that_lacks_a_trained_weight_is_refused(lit, trained, write_model, tmp_path):
    given = options(tmp_path, write_model("gpt2"), "ContrastiveRewardModule", objective="swav")
    given["trainer"]["max_epochs"] = 2
    with pytest.raises(DataError, match=r"options|adapters have trained"):
        lit("fit", tmp_path / "run", given, "--ckpt_path", last(trained[1]))


def test_a_checkpoint_without_adapters_is_refused_by_a_run_with_them(lit, write_model, tmp_path):
    lit("fit", tmp_path, options(tmp_path, write_model("gpt2"), lora=None))
    given = options(tmp_path, write_model("gpt2"))
    given["trainer"]["max_epochs"] = 2
    with pytest.raises(DataError, match="lora"):
        lit("fit", tmp_path / "run", given, "--ckpt_path", last(tmp_path))


def padding_ends_turns(path: str, folder) -> str:
    """A base model whose padding token is the one that ends a turn."""
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_adapters_alone_score_as_the_export_does_with_template_padding_and_calibration(lit, write_model, tmp_path):
    given = options(tmp_path, padding_ends_turns(write_model("gpt2"), tmp_path / "base"))
    given["data"]["template"] = "dialogue"
    lit("fit", tmp_path, given)
    whole, alone = (RewardModel.load(tmp_path / name) for name in ("model", "model/adapters"))
    assert alone.calibration == whole.calibration is not None
    assert alone.renderer.fingerprint == whole.renderer.fingerprint
    texts = ["One", "Two three four five six seven.", ""]
    assert alone.score(["Hello there"] * 3, texts) == pytest.approx(whole.score(["Hello there"] * 3, texts), abs=1e-4)


def test_a_few_pairs_at_a_time_give_the_step_of_the_whole_batch(lit, tiny_model, tmp_path):
    found = []
    for size in (None, 3):
        given = options(tmp_path / str(size), tiny_model, lora={"r": 4}, micro_batch_size=size)
        given["trainer"] = {"max_steps": 2, "log_every_n_steps": 1, "gradient_clip_val": 0.1}
        found.append(lit("fit", tmp_path / str(size), given))
    metrics = [cli.trainer.callback_metrics for cli in found]
    assert float(metrics[0]["train/loss"]) == pytest.approx(float(metrics[1]["train/loss"]), abs=1e-5)
    assert float(metrics[0]["train/accuracy"]) == float(metrics[1]["train/accuracy"])
    weights = [cli.model.state_dict() for cli in found]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-4, rtol=1e-3)


def test_a_step_of_a_few_pairs_keeps_less_for_the_way_back(tiny_model, monkeypatch):
    """The most tokens that are computed between two ways back."""

    def cut(rows: int, size: int | None) -> list[int]:
        seen = []
        module = ScalarRewardModule(tiny_model, micro_batch_size=size)
        module.network = RewardNetwork(tiny_model)
        monkeypatch.setattr(
            module, "features", lambda batch: seen.append(len(batch)) or torch.zeros(2 * len(batch), 32)
        )
        ids = torch.ones(rows, 4, dtype=torch.long)
        row = Sequences(ids, torch.full((rows,), 2), torch.full((rows,), 4))
        numbers = torch.zeros(rows)
        whole = PairBatch(row, row, numbers, numbers.bool(), numbers, numbers + 1, numbers, [None] * rows)
        module.training_loss(whole)
        return seen

    assert cut(7, None) == [7]
    assert cut(7, 3) == [3, 3, 1]
    assert cut(3, 3) == [3]
