"""The best checkpoint: kept where a validation metric is monitored, over resumes, and exported when asked for."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lit_rlhf.cli.best import Best
from lit_rlhf.cli.export import export
from lit_rlhf.data.errors import DataError
from lit_rlhf.policy import PPOModule, SFTModule

LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.0, 5: 4.0}
"""What validation finds behind each step; the best is that of step 2."""


@pytest.fixture
def given(tiny_model, monkeypatch) -> dict:
    """Demonstrations in five steps, each followed by a validation whose loss is known."""

    def validate(self, batch, batch_idx) -> None:
        self.log("val/loss", torch.tensor(LOSSES[self.trainer.global_step]))

    monkeypatch.setattr(SFTModule, "validation_step", validate)
    source = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 40}}
    val = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 2, "split": "val"}}
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": tiny_model, "optimizer": {"lr": 1e-2}}},
        "data": {"sources": source, "val_sources": val, "batch_size": 8},
        "trainer": {"max_epochs": 1, "check_val_every_n_epoch": None, "val_check_interval": 1},
    }


def kept(folder) -> dict:
    return torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)


def test_the_best_of_all_validations_is_kept_beside_the_last(lit, given, tmp_path, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    lit("fit", tmp_path, given)
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert kept(tmp_path)["global_step"] == 2
    assert kept(tmp_path)["run"]["metrics"]["val/loss"] == 1.0
    assert f"best by val/loss (1), step 2: {tmp_path / 'checkpoints' / 'best.ckpt'}" in caplog.text


@pytest.mark.parametrize(("mode", "step"), [("max", 5), ("min", 2), (None, 2)])
def test_whether_low_or_high_is_better_can_be_said(lit, given, tmp_path, mode, step):
    words = () if mode is None else ("--best.mode", mode)
    lit("fit", tmp_path, given, "--best.monitor", "val/perplexity", *words)
    assert kept(tmp_path)["global_step"] == step
    assert kept(tmp_path)["callbacks"]["Best"]["name"] == "val/perplexity"


def test_a_metric_that_is_not_measured_is_refused_by_name(lit, given, tmp_path):
    with pytest.raises(DataError, match=r"(?s)'val/accuracy' is not measured.*There are: val/loss, val/perplexity"):
        lit("fit", tmp_path, given, "--best.monitor", "val/accuracy")


@pytest.mark.parametrize("death", [1, 2, 3, 4])
def test_a_resumed_run_keeps_the_best(lit, given, monkeypatch, tmp_path, death):
    words = ("--checkpoint.every_n_train_steps", "1")
    with monkeypatch.context() as patch:
        patch.setattr(SFTModule, "on_train_batch_start", stop_at(death))
        with pytest.raises(RuntimeError, match="went down"):
            lit("fit", tmp_path, given, *words)
    lit("fit", tmp_path, given, *words, "--ckpt_path", "last")
    lit("fit", tmp_path / "whole", given, *words)
    assert kept(tmp_path)["global_step"] == 2
    whole = kept(tmp_path / "whole")["state_dict"]
    assert all(torch.equal(value, whole[name]) for name, value in kept(tmp_path)["state_dict"].items())


def stop_at(step: int):
    def hook(self, batch, batch_idx) -> None:
        if self.trainer.global_step == step:
            raise RuntimeError("the machine went down")

    return hook


def test_the_best_of_a_run_in_another_folder_is_not_taken_for_this_ones(lit, given, monkeypatch, tmp_path, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(SFTModule, "on_train_batch_start", stop_at(3))
        with pytest.raises(RuntimeError, match="went down"):
            lit("fit", tmp_path / "one", given, "--checkpoint.every_n_train_steps", "1")
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    lit("fit", tmp_path / "two", given, "--ckpt_path", str(tmp_path / "one" / "checkpoints" / "last.ckpt"))
    assert kept(tmp_path / "two")["global_step"] == 4
    assert "the best checkpoint so far (step 2) is not in" in caplog.text


def test_a_new_run_does_not_keep_an_earlier_runs_best(lit, given, tmp_path):
    lit("fit", tmp_path, given)
    del given["data"]["val_sources"]
    lit("fit", tmp_path, given | {"data": given["data"] | {"val_fraction": 0.0}})
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


OWN = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}


@pytest.mark.parametrize("case", ["not enabled", "own callback", "monitored by ours", "no checkpoints", "fast_dev_run"])
def test_where_the_user_keeps_the_best_or_wants_none_there_is_none_of_ours(lit, given, tmp_path, case):
    words: tuple[str, ...] = ()
    match case:
        case "not enabled":
            words = ("--best.enabled", "false")
        case "own callback":
            own = OWN | {"init_args": {"monitor": "val/loss", "dirpath": str(tmp_path / "own"), "filename": "mine"}}
            given["trainer"]["callbacks"] = [own]
        case "monitored by ours":
            words = ("--checkpoint.monitor", "val/loss", "--checkpoint.save_top_k", "1")
            words += ("--checkpoint.every_n_train_steps", "1", "--checkpoint.filename", "mine")
        case "no checkpoints":
            words = ("--checkpoint.save_last", "false")
        case "fast_dev_run":
            words = ("--trainer.fast_dev_run", "true")
    lit("fit", tmp_path, given, *words)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    if case == "own callback":
        assert (tmp_path / "own" / "mine.ckpt").exists()


def test_validating_alone_keeps_nothing(lit, given, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, 0, 1.0)
    lit("validate", tmp_path, given)
    assert not (tmp_path / "checkpoints").exists()


def test_a_value_that_is_no_number_is_never_the_best(lit, given, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, 1, float("nan"))
    monkeypatch.setitem(LOSSES, 2, float("nan"))
    lit("fit", tmp_path, given)
    assert kept(tmp_path)["global_step"] == 4


def test_early_stopping_goes_on_working(lit, given, tmp_path):
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1}}
    given["trainer"]["callbacks"] = [stopping]
    assert lit("fit", tmp_path, given).trainer.global_step == 3
    assert kept(tmp_path)["global_step"] == 2


# ---------------------------------------------------------------------- export


@pytest.mark.parametrize(("which", "step"), [("last", 5), ("best", 2)])
def test_what_is_exported_is_said_and_is_that(lit, given, tmp_path, caplog, which, step):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    words = () if which == "last" else ("--export.which", "best")
    lit("fit", tmp_path, given | {"export": {"directory": str(tmp_path / "model")}}, *words)
    told = {"last": "the last step, 5", "best": "the best by val/loss (1), step 2 of 5"}
    assert f"model written to {tmp_path / 'model'}: {told[which]}" in caplog.text
    export(str(tmp_path / "checkpoints" / f"{which}.ckpt"), str(tmp_path / "later"))
    assert f"model written to {tmp_path / 'later'}: step {step} of" in caplog.text
    now, later = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "later"))
    assert now.keys() == later.keys()
    assert all(torch.equal(now[name], later[name]) for name in now)
    assert f"| val/loss | {LOSSES[step]:g} |" in (tmp_path / "model" / "README.md").read_text()


def test_the_users_own_best_is_exported(lit, given, tmp_path, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    own = {"monitor": "val/loss", "dirpath": str(tmp_path / "own"), "filename": "mine"}
    given["trainer"]["callbacks"] = [OWN | {"init_args": own}]
    lit("fit", tmp_path, given | {"export": {"directory": str(tmp_path / "model"), "which": "best"}})
    assert "the best by val/loss (1)" in caplog.text
    weights = torch.load(tmp_path / "own" / "mine.ckpt", weights_only=True)["state_dict"]
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(weights[f"network.model.{name}"], value) for name, value in found.items())


@pytest.mark.parametrize("why", ["no validation", "not kept"])
def test_the_best_is_not_exported_where_there_will_be_none(lit, given, tmp_path, why):
    words = ("--best.enabled", "false") if why == "not kept" else ()
    if why == "no validation":
        del given["data"]["val_sources"]
        given["data"]["val_fraction"] = 0.0
    with pytest.raises(DataError, match=r"option export.which: (there is no validation|no best checkpoint is kept)"):
        lit("fit", tmp_path, given | {"export": {"directory": str(tmp_path / "model"), "which": "best"}}, *words)


def test_the_word_best_is_the_best_checkpoint_of_the_folder(lit, given, monkeypatch, tmp_path):
    lit("fit", tmp_path, given)
    monkeypatch.setitem(LOSSES, 0, 1.0)
    trainer = lit("validate", tmp_path, given, "--ckpt_path", "best").trainer
    assert trainer.ckpt_path == str(tmp_path / "checkpoints" / "best.ckpt")


# ---------------------------------------------------------------------- other modules


def policies(model: str, **init) -> dict:
    prompts = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    val = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 4, "split": "val"}}
    init = {"policy": model, "sampling": {"max_new_tokens": 4}, "reward": {"class_path": "GoldReward"}, **init}
    return {
        "model": {"class_path": "PPOModule", "init_args": init},
        "data": {"sources": prompts, "val_sources": val, "batch_size": 4, "max_length": 80},
        "trainer": {"max_steps": 3, "check_val_every_n_epoch": None, "val_check_interval": 1},
    }


@pytest.mark.parametrize("judged", [True, False])
def test_of_policies_the_judge_or_else_the_proxy_says_which_is_best(lit, tiny_model, tmp_path, monkeypatch, judged):
    given = policies(tiny_model, **({"judge": {"class_path": "GoldReward"}} if judged else {}))
    values = {1: (1.0, 9.0), 2: (3.0, 7.0), 3: (2.0, 8.0)}  # the judge's, and the proxy's

    def validate(self, batch, batch_idx) -> None:
        gold, proxy = values[self.trainer.global_step]
        self.log_dict({"val/reward": proxy, "val/kl": 0.0, **({"val/gold_reward": gold} if judged else {})})

    monkeypatch.setattr(PPOModule, "validation_step", validate)
    lit("fit", tmp_path, given | {"export": {"directory": str(tmp_path / "model"), "which": "best"}})
    assert kept(tmp_path)["global_step"] == (2 if judged else 1)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"]


def test_of_reward_models_the_best_brings_its_own_spread_of_scores(lit, tiny_model, tmp_path):
    pairs = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 32}}
    given = {
        "model": {"class_path": "ScalarRewardModule", "init_args": {"model": tiny_model, "optimizer": {"lr": 3e-2}}},
        "data": {"sources": pairs, "val_fraction": 0.3, "batch_size": 4},
        "trainer": {"max_epochs": 1, "check_val_every_n_epoch": None, "val_check_interval": 1},
        "export": {"directory": str(tmp_path / "model"), "which": "best"},
    }
    lit("fit", tmp_path, given)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}
    best = min(losses, key=lambda step: (losses[step], step))
    assert kept(tmp_path)["global_step"] == best
    export(str(tmp_path / "checkpoints" / "best.ckpt"), str(tmp_path / "later"))
    now, later = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("model", "later"))
    assert now["calibration"] == later["calibration"]


def test_state_goes_through_a_checkpoint():
    best, other = Best(), Best()
    best.name, best.value, best.step = "val/loss", 0.5, 7
    other.load_state_dict(best.state_dict())
    assert (other.name, other.value, other.step) == ("val/loss", 0.5, 7)
