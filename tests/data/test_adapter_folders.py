"""What a folder of adapters says of its base model, without loading anything."""

import json
from pathlib import Path

import pytest

from lit_rlhf.data.adapter_folders import adapter_config, base_of, tokenizer_folder
from lit_rlhf.data.errors import DataError


def adapters(folder: Path, base: str, *further: str) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    for name in ("adapter_model.safetensors", *further):
        (folder / name).touch()
    return str(folder)


def model(folder: Path) -> str:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).touch()
    return str(folder)


def test_a_model_is_no_folder_of_adapters(tmp_path):
    path = model(tmp_path / "model")
    assert adapter_config(path) is None
    assert adapter_config(str(tmp_path / "nowhere")) is None
    assert tokenizer_folder(path) == path


@pytest.mark.parametrize("further", ["config.json", "training_args.bin", "optimizer.pt", "README.md"])
def test_a_checkpoint_of_a_trainer_is_one(tmp_path, further):
    path = adapters(tmp_path / "adapters", "base/model", further)
    assert adapter_config(path) == {"base_model_name_or_path": "base/model"}


@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_weights_of_a_whole_model_beside_adapters_are_named(tmp_path, weights):
    path = adapters(tmp_path / "adapters", "base/model", weights)
    with pytest.raises(DataError, match=rf"\({weights}\) and adapters, too\n.*folder of their own"):
        adapter_config(path)


def test_a_base_is_looked_for_from_here_then_from_the_folder_then_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = adapters(tmp_path / "runs" / "adapters", "")
    assert base_of(path, {"base_model_name_or_path": "some/base"}) == "some/base", "a Hub id"
    (tmp_path / "runs" / "base").mkdir()
    assert Path(base_of(path, {"base_model_name_or_path": "../base"})).resolve() == tmp_path / "runs" / "base"
    (tmp_path / "some" / "base").mkdir(parents=True)
    assert base_of(path, {"base_model_name_or_path": "some/base"}) == "some/base", "now it is here"


def test_a_similar_name_is_suggested(tmp_path):
    model(tmp_path / "sft-model")
    path = adapters(tmp_path / "adapters", "")
    with pytest.raises(DataError, match="sft-model"):
        base_of(path, {"base_model_name_or_path": str(tmp_path / "sft-modle")})


def test_the_tokenizer_is_that_of_the_first_folder_that_brings_one(tmp_path):
    base = model(tmp_path / "model")
    first = adapters(tmp_path / "first", base)
    second = adapters(tmp_path / "second", first)
    assert tokenizer_folder(second) == base
    own = adapters(tmp_path / "own", base, "tokenizer_config.json")
    assert tokenizer_folder(own) == own
