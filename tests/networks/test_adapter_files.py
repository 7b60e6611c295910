"""Adapters in peft's own format: written here and read by peft, written by peft and gone on with here."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.adapter_files import save_adapters, saved_adapters
from lit_rlhf.networks.adapter_sharing import add_saved, start_from
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import fingerprint, load_model
from lit_rlhf.world import tokenizer

IDS = torch.arange(6, 30).reshape(2, 12)


def moved(model: nn.Module, seed: int = 1) -> nn.Module:
    """All that is trained has learnt something; the rank of an adapter's product stays what it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def base_of(model: PreTrainedModel) -> str:
    return fingerprint(model.base_model, skip="pooler.")


def trained(path: str, kind: str, lora: LoRA, folder: Path) -> PreTrainedModel:
    """A model with adapters that have moved, written to a folder."""
    model = load_model(path, kind)
    base = base_of(model)
    lora.add(model)
    moved(model)
    save_adapters(model, lora, base, path, folder)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


def read_by_peft(maker: type, path: str, folder: Path, **options) -> PeftModel:
    base = maker.from_pretrained(path, dtype=torch.float32, **options)
    base.config.pad_token_id = 0
    return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize("targets", ["all-linear", None])
def test_peft_loads_a_policys_adapters_with_equal_logits(any_model, targets, tmp_path):
    names = targets or (["c_attn"] if "gpt2" in any_model else ["q_proj", "0.mlp.down_proj"])
    model = trained(any_model, "causal", LoRA(r=3, alpha=5.0, targets=names), tmp_path / "adapters")
    theirs = read_by_peft(AutoModelForCausalLM, any_model, tmp_path / "adapters")
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(any_model, dtype=torch.float32).eval()
    assert (logits(plain) - logits(model)).abs().max() > 1e-2, "the adapters matter"
    written = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    assert written.keys() == get_peft_model_state_dict(theirs, save_embedding_layers=False).keys()


def test_weights_have_the_names_that_peft_gives_them(tiny_model, tmp_path):
    trained(tiny_model, "scalar", LoRA(r=2, targets=["q_proj"]), tmp_path / "adapters")
    found = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    expected = {layer.format(number, side) for number in (0, 1) for side in "AB"}
    assert found.keys() == {*expected, "base_model.model.score.weight"}


@pytest.mark.parametrize("targets", ["all-linear", None])
def test_peft_loads_a_reward_models_adapters_and_head_with_equal_scores(any_model, targets, tmp_path):
    names = targets or (["c_fc"] if "gpt2" in any_model else ["v_proj"])
    model = trained(any_model, "scalar", LoRA(r=2, targets=names), tmp_path / "adapters")
    model.config.pad_token_id = 0
    theirs = read_by_peft(AutoModelForSequenceClassification, any_model, tmp_path / "adapters", num_labels=1)
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=1e-5)
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert config["fan_in_fan_out"] == ("gpt2" in any_model)


ENCODERS = {
    "bert": (transformers.BertConfig, {"classifier", "pooler"}),
    "roberta": (transformers.RobertaConfig, {"classifier"}),
    "distilbert": (transformers.DistilBertConfig, {"classifier", "pre_classifier"}),
    "modernbert": (transformers.ModernBertConfig, {"classifier", "head"}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_peft_loads_an_encoders_adapters_with_all_of_its_head(name, tmp_path):
    make, parts = ENCODERS[name]
    size = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2} if name == "distilbert" else {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = make(vocab_size=300, pad_token_id=0, num_labels=1, **size)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "base")
    model = trained(str(tmp_path / "base"), "scalar", LoRA(r=2), tmp_path / "adapters")
    theirs = read_by_peft(AutoModelForSequenceClassification, str(tmp_path / "base"), tmp_path / "adapters")
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=1e-5)
    assert set(json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())["modules_to_save"]) == parts


def test_peft_loads_a_rewriters_adapters(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    model = load_model(str(tmp_path / "base"), "rewriter")
    base, lora = base_of(model), LoRA(r=2)
    lora.add(model)
    model.get_output_embeddings().requires_grad_(False)
    assert not any("lm_head" in name for name, each in model.named_parameters() if each.requires_grad)
    moved(model)
    save_adapters(model, lora, base, str(tmp_path / "base"), tmp_path / "adapters")
    theirs = read_by_peft(transformers.AutoModelForSeq2SeqLM, str(tmp_path / "base"), tmp_path / "adapters")
    with torch.no_grad():
        both = [each(input_ids=IDS, decoder_input_ids=IDS).logits for each in (theirs, model)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


def test_files_are_the_same_every_time_and_name_the_base_as_it_was_given(tiny_model, tmp_path, monkeypatch):
    for name in ("a", "b"):
        torch.manual_seed(0)
        trained(tiny_model, "causal", LoRA(r=2), tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors", "base.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    monkeypatch.chdir(Path(tiny_model).parent)
    trained(tiny_model, "causal", LoRA(r=2), tmp_path / "c")
    told = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in "ac"]
    assert [each["base_model_name_or_path"] for each in told] == [tiny_model, Path(tiny_model).name]


# ---------------------------------------------------------------------- gone on with


def written_by_peft(path: str, folder: Path, **options) -> nn.Module:
    """Adapters that peft made and saved."""
    torch.manual_seed(2)
    task = options.setdefault("task_type", "CAUSAL_LM")
    model = load_model(path, "scalar" if task == "SEQ_CLS" else "causal")
    model.name_or_path = path
    theirs = moved(get_peft_model(model, LoraConfig(**options)))
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("rslora", [False, True])
def test_training_goes_on_from_adapters_that_peft_wrote(tiny_model, rslora, tmp_path):
    alpha = 2.0 if rslora else 4.0  # 2 / sqrt(4) and 4 / 4
    theirs = written_by_peft(
        tiny_model, tmp_path, r=4, lora_alpha=alpha, use_rslora=rslora, target_modules=["q_proj", "v_proj"]
    )
    model, lora = load_model(tiny_model, "causal"), LoRA(r=4, alpha=4.0, targets=["q_proj", "v_proj"])
    base = base_of(model)
    lora.add(model)
    start_from(model, tmp_path, base, tiny_model)
    torch.testing.assert_close(logits(model), logits(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias: lora_only"),
        ({"modules_to_save": ["norm"]}, r"norm\.weight beside them"),
        ({"task_type": "SEQ_CLS"}, r"score\.weight beside them"),
        ({"lora_alpha": 8.0}, "another lora: r 4, alpha 8"),
        ({"r": 2, "lora_alpha": 4.0}, "another lora: r 2"),
        ({"target_modules": ["q_proj"]}, r"on 2 layers \(q_proj\), not r 4, alpha 4 on 4 layers"),
        ({"rank_pattern": {"0.self_attn.q_proj": 2}}, "r 2, alpha 4 and r 4, alpha 4"),
    ],
)
def test_adapters_of_another_kind_are_refused_by_what_differs(tiny_model, options, told, tmp_path):
    given = {"r": 4, "lora_alpha": 4.0, "target_modules": ["q_proj", "v_proj"], **options}
    written_by_peft(tiny_model, tmp_path, **given)
    model, lora = load_model(tiny_model, "causal"), LoRA(r=4, alpha=4.0, targets=["q_proj", "v_proj"])
    base = base_of(model)
    lora.add(model)
    with pytest.raises(DataError, match=told):
        start_from(model, tmp_path, base, tiny_model)


def test_peft_adapters_of_another_base_are_refused_by_its_name(tiny_model, write_model, tmp_path):
    written_by_peft(write_model("qwen2"), tmp_path, target_modules=["q_proj"])
    model, lora = load_model(tiny_model, "causal"), LoRA(targets=["q_proj"])
    base = base_of(model)
    lora.add(model)
    with pytest.raises(DataError, match=r"belong to other frozen weights: .*qwen2"):
        start_from(model, tmp_path, base, tiny_model)


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], r".*\.1\.self_attn\.[qk]_proj", "all-linear"])
def test_a_reward_model_of_pefts_shares_the_trunk(tiny_model, targets, tmp_path):
    options = {"target_modules": targets, "r": 3, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 7}}
    theirs = written_by_peft(tiny_model, tmp_path, task_type="SEQ_CLS", **options)
    model = load_model(tiny_model, "causal")
    base = base_of(model)
    LoRA(r=2).add(model)
    head = add_saved(model, tmp_path, base, tiny_model, "reward_0")
    assert head is not None
    layers = [part for part in model.modules() if hasattr(part, "lora_A") and "reward_0" in part.lora_A]
    for part in layers:
        part._active_adapter = ["reward_0"]
    for part in model.modules():
        if hasattr(part, "lora_A") and part not in layers:
            part._disable_adapters = True
    with torch.no_grad():
        states = model.base_model(input_ids=IDS).last_hidden_state[:, -1]
    torch.testing.assert_close(states @ head[0], logits(theirs)[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"modules_to_save": ["score", "norm"]}])
def test_a_reward_model_that_is_more_than_adapters_and_a_head_keeps_its_own_weights(tiny_model, options, tmp_path):
    written_by_peft(tiny_model, tmp_path, task_type="SEQ_CLS", target_modules=["q_proj"], **options)
    model = load_model(tiny_model, "causal")
    base = base_of(model)
    LoRA(r=2).add(model)
    assert add_saved(model, tmp_path, base, tiny_model, "reward_0") is None


# ---------------------------------------------------------------------- of earlier versions


def of_earlier_version(model: PreTrainedModel, lora: dict, base: str, folder: Path, head: bool) -> None:
    weights = {name: value for name, value in model.base_model.state_dict().items() if ".lora_" in name}
    if head:
        weights["head.weight"] = model.score.weight.detach()
    folder.mkdir()
    save_file(weights, folder / "adapters.safetensors")
    (folder / "adapters.json").write_text(json.dumps({"base": base, "lora": lora, "head": head}))


def test_a_policy_of_an_earlier_version_is_gone_on_from(tiny_model, tmp_path):
    lora = LoRA(r=2, alpha=6.0)
    before = load_model(tiny_model, "causal")
    base = base_of(before)
    lora.add(before)
    moved(before)
    told = {"r": 2, "alpha": 6.0, "dropout": 0.0, "targets": "all-linear"}
    of_earlier_version(before, told, base, tmp_path / "adapters", head=False)
    model = load_model(tiny_model, "causal")
    lora.add(model)
    start_from(model, tmp_path, base, tiny_model)
    assert torch.equal(logits(model), logits(before))
    with pytest.raises(DataError, match="other frozen weights"):
        start_from(model, tmp_path, "another", tiny_model)


def test_a_reward_model_of_an_earlier_version_shares_the_trunk(tiny_model, tmp_path):
    before = load_model(tiny_model, "scalar")
    base = base_of(before)
    LoRA(r=2).add(before)
    moved(before)
    told = {"r": 2, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
    of_earlier_version(before, told, base, tmp_path / "adapters", head=True)
    model = load_model(tiny_model, "causal")
    LoRA(r=3).add(model)
    head = add_saved(model, tmp_path, base, tiny_model, "reward_0")
    assert head is not None
    assert torch.equal(head, before.score.weight)
    assert add_saved(model, tmp_path, "another", tiny_model, "reward_1") is None


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_damaged_files_are_refused_by_their_folder(tiny_model, tmp_path, file):
    trained(tiny_model, "causal", LoRA(r=2), tmp_path / "adapters")
    (tmp_path / "adapters" / file).write_text("{")
    with pytest.raises(DataError, match="adapters"):
        saved_adapters(tmp_path)
