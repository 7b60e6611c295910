"""What the option parser says about missing options, misspelt classes and missing packages."""

import json

import pytest

from lit_rlhf.cli import messages
from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.messages import explained, missing_package, similar

WORLD = ["--data.sources", "WorldPrompts", "--data.sources.size", "9"]
SFT = ["fit", "--model", "SFTModule", "--model.model", "x", *WORLD]
PPO = ["fit", "--model", "PPOModule", "--model.policy", "x", *WORLD]


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        dispatch(list(words))
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["fit", "--model", "SFTModule", *WORLD], "--model.init_args.model"),
        (["fit", "--model", "PPOModule", *WORLD], "--model.init_args.policy, --model.init_args.reward"),
        ([*PPO, "--model.reward", "ScalarReward"], "--model.init_args.reward.init_args.model"),
        (
            [*PPO, "--model.reward", "ClipReward", "--model.reward.inner", "ScalarReward"],
            "--model.init_args.reward.init_args.inner.init_args.model",
        ),
        (
            [*PPO, "--model.reward", "RemoteReward", "--model.reward.endpoint.timeout", "3"],
            "--model.init_args.reward.init_args.endpoint.init_args.url",
        ),
        ([*SFT, "--trainer.logger", "CSVLogger"], "--trainer.logger.init_args.save_dir"),
        ([*SFT, "--trainer.callbacks+=EarlyStopping"], "--trainer.callbacks.init_args.monitor"),
        ([*SFT[:-4], "--data.sources.class_path", "PairFiles"], "--data.sources.init_args.path"),
        ([*SFT[:-4], "--data.sources", "PairFiles"], "--data.sources.init_args.path"),
        (SFT[:-4], "--data.sources"),
    ],
)
def test_a_missing_option_is_named_as_it_is_written(capsys, words, options):
    error = refused(capsys, *words)
    assert error.splitlines()[0] == f"error: the following arguments are required: {options}"
    assert "lit-rlhf fit --help" in error


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_the_stage_is_named_whose_help_lists_the_options(capsys, stage):
    assert f"lit-rlhf {stage} --help" in refused(capsys, stage, "--model", "SFTModule", *WORLD)


def test_the_options_of_the_class_that_lacks_one_are_listed(capsys):
    error = refused(capsys, *PPO, "--model.reward", "ScalarReward")
    assert "ScalarReward has: model, scale, " in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model.init_args.reward.init_args.endpoint.init_args.url", "x"),
        ("--model.init_args.reward.init_args.endpoint.url", "x"),
    ],
)
def test_a_missing_option_that_is_given_as_it_was_named_is_taken(capsys, option, value):
    assert dispatch([*PPO, "--model.reward", "RemoteReward", option, value]) == 1
    assert "'x' is no address" in capsys.readouterr().err


def test_what_takes_no_option_is_named_by_its_place(capsys):
    assert "arguments are required: DIRECTORY\n" in refused(capsys, "world")
    assert "arguments are required: --data.sources\n" in refused(capsys, "compare", "--policies.a", "x", "--out", "y")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([*PPO, "--model.init_args.reward", "ScalerReward"], "ScalarReward or ScaledReward"),
        ([*PPO, "--model.reward", "scalarreward"], "ScalarReward"),
        ([*PPO, "--model.reward", "Gold"], "GoldReward"),
        (["fit", "--model", "PPO", *WORLD], "PPOModule"),
        ([*PPO, "--model.advantages", "LeaveOneOt"], "LeaveOneOut"),
        ([*SFT, "--trainer.logger", "TensorBoardLoger"], "TensorBoardLogger"),
        ([*SFT, "--trainer.logger", "wandblogger"], "WandbLogger"),
        ([*SFT, "--trainer.callbacks+=EarlyStoping"], "EarlyStopping"),
        ([*SFT, "--trainer.callbacks+=LearningRateMonitr"], "LearningRateMonitor"),
        ([*SFT[:-4], "--data.sources", "WorldPromts"], "WorldPrompts"),
        ([*SFT[:-4], "--data.sources", json.dumps([{"class_path": "WorldPromts"}])], "WorldPrompts"),
        ([*SFT, "--data.val_sources", "WorldPromts"], "WorldPrompts"),
        (["compare", "--policies.a", "x", "--out", "y", "--data.sources", "WorldPromts"], "WorldPrompts"),
    ],
)
def test_every_near_name_of_a_misspelt_class_is_suggested(capsys, words, names):
    error = refused(capsys, *words)
    assert f"Did you mean {names}? Known are " in error
    assert "<class" not in error


def test_a_misspelt_class_in_an_import_path_is_answered_too(capsys):
    error = refused(capsys, *PPO, "--model.reward", "lit_rlhf.rewards.ScalerReward")
    assert "Did you mean ScalarReward or ScaledReward?" in error


def test_a_class_of_another_kind_is_called_that(capsys):
    error = refused(capsys, *PPO, "--model.reward", "SFTModule")
    assert "SFTModule is a class of another kind" in error
    assert "GoldReward" in error
    assert "Did you mean" not in error


@pytest.mark.parametrize("name", ["pairs", "imdb", "x.jsonl", "data/WorldPromts", "*.jsonl"])
def test_other_texts_stay_the_paths_of_sources(name):
    assert messages.misnamed_source("data.sources", name) == ""


def test_a_file_of_the_name_of_a_class_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "WorldPromts").touch()
    assert messages.misnamed_source("data.sources", "WorldPromts") == ""


def test_names_are_near_whatever_their_case_and_none_is_near_itself():
    known = ["ScalarReward", "ScaledReward", "ClipReward"]
    assert similar("ScalerReward", known) == ["ScalarReward", "ScaledReward"]
    assert similar("SCALARREWARD", known) == ["ScalarReward"]
    assert similar("Clip", known) == ["ClipReward"]
    assert similar("ScalarReward", ["ScalarReward"]) == []
    assert similar("nothing", known) == []


def test_an_option_that_a_class_has_not_is_answered_however_the_parser_says_it(capsys):
    assert "SFTModule has: model, optimizer" in refused(capsys, *SFT, "--model.reward.inner", "3")


@pytest.fixture
def without(monkeypatch):
    """Without some packages, whether they are installed or not."""
    find = messages.find_spec
    monkeypatch.setattr(messages, "find_spec", lambda name: None if name.startswith("tensorboard") else find(name))


def test_a_logger_without_its_package_is_one_line(capsys, without):
    expected = "error: TensorBoardLogger needs a package that is not installed: pip install tensorboard"
    for words in (["TensorBoardLogger"], ["lightning.pytorch.loggers.TensorBoardLogger"]):
        assert refused(capsys, *SFT, "--trainer.logger", *words) == expected


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "  - Problem with given class_path 'lightning.pytorch.loggers.MLFlowLogger':\n"
            "      Requirement 'mlflow>=1.0.0' not met. HINT: Try running `pip install -U 'mlflow>=1.0.0'`\n"
            "  - Expected a <class 'bool'>",
            "MLFlowLogger needs a package that is not installed: pip install 'mlflow>=1.0.0'",
        ),
        (
            "Neither `tensorboard` nor `tensorboardX` is available. Try `pip install`ing either.\n"
            "Requirement 'tensorboardX' not met. HINT: Try running `pip install -U 'tensorboardX'`",
            "this option needs a package that is not installed: pip install tensorboard",
        ),
        (
            "To use the `DeepSpeedStrategy`, you must have DeepSpeed installed. Install it by running "
            "`pip install -U deepspeed`.",
            "DeepSpeedStrategy needs a package that is not installed: pip install deepspeed",
        ),
        ("`psutil` is missing: pip install lightning[extra]", "this option needs a package that is not installed: "
         "pip install 'lightning[extra]'"),
        ("nothing of the kind", ""),
    ],
)  # fmt: skip
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(message, said):
    assert missing_package(message) == said
    if said:
        assert explained(message) == said
