"""Options of the Trainer that need another one here, and what Lightning says about options."""

import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.faults import told
from lit_rlhf.data.errors import DataError
from lit_rlhf.world import WorldDemonstrations


def sft(model: str, **trainer) -> dict:
    source = {"class_path": "WorldDemonstrations", "init_args": {"size": 16}}
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": model}},
        "data": {"sources": source, "batch_size": 8},
        "trainer": {"max_steps": 1, **trainer},
    }


def ppo(model: str, settings: dict, **trainer) -> dict:
    init_args = {"policy": model, "reward": "GoldReward", "advantages": "LeaveOneOut", "settings": settings}
    return {
        "model": {"class_path": "PPOModule", "init_args": init_args},
        "data": {"sources": {"class_path": "WorldPrompts", "init_args": {"size": 8}}, "batch_size": 4},
        "trainer": {"max_steps": 1, **trainer},
    }


@pytest.mark.parametrize(
    ("option", "value", "hint", "settings"),
    [
        ("gradient_clip_val", 0.5, "--model.init_args.settings.max_grad_norm 0.5", {"max_grad_norm": 0.5}),
        ("accumulate_grad_batches", 2, "--model.init_args.settings.micro_batch_size 4", {"micro_batch_size": 4}),
    ],
)
def test_ppo_names_its_own_option_for_one_of_the_trainer(lit, tiny_model, tmp_path, option, value, hint, settings):
    with pytest.raises(DataError, match=f"option trainer.{option}: PPOModule") as raised:
        lit("fit", tmp_path, ppo(tiny_model, {}, **{option: value}))
    assert hint in str(raised.value)
    assert "cpu.yaml" not in str(raised.value)
    words = hint.split(":")[0].split()
    cli = lit("fit", tmp_path, ppo(tiny_model, {}), *words)
    name, number = next(iter(settings.items()))
    assert getattr(cli.model.settings, name) == number


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("gradient_clip_val", 2.0, "--model.init_args.max_grad_norm 2"),
        ("accumulate_grad_batches", 2, "data.batch_size"),
    ],
)
def test_metarm_names_its_own_option_too(lit, tiny_model, samples, tmp_path, option, value, hint):
    options = sft(tiny_model, **{option: value})
    options["model"] = {"class_path": "MetaRewardModule", "init_args": {"model": tiny_model, "samples": samples}}
    with pytest.raises(DataError, match=f"option trainer.{option}: MetaRewardModule") as raised:
        lit("fit", tmp_path, options)
    assert hint in str(raised.value)


def test_other_modules_take_both_and_measuring_is_not_refused(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, sft(tiny_model, gradient_clip_val=1.0, accumulate_grad_batches=2))
    lit("validate", tmp_path, ppo(tiny_model, {}, gradient_clip_val=1.0))


@pytest.mark.parametrize("options", [sft, lambda model, **trainer: ppo(model, {}, **trainer)], ids=["sft", "ppo"])
def test_checkpointing_can_be_switched_off(lit, tiny_model, tmp_path, options):
    given = options(tiny_model, enable_checkpointing=False)
    given["export"] = {"directory": str(tmp_path / "model")}
    cli = lit("fit", tmp_path / "run", given)
    assert cli.trainer.global_step == 1
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (tmp_path / "model" / "config.json").exists()
    assert not [each for each in cli.trainer.callbacks if isinstance(each, ModelCheckpoint)]


def test_a_run_without_checkpoints_goes_on_from_one_and_is_measured(lit, tiny_model, tmp_path):
    lit("fit", tmp_path / "first", sft(tiny_model))
    last = str(tmp_path / "first" / "checkpoints" / "last.ckpt")
    more = lit(
        "fit", tmp_path / "second", sft(tiny_model, enable_checkpointing=False, max_steps=2), "--ckpt_path", last
    )
    assert more.trainer.global_step == 2
    lit("validate", tmp_path / "second", sft(tiny_model, enable_checkpointing=False))


def test_ones_own_checkpoint_callback_beside_none_is_refused_by_name(lit, tiny_model, tmp_path):
    trainer = {"enable_checkpointing": False, "callbacks": [{"class_path": "ModelCheckpoint"}]}
    with pytest.raises(MisconfigurationException) as raised:
        lit("fit", tmp_path, sft(tiny_model, **trainer))
    assert "enable_checkpointing=False" in (told(raised.value) or "")
    assert "cpu.yaml" not in (told(raised.value) or "")


@pytest.mark.parametrize(
    ("trainer", "said", "fits"),
    [
        ({"accelerator": "gpuu"}, "invalid accelerator name", True),
        ({"devices": "3.5"}, "should be an int > 0", True),
        ({"strategy": "ddpp"}, "invalid strategy name", False),
        ({"profiler": "simpel"}, "'simple', 'advanced'", False),
        ({"val_check_interval": 100}, "val_check_interval", False),
        ({"max_steps": -5}, "max_steps", False),
        (
            {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/nothing"}}]},
            "train/loss",
            False,
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_lightning_finds_wrong_with_an_option_is_a_message(capsys, tiny_model, tmp_path, trainer, said, fits):
    quiet = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    options = sft(tiny_model, **{**quiet, "default_root_dir": str(tmp_path), **trainer})
    options["data"] |= {"val_fraction": 0.0}
    config = tmp_path / "options.yaml"
    config.write_text(json.dumps(options))
    assert dispatch(["fit", "-c", str(config)]) == 1
    error = capsys.readouterr().err
    assert "error: options of the Trainer: " in error
    assert said in error
    assert ("-c configs/trainer/cpu.yaml" in error) == fits


def test_an_error_of_our_own_that_passes_through_lightning_keeps_its_traceback(lit, tiny_model, tmp_path, monkeypatch):
    def broken(self):
        raise ValueError("a bug")

    monkeypatch.setattr(WorldDemonstrations, "records", broken)
    with pytest.raises(ValueError, match="a bug") as raised:
        lit("fit", tmp_path, sft(tiny_model))
    assert told(raised.value) is None
