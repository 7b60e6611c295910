import importlib.metadata

import pytest

from lit_rlhf.cli import USAGE
from lit_rlhf.cli.commands import dispatch
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.policy_network import PolicyNetwork
from tests.networks.gguf_samples import random_model, write_gguf


def test_a_gguf_file_becomes_a_model_to_start_from(tmp_path, capsys):
    path = write_gguf(tmp_path / "model.gguf", random_model(), tokenizer__chat_template=None)
    assert dispatch(["model", str(path), str(tmp_path / "model"), "--dtype", "bfloat16"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("note: it has no chat template")
    assert said[-1] == f"model written to {tmp_path / 'model'}"
    renderer = Renderer.load(str(tmp_path / "model"))
    prompt = (Message("user", "or"),)
    assert PolicyNetwork(str(tmp_path / "model")).model.config.vocab_size == 265
    assert renderer.end_ids == (2,)
    assert renderer.prompt_ids(prompt)


def test_a_model_that_is_there_is_replaced_and_anything_else_is_refused(tmp_path, capsys):
    path, folder = write_gguf(tmp_path / "model.gguf", random_model()), tmp_path / "model"
    for _ in range(2):
        assert dispatch(["model", str(path), str(folder)]) == 0
    (folder / "config.json").unlink()
    assert dispatch(["model", str(path), str(folder)]) == 1
    assert "holds something else than a model" in capsys.readouterr().err
    assert (folder / "model.safetensors").exists()


def test_the_file_itself_is_never_replaced(tmp_path, capsys):
    path = write_gguf(tmp_path / "model.gguf", random_model())
    assert dispatch(["model", str(path), str(tmp_path)]) == 1
    assert f"would replace {path}" in capsys.readouterr().err
    assert path.exists()


@pytest.mark.parametrize("source", ["smollm2", "nowhere.gguf"])
def test_what_is_missing_is_told_in_one_line_and_a_hint(tmp_path, capsys, monkeypatch, source):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    assert dispatch(["model", source, str(tmp_path / "model")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_command_is_listed_and_helps(capsys):
    assert "\n  model " in USAGE
    with pytest.raises(SystemExit):
        dispatch(["model", "--help"])
    said = capsys.readouterr().out
    assert "smollm2" in said
    assert "--dtype" in said
