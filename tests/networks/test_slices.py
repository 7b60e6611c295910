import logging
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.slices import stored_of, values_of, weights_in_files
from lit_rlhf.networks.weight_files import Stored
from tests.networks.folders import folder
from tests.networks.test_encoders import write


@pytest.mark.parametrize("kind", ["causal", "scalar"])
@pytest.mark.parametrize("lora", [False, True])
def test_what_is_left_in_files_is_what_loading_gives(any_model, kind, lora):
    models = []
    for left in (True, False):
        torch.manual_seed(0)
        with weights_in_files(left):
            models.append(load_model(any_model, kind))
        if lora:
            LoRA(r=2).add(models[-1])
    empty, full = models
    left = {name: each for name, each in empty.named_parameters() if stored_of(each) is not None}
    body = {name for name, _ in full.base_model.named_parameters() if ".lora_" not in name}
    assert len(left) >= len(body)
    expected = dict(full.named_parameters())
    assert list(expected) == [name for name, _ in empty.named_parameters()]  # tied weights are counted once
    for name, parameter in empty.named_parameters():
        assert torch.equal(values_of(parameter), expected[name])
        assert parameter.requires_grad == expected[name].requires_grad
    for (name, ours), (theirs_name, theirs) in zip(empty.named_buffers(), full.named_buffers(), strict=True):
        assert name == theirs_name
        assert torch.equal(ours, theirs)
    assert kind == "scalar" or str(empty.generation_config) == str(full.generation_config)


def test_numbers_beside_the_weights_are_read_too(tmp_path):
    """Gemma 4 multiplies what each layer gives with a number that is no parameter."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size_per_layer_input": 50}
    config = transformers.Gemma4TextConfig(**sizes, **heads, hidden_size_per_layer_input=4, num_kv_shared_layers=0)
    model = transformers.Gemma4ForCausalLM(config)
    for number, layer in enumerate(model.model.layers):
        layer.layer_scalar.data.fill_(0.5 + number)
    model.save_pretrained(tmp_path)
    with weights_in_files():
        found = load_model(str(tmp_path), "causal")
    assert any(stored_of(each) for each in found.parameters())
    scalars = {name: float(each) for name, each in found.named_buffers() if "layer_scalar" in name}
    assert list(scalars.values()) == [0.5, 1.5]


def test_a_slice_is_some_rows(tiny_model):
    file = Path(tiny_model) / "model.safetensors"
    whole = load_file(file)["model.embed_tokens.weight"]
    stored = Stored(str(file), "model.embed_tokens.weight", tuple(whole.shape))
    assert torch.equal(stored.read(3, 9), whole[3:9])
    assert torch.equal(stored.read(), whole)


def test_files_with_names_that_transformers_converts_are_loaded_whole(tmp_path, caplog):
    old = lambda w: {name.replace("LayerNorm.weight", "LayerNorm.gamma"): w[name] for name in w}  # noqa: E731
    path = folder(write("bert", tmp_path / "bert"), tmp_path / "old", old)
    with caplog.at_level(logging.INFO, "lit_rlhf"), weights_in_files():
        model = load_model(path, "scalar")
    assert not any(each.is_meta for each in model.parameters())
    assert "bert.embeddings.LayerNorm.weight is not in the files as such; each process loads all" in caplog.text
    for name, expected in load_model(str(tmp_path / "bert"), "scalar").named_parameters():
        assert torch.equal(model.get_parameter(name), expected)
