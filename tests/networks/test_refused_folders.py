"""Folders of which no model can be made: each is refused in one line that says what is missing and what helps."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import load_model
from tests.networks.folders import folder, renamed
from tests.networks.test_encoders import write
from tests.networks.test_model_folders import scores


def write_config(path: Path, config: transformers.PreTrainedConfig) -> None:
    config.save_pretrained(path)


def pointer(path: Path, name: str = "model.safetensors") -> Path:
    (path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return path / name


def parts(path: Path, absent: bool = True) -> None:
    """Cut into two files, of which one may be gone."""
    file = path / "model.safetensors"
    weights = load_file(file)
    names = {name: f"model-0000{1 + (number > 4)}-of-00002.safetensors" for number, name in enumerate(weights)}
    for part in sorted(set(names.values()))[: 1 if absent else 2]:
        save_file({name: weights[name] for name in names if names[name] == part}, path / part)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    file.unlink()


def quantised(**way):
    return lambda path: folder_config(path, quantization_config=way)


def folder_config(path: Path, **entries) -> None:
    content = {**json.loads((path / "config.json").read_text()), **entries}
    (path / "config.json").write_text(json.dumps({name: each for name, each in content.items() if each is not None}))


CODE = {"auto_map": {"AutoModelForCausalLM": "modeling.Own"}, "model_type": "own"}
REFUSED = {
    "pointer": (pointer, "model.safetensors is a git-lfs pointer", "git lfs pull"),
    "part": (parts, "1 of 2 files with weights are missing.*model-00002-of-00002", "Copy or download"),
    "pointer to parts": (lambda p: pointer(p).rename(p / "model.safetensors.index.json"), "git-lfs pointer", "git lfs"),
    "nothing": (lambda p: (p / "model.safetensors").unlink(), "holds no weights: there is neither", "directory"),
    "gguf": (lambda p: (p / "model.safetensors").rename(p / "model.gguf"), "holds no weights", "GGUF"),
    "cut off": (lambda p: (p / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"), "no .* could be loaded", ""),
    "code": (lambda p: folder_config(p, **CODE), r"architecture \(own\) is code.* never run", "transformers knows"),
    "no type": (lambda p: folder_config(p, model_type=None), "names no model_type", '"model_type": "llama"'),
    "unknown": (lambda p: folder_config(p, model_type="llama9"), "knows no architecture 'llama9'", "pip install -U"),
    "no json": (lambda p: (p / "config.json").write_text("{"), "not a valid JSON", ""),
    "gptq": (quantised(quant_method="gptq", bits=4), r"quantised \(gptq\)", "gptqmodel"),
    "awq": (quantised(quant_method="awq", bits=4), r"quantised \(awq\)", "made from"),
    "bnb": (quantised(quant_method="bitsandbytes", load_in_4bit=True), r"quantised \(bitsandbytes\)", "dequantize"),
    "old bnb": (quantised(load_in_8bit=True), r"quantised \(bitsandbytes\)", "dequantize"),
    "fp8": (quantised(quant_method="fp8"), r"quantised \(fp8\)", "made from"),
    "pictures": (
        lambda p: write_config(p, transformers.LlavaConfig()), r"a model for text and vision \(llava\)", "text alone",
    ),
    "corrects": (
        lambda p: write_config(p, transformers.T5Config(architectures=["T5ForConditionalGeneration"])),
        r"an encoder–decoder \(T5ForConditionalGeneration\)", "Llama",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["causal", "scalar"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_refused_in_a_line_that_says_what_helps(tiny_model, tmp_path, case, kind):
    spoil, what, hint = REFUSED[case]
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    spoil(path)
    with pytest.raises(DataError, match=rf"{path}: .*{what}.*(\n.*{hint})?") as caught:
        load_model(str(path), kind)
    assert hint in str(caught.value)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("name", "way"),
    [("g_idx", "gptq"), ("qweight", "GPTQ or AWQ"), ("SCB", "bitsandbytes"), ("weight.absmax", "bitsandbytes")],
)
def test_quantised_weights_are_known_without_a_word_in_the_config(tiny_model, tmp_path, name, way):
    layer = "model.layers.0.self_attn.q_proj"
    path = folder(tiny_model, tmp_path / "model", lambda w: w | {f"{layer}.{name}": torch.ones(2, 2)})
    with pytest.raises(DataError, match=rf"quantised \({way}\), and plain ones are needed\n.*made from"):
        load_model(path, "causal")


def test_a_known_architecture_loads_though_code_lies_beside_it(tiny_model, tmp_path, caplog):
    auto_map = {"AutoModelForCausalLM": "modeling.Own"}
    with caplog.at_level("INFO"):
        load_model(folder(tiny_model, tmp_path / "model", auto_map=auto_map), "causal")
        assert "code" not in caplog.text
        path = folder(tiny_model, tmp_path / "own", auto_map=auto_map, architectures=["LlamaForOwn"])
        load_model(path, "causal")
    assert f"{path}: its own code (LlamaForOwn) is not run; it is read as transformers' llama" in caplog.text


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old", [False, True])
def test_weights_in_pytorchs_own_format_load(tiny_reward_model, tmp_path, old, prefix):
    path = Path(folder(tiny_reward_model, tmp_path / "model", renamed(prefix)))
    weights = load_file(path / "model.safetensors")
    weights = {"state_dict": weights, "epoch": 1} if prefix else weights  # a trainer's own checkpoint
    torch.save(weights, path / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    (path / "model.safetensors").unlink()
    torch.testing.assert_close(scores(str(path)), scores(tiny_reward_model))


def test_several_files_with_weights_load(tiny_reward_model, tmp_path):
    path = Path(folder(tiny_reward_model, tmp_path / "model", renamed("module.")))
    parts(path, absent=False)
    torch.testing.assert_close(scores(str(path)), scores(tiny_reward_model))


def test_a_reward_model_cannot_be_a_policy(tiny_reward_model, tmp_path):
    for kind in ("causal", "rewriter"):
        with pytest.raises(DataError, match=r"a reward model or classifier \(Llama\w+\), without a head for words"):
            load_model(tiny_reward_model, kind)
    with pytest.raises(DataError, match=r"a reward model or classifier \(BertForSequenceClassification\)"):
        load_model(write("bert", tmp_path / "bert"), "causal")
    body = transformers.AutoModel.from_pretrained(tiny_reward_model)
    config = transformers.LlamaConfig(**{**body.config.to_dict(), "tie_word_embeddings": False})
    transformers.LlamaModel(config).save_pretrained(tmp_path / "body")
    with pytest.raises(DataError, match=r"lack 1 \(lm_head\.weight\)"):
        load_model(str(tmp_path / "body"), "causal")


def test_a_model_that_labels_tokens_gives_no_score(tiny_model, tmp_path):
    model = transformers.AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=1)
    model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"labels every token \(LlamaForTokenClassification\)"):
        load_model(str(tmp_path), "scalar")
