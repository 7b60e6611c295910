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


def test_what_is_wrong_stays_in_the_message(capsys):
    assert "modle" in refused(capsys, *SFT, "--model.modle", "x")
    assert "batch_size" in refused(capsys, *SFT, "--data.batch_size", "many")
    assert explained("Errors:") == "Errors:"  # never nothing


def test_the_help_of_run_tells_of_options_for_all_stages(capsys):
    with pytest.raises(SystemExit):
        dispatch(["run", "--help"])
    assert "--trainer.logger false" in capsys.readouterr().out
