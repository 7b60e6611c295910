"""Folders of adapters given where a model is wanted: used with their base model as peft uses them, or refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapter_files import save_adapters
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import export, fingerprint, load_model
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork

IDS = torch.arange(6, 30).reshape(2, 12)


def written_by_peft(path: str, folder: Path, config, resize: int | None = None) -> nn.Module:
    """What peft gives for adapters that it made, moved and saved."""
    torch.manual_seed(2)
    scalar = config.task_type == "SEQ_CLS"
    maker = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    model = maker.from_pretrained(path, dtype=torch.float32, **({"num_labels": 1} if scalar else {}))
    model.config.pad_token_id = 0
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
    theirs = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad and "lora_A" not in name and "magnitude" not in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    theirs.eval().save_pretrained(folder)
    return theirs


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


def causal(**options) -> LoraConfig:
    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 3, "target_modules": ["q_proj", "down_proj"], **options})


VARIANTS = {
    "list": {},
    "regex": {"target_modules": r"model\.layers\.1\.mlp\.(up|down)_proj"},
    "all": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True, "lora_alpha": 5},
    "dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "patterns": {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"1.mlp.down_proj": 11}},
    "some_layers": {"layers_to_transform": [1]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "saved_head": {"modules_to_save": ["lm_head"]},
    "norms": {"modules_to_save": ["norm"]},
    "no_task": {"task_type": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_policy_is_the_base_with_the_adapters_of_peft(tiny_model, variant, tmp_path):
    theirs = written_by_peft(tiny_model, tmp_path, causal(**VARIANTS[variant]))
    model = load_model(str(tmp_path), "causal")
    torch.testing.assert_close(logits(model), logits(theirs), atol=1e-5, rtol=1e-5)
    assert (logits(load_model(tiny_model, "causal")) - logits(model)).abs().max() > 1e-2, "the adapters matter"
    assert type(model) is type(load_model(tiny_model, "causal"))
    assert all(parameter.requires_grad for parameter in model.parameters()), "all weights can be trained"
    assert not any("lora" in name for name in model.state_dict())
    assert not model.training
    assert not model.fresh


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "gemma3"])
def test_other_architectures_are_merged_alike(write_model, architecture, tmp_path):
    config = causal(target_modules=["c_attn", "c_proj"] if architecture == "gpt2" else ["q_proj", "down_proj"])
    theirs = written_by_peft(write_model(architecture), tmp_path, config)
    torch.testing.assert_close(logits(load_model(str(tmp_path), "causal")), logits(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["head", "saved_head", "list"])
def test_what_is_exported_of_it_gives_the_same_again(tiny_model, variant, tmp_path):
    theirs = written_by_peft(tiny_model, tmp_path / "adapters", causal(**VARIANTS[variant]))
    model = load_model(str(tmp_path / "adapters"), "causal")
    export(model, Renderer.load(tiny_model), tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    torch.testing.assert_close(logits(plain), logits(theirs), atol=1e-5, rtol=1e-5)
    assert plain.config.tie_word_embeddings == (variant == "list")


def test_a_vocabulary_that_grew_comes_with_its_embeddings(tiny_model, tmp_path):
    size = AutoModelForCausalLM.from_pretrained(tiny_model).config.vocab_size + 3
    theirs = written_by_peft(tiny_model, tmp_path, causal(), resize=size)
    model = load_model(str(tmp_path), "causal")
    torch.testing.assert_close(logits(model), logits(theirs), atol=1e-5, rtol=1e-5)
    assert model.get_input_embeddings().num_embeddings == size
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_reward_model_is_the_base_with_adapters_and_their_head(tiny_model, tmp_path):
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])
    theirs = written_by_peft(tiny_model, tmp_path, config)
    network = RewardNetwork(str(tmp_path))
    assert not network.fresh
    network.model.config.pad_token_id = 0
    torch.testing.assert_close(logits(network.model), logits(theirs), atol=1e-5, rtol=1e-5)


def test_a_reward_model_can_begin_from_a_policys_adapters_with_a_fresh_head(tiny_model, tmp_path):
    theirs = written_by_peft(tiny_model, tmp_path, causal(target_modules=["q_proj", "lm_head"]))
    network = RewardNetwork(str(tmp_path))
    assert network.fresh
    with torch.no_grad():
        found = network.model.base_model(input_ids=IDS).last_hidden_state
        expected = theirs.get_base_model().model(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def ours(path: str, kind: str, folder: Path, base: str | None = None) -> None:
    model, lora = load_model(path, kind), LoRA(r=2)
    named = fingerprint(model.base_model, skip="pooler.")
    lora.add(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    save_adapters(model, lora, named, base or path, folder)


def test_a_folder_that_was_written_here_is_used_alike(tiny_model, tmp_path):
    ours(tiny_model, "causal", tmp_path / "adapters")
    plain, adapted = (PolicyNetwork(each) for each in (tiny_model, str(tmp_path / "adapters")))
    assert (logits(plain.model) - logits(adapted.model)).abs().max() > 1e-3


def test_the_tokenizer_is_the_bases_unless_the_folder_brings_one(tiny_model, tmp_path):
    ours(tiny_model, "causal", tmp_path / "adapters")
    assert Renderer.load(str(tmp_path / "adapters")).fingerprint == Renderer.load(tiny_model).fingerprint
    tokenizer = Renderer.load(tiny_model, "plain").tokenizer
    tokenizer.save_pretrained(tmp_path / "adapters")
    assert Renderer.load(str(tmp_path / "adapters")).fingerprint != Renderer.load(tiny_model).fingerprint


def test_a_base_is_found_beside_the_adapters_after_both_have_moved(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "base")
    ours(tiny_model, "causal", tmp_path / "adapters", base="../base")
    assert load_model(str(tmp_path / "adapters"), "causal") is not None
    assert Renderer.load(str(tmp_path / "adapters")) is not None


# ---------------------------------------------------------------------- refused


def changed(folder: Path, **values) -> str:
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in content.items() if value != "absent"}))
    return str(folder)


def test_a_base_with_other_weights_is_refused(tiny_model, tmp_path):
    ours(tiny_model, "causal", tmp_path / "adapters")
    shutil.copytree(tiny_model, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"] += 0.1
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    path = changed(tmp_path / "adapters", base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(DataError, match="holds adapters for other weights") as caught:
        load_model(path, "causal")
    assert "base_model_name_or_path" in str(caught.value)


def test_a_base_of_another_shape_is_refused(tiny_model, write_model, tmp_path):
    written_by_peft(tiny_model, tmp_path, causal(target_modules=["k_proj"]))
    path = changed(tmp_path, base_model_name_or_path=write_model("qwen2"))
    with pytest.raises(DataError, match=r"do not fit their base model .*qwen2"):
        load_model(path, "causal")
    path = changed(tmp_path, base_model_name_or_path=write_model("gpt2"))
    with pytest.raises(DataError, match=r"do not fit their base model .*gpt2"):
        load_model(path, "causal")


@pytest.mark.parametrize("base", ["absent", None, ""])
def test_a_base_that_is_not_named_is_asked_for(tiny_model, base, tmp_path):
    written_by_peft(tiny_model, tmp_path, causal())
    for load in (lambda path: load_model(path, "causal"), Renderer.load):
        with pytest.raises(DataError, match=r"names no base model\n.*base_model_name_or_path"):
            load(changed(tmp_path, base_model_name_or_path=base))


@pytest.mark.parametrize("base", ["/nowhere/at/all", "../gone"])
def test_a_base_that_is_not_there_is_refused_by_its_name(tiny_model, base, tmp_path):
    written_by_peft(tiny_model, tmp_path, causal())
    with pytest.raises(
        DataError, match=rf"holds adapters for {base}, and there is no such folder\n.*write where it is"
    ):
        load_model(changed(tmp_path, base_model_name_or_path=base), "causal")


def test_a_base_on_the_hub_that_cannot_be_had_is_refused_by_its_name(tiny_model, tmp_path):
    written_by_peft(tiny_model, tmp_path, causal())
    path = changed(tmp_path, base_model_name_or_path="somebody/some-model")
    with pytest.raises(DataError, match=r"(?s)their base model cannot be loaded:\n.*somebody/some-model"):
        load_model(path, "causal")


def test_adapters_that_are_their_own_base_are_refused(tiny_model, tmp_path):
    written_by_peft(tiny_model, tmp_path, causal())
    with pytest.raises(DataError, match="names this folder as their base model"):
        load_model(changed(tmp_path, base_model_name_or_path=str(tmp_path)), "causal")


def test_adapters_of_a_model_of_another_kind_are_refused(tiny_model, tmp_path):
    written_by_peft(tiny_model, tmp_path, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    with pytest.raises(DataError, match="adapters of a reward model or classifier, and a language model is asked for"):
        load_model(str(tmp_path), "causal")
    path = changed(tmp_path, task_type="TOKEN_CLS")
    with pytest.raises(DataError, match="adapters of a model for TOKEN_CLS, and a reward model is asked for"):
        load_model(path, "scalar")


def test_adapters_that_change_no_weights_are_refused(tiny_model, tmp_path):
    written_by_peft(tiny_model, tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(DataError, match="PROMPT_TUNING cannot be added to a model's weights"):
        load_model(str(tmp_path), "causal")


@pytest.mark.parametrize("what", ["lacks", "has no place for"])
def test_files_with_too_few_or_too_many_weights_are_refused(tiny_model, what, tmp_path):
    written_by_peft(tiny_model, tmp_path, causal())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(weights))
    value = weights.pop(name) if what == "lacks" else weights[name].clone()
    if what != "lacks":
        weights[name.replace("layers.0", "layers.7").replace("layers.1", "layers.7")] = value
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(DataError, match=f"one {what} 1 weights"):
        load_model(str(tmp_path), "causal")


def test_a_reward_model_without_its_head_is_not_given_a_random_one(tiny_model, tmp_path):
    written_by_peft(tiny_model, tmp_path, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {name: each for name, each in weights.items() if "score" not in name}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(DataError, match="score"):
        load_model(str(tmp_path), "scalar")


def test_a_folder_with_a_model_and_adapters_is_refused_as_two(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "both")
    written_by_peft(tiny_model, tmp_path / "adapters", causal())
    for file in (tmp_path / "adapters").iterdir():
        shutil.copy(file, tmp_path / "both")
    with pytest.raises(DataError, match=r"weights of a whole model .* and adapters, too"):
        load_model(str(tmp_path / "both"), "causal")


def test_a_damaged_config_is_refused(tiny_model, tmp_path):
    written_by_peft(tiny_model, tmp_path, causal())
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(DataError, match=r"adapter_config\.json: is no JSON"):
        load_model(str(tmp_path), "causal")
