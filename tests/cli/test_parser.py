import subprocess
import sys

import pytest

from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.parser import explained

SFT = ["fit", "--model", "SFTModule", "--model.init_args.model", "x", "--data.sources", "x"]
PPO = ["fit", "--model", "PPOModule", "--model.policy", "x", "--data.sources", "x"]


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        dispatch(list(words))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "usage:" not in error
    assert len(error.splitlines()) < 12
    return error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "--model.help", "PPOModul"], ["no class 'PPOModul'", "Did you mean PPOModule?", "SFTModule"]),
        (["fit", "--model", "Nonsense", "--data.sources", "x"], ["no class 'Nonsense'", "PPOModule, ", "SFTModule"]),
        ([*PPO, "--model.reward", "ScalarRewrd"], ["no class 'ScalarRewrd'", "ScalarReward?", "ContrastiveReward"]),
        (["fit", *PPO[1:3], "--data.sources.class_path", "WorldPromts"], ["WorldPrompts?", "PairFiles"]),
    ],
)
def test_a_misspelt_class_is_answered_with_the_names_there_are(capsys, words, expected):
    error = refused(capsys, *words)
    for part in expected:
        assert part in error
    assert "NoneType" not in error


def test_rewards_are_not_offered_as_modules(capsys):
    assert "GoldReward" not in refused(capsys, "fit", "--model.help", "PPOModul")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ([*SFT, "--trainer.max_epoch", "3"], "--trainer.max_epoch"),
        ([*SFT, "--data.batch_siz", "3"], "--data.batch_siz"),
        (["run", "x.yaml", "--see", "3"], "--see"),
        (["world", "x", "--pre", "tiny"], "--pre"),
    ],
)
def test_abbreviated_options_are_refused(capsys, words, option):
    assert option in refused(capsys, *words)


def test_errors_name_the_command_whose_help_lists_the_options(capsys):
    assert "lit-rlhf fit --help" in refused(capsys, *SFT, "--trainer.max_epoch", "3")
    assert "Did you mean --trainer.max_epochs?" in refused(capsys, *SFT, "--trainer.max_epoch", "3")
    assert "lit-rlhf compare --help" in refused(capsys, "compare", "--polices", "x")


def test_required_options_are_named_as_they_are_written(capsys):
    error = refused(capsys, "fit")
    assert "--data.sources, --model" in error
    assert "fit.model" not in error
    assert "lit-rlhf fit --help" in error


def test_an_option_that_a_class_has_not_is_answered_with_those_it_has(capsys):
    error = refused(capsys, *SFT, "--model.optimiser", "x")
    assert "Did you mean optimizer? SFTModule has: model, optimizer" in error


@pytest.mark.parametrize(
    ("text", "hint"), [("model:\n\tclass_path: SFTModule\n", "tab"), ("model:\n  a: b\n    c:\n", "indentation")]
)
def test_a_broken_config_is_named_with_its_line(capsys, tmp_path, text, hint):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("trainer: {max_steps: 1}\n")
    bad.write_text(text)
    for words in (["-c", str(good), "-c", str(bad)], [f"--config={bad}"]):
        error = refused(capsys, "fit", *words)
        assert str(bad) in error
        assert "line" in error
        assert hint in error


def test_negative_values_are_explained(capsys):
    assert "--model.init_args.x=-1e-3" in refused(capsys, *SFT, "--model.init_args.optimizer.lr", "-1e-3")


@pytest.mark.parametrize(("command", "meant"), [("fti", "fit"), ("train", "fit"), ("comparee", "compare")])
def test_a_misspelt_command_is_answered_with_the_one_that_was_meant(capsys, command, meant):
    assert dispatch([command]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.slow
def test_commands_know_sources_by_their_names_in_a_fresh_process():
    words = ["compare", "--policies.a", "x", "--out", "y", "--data.sources", "WorldPrompts", "--data.sources.size", "9"]
    code = f"from lit_rlhf.cli import main; main({[*words, '--print_config']!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "lit_rlhf.world" in found.stdout, found.stderr


def test_a_class_is_never_suggested_for_itself(capsys):
    error = refused(capsys, "fit", "--model", "ScalarReward", "--data.sources", "x")
    assert "Did you mean ScalarRewardModule?" in error


def test_what_is_wrong_stays_in_the_message(capsys):
    assert "modle" in refused(capsys, *SFT, "--model.modle", "x")
    assert "batch_size" in refused(capsys, *SFT, "--data.batch_size", "many")
    assert explained("Errors:") == "Errors:"  # never nothing


def test_the_help_of_run_tells_of_options_for_all_stages(capsys):
    with pytest.raises(SystemExit):
        dispatch(["run", "--help"])
    assert "--trainer.logger false" in capsys.readouterr().out
