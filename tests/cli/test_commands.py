import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from lit_rlhf.cli import commands, stage  # noqa: F401  (imports Lightning before output is captured)
from lit_rlhf.cli.commands import call, dispatch


def test_an_unknown_command_is_exit_status_two(capsys):
    assert dispatch(["train"]) == 2
    error = capsys.readouterr().err
    assert "'train'" in error
    assert "--help" in error


def test_world_writes_a_model_that_transformers_loads(tmp_path):
    assert dispatch(["world", str(tmp_path / "model"), "--preset", "tiny", "--seed", "3"]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.num_parameters() < 100_000


def test_options_come_from_yaml_as_well(tmp_path):
    config = tmp_path / "world.yaml"
    config.write_text("preset: tiny\nseed: 1\n")
    assert dispatch(["world", str(tmp_path / "a"), "-c", str(config)]) == 0
    call("world", options={"directory": str(tmp_path / "b"), "preset": "tiny", "seed": 1})
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


MISTAKES = {
    "a preset that does not exist": ["world", "{tmp}/model", "--preset", "huge"],
    "an experiment that does not exist": ["run", "{tmp}/nothing.yaml"],
    "more prompts than there are": [
        *("fit", "--model", "SFTModule", "--model.init_args.model", "{tmp}/model", "--trainer.logger", "false"),
        *("--data.sources.class_path", "lit_rlhf.world.WorldPrompts", "--data.sources.init_args.size", "99999999"),
    ],
    "a model that does not exist": [
        *("fit", "--model", "SFTModule", "--model.init_args.model", "{tmp}/model", "--trainer.logger", "false"),
        *("--data.sources.class_path", "lit_rlhf.world.WorldPrompts", "--data.sources.init_args.size", "9"),
        *("--trainer.default_root_dir", "{tmp}"),
    ],
    "a file that does not exist": [
        *("fit", "--model", "SFTModule", "--model.init_args.model", "{model}", "--trainer.logger", "false"),
        *("--data.sources", "{tmp}/pairs.jsonl", "--trainer.default_root_dir", "{tmp}"),
    ],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_user_can_mend_is_a_message_without_a_traceback(capsys, tmp_path, tiny_model, mistake):
    words = [word.format(tmp=tmp_path, model=tiny_model) for word in MISTAKES[mistake]]
    assert dispatch(words) == 1
    error = capsys.readouterr().err
    assert "\nerror: " in error
    assert "Traceback" not in error
    named = {"a preset": "huge", "an experiment": "nothing.yaml", "a file": "pairs.jsonl", "more prompts": "99999999"}
    assert next((word for start, word in named.items() if mistake.startswith(start)), str(tmp_path)) in error


def test_other_errors_keep_their_traceback(monkeypatch):
    def broken(command):
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "_function", broken)
    with pytest.raises(ZeroDivisionError):
        dispatch(["world", "somewhere"])


@pytest.mark.parametrize("command", ["world", "compare", "strength", "evaluate", "run"])
def test_every_command_explains_its_options(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        dispatch([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    option = {
        "world": "--preset",
        "compare": "--policies",
        "strength": "--voting.folds",
        "evaluate": "--benchmarks",
        "run": "--only",
    }[command]
    assert option in shown
    assert "--extra" not in shown


@pytest.mark.parametrize(
    ("words", "known", "extra"),
    [
        (["a.yaml"], ["a.yaml"], []),
        (
            ["a.yaml", "--out", "x", "--", "--trainer.logger", "false"],
            ["a.yaml", "--out", "x"],
            ["--trainer.logger", "false"],
        ),
        (["a.yaml", "--", "--", "b"], ["a.yaml"], ["--", "b"]),
    ],
)
def test_words_behind_two_dashes_go_to_every_stage(monkeypatch, words, known, extra):
    assert commands._split_extra(words) == (known, extra)


def test_run_hands_its_options_on(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("lit_rlhf.cli.experiment._run", lambda one, *rest: seen.update(stage=one, rest=rest))
    experiment = tmp_path / "try.yaml"
    experiment.write_text("seed: 1\nstages:\n  - {name: base, command: world, options: {seed: '${seed}'}}\n")
    words = ["run", str(experiment), "--out", str(tmp_path / "run"), "--seed", "5", "--", "--trainer.logger", "false"]
    assert dispatch(words) == 0
    assert seen["stage"].options == {"seed": 5}
    assert seen["rest"] == ("run", 5, ["--trainer.logger", "false"], "1/1")
    assert json.loads(Path(tmp_path / "run" / "summary.json").read_text())["seed"] == 5
