import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import (
    by_length,
    call_body,
    check_length,
    ensure_pad_token,
    export,
    fingerprint,
    load_model,
    replace_directory,
)

IDS = torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 15, 16]])


@pytest.fixture
def renderer(tiny_model) -> Renderer:
    return Renderer.load(tiny_model)


# ---------------------------------------------------------------------- loading


def test_a_language_model_loads_in_single_precision_for_both_uses(any_model):
    causal, scalar = load_model(any_model, "causal"), load_model(any_model, "scalar")
    assert {p.dtype for model in (causal, scalar) for p in model.parameters()} == {torch.float32}
    assert torch.equal(call_body(causal, IDS), call_body(scalar, IDS)), "they share the body"
    assert scalar(input_ids=IDS[:1]).logits.shape == (1, 1)


@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_a_place_without_a_model_is_an_error_that_names_it(tmp_path, kind):
    with pytest.raises(DataError, match=f"{tmp_path.name}: this folder holds no model"):
        load_model(str(tmp_path), kind)


def test_sequences_longer_than_the_model_are_refused(any_model):
    model = load_model(any_model, "causal")
    check_length(model, 256)
    with pytest.raises(DataError, match="257 tokens exceeds the model's 256 positions"):
        check_length(model, 257)
    with pytest.raises(DataError, match="max_length"):
        call_body(model, torch.ones(1, 257, dtype=torch.long))


def test_hidden_states_do_not_see_the_padding_behind_them(any_model):
    model = load_model(any_model, "causal").eval()
    alone = call_body(model, IDS[:, :3])
    for garbage in (0, 5, 600):
        padded = torch.cat([IDS[:, :3], torch.full((2, 4), garbage)], 1)
        torch.testing.assert_close(call_body(model, padded)[:, :3], alone)


# ---------------------------------------------------------------------- the fingerprint


def test_fingerprint_changes_with_any_tensor(tiny_model):
    network = load_model(tiny_model, "causal")
    original = fingerprint(network)
    assert fingerprint(copy.deepcopy(network)) == original
    named = {original}
    for name, parameter in network.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(1e-6 * torch.randn_like(parameter))  # an optimiser step moves a whole tensor
        assert fingerprint(network) not in named, name
        named.add(fingerprint(network))
        with torch.no_grad():
            parameter.copy_(before)
    assert fingerprint(network) == original


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_fingerprint_changes_with_any_value_of_a_small_tensor(size):
    network = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(size))})
    named = {fingerprint(network)}
    for index in {0, size // 2, size - 1}:
        with torch.no_grad():
            network["weight"].zero_()[index] = 1.0
        assert fingerprint(network) not in named
        named.add(fingerprint(network))


def test_fingerprint_knows_names_and_shapes():
    values = torch.arange(6.0)
    networks = [
        {"a": values},
        {"b": values},
        {"a": values.reshape(2, 3)},
        {"a": values.reshape(3, 2)},
        {"a": values[:3], "b": values[3:]},
        {"a": values[3:], "b": values[:3]},
    ]
    assert len({fingerprint(nn.ParameterDict(network)) for network in networks}) == len(networks)


def test_fingerprint_is_stable_over_saving_and_loading(any_model, tmp_path):
    network = load_model(any_model, "causal")
    network.save_pretrained(tmp_path)
    assert fingerprint(load_model(str(tmp_path), "causal")) == fingerprint(network)
    assert fingerprint(network.train().requires_grad_(False)) == fingerprint(network)
    assert len(fingerprint(network)) == 16


# ---------------------------------------------------------------------- export


def test_plain_transformers_loads_what_was_exported(any_model, tmp_path):
    renderer = Renderer.load(any_model)
    model = load_model(any_model, "causal").eval()
    target = export(model, renderer, tmp_path / "deep" / "model")
    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    tokenizer = AutoTokenizer.from_pretrained(target)
    turns = [{"role": "user", "content": "Give a tip"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == renderer.prompt_text((Message("user", "Give a tip"),))
    assert {path.name for path in target.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert list(target.parent.iterdir()) == [target], "nothing else is left"


def test_an_exported_template_is_that_of_the_run(tiny_model, tmp_path):
    target = export(load_model(tiny_model, "causal"), Renderer.load(tiny_model, "dialogue"), tmp_path / "model")
    assert Renderer.load(str(target)).fingerprint == Renderer.load(tiny_model, "dialogue").fingerprint


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("failing", ["model", "tokenizer"])
def test_an_export_that_fails_leaves_the_old_directory_as_it_was(tiny_model, renderer, tmp_path, monkeypatch, failing):
    target = tmp_path / "model"
    model = load_model(tiny_model, "causal")
    export(model, renderer, target)
    before = contents(target)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1)

    def half(directory, *args, **kwargs):
        (Path(directory) / "config.json").write_text("{")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model if failing == "model" else renderer.tokenizer, "save_pretrained", half)
        with pytest.raises(OSError, match="no space left"):
            export(model, renderer, target)
        with pytest.raises(OSError, match="no space left"):
            export(model, renderer, tmp_path / "other")
    assert contents(target) == before
    assert not (tmp_path / "other").exists()
    export(model, renderer, target)
    assert contents(target) != before
    assert fingerprint(load_model(str(target), "causal")) == fingerprint(model)


def test_a_replaced_directory_keeps_nothing_of_the_old_one(tmp_path):
    for name, file in (("target", "old"), (".target.outdated", "older"), ("partial", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    replace_directory(tmp_path / "partial", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]


def test_files_and_directories_may_follow_each_other(tmp_path):
    for number in range(4):
        partial, target = tmp_path / "partial", tmp_path / "target"
        partial.touch() if number in (0, 3) else partial.mkdir()
        replace_directory(partial, target)
        assert [path.name for path in tmp_path.iterdir()] == ["target"]
        assert target.is_file() == (number in (0, 3))


# ---------------------------------------------------------------------- the padding token


def test_a_padding_token_of_its_own_is_kept(tiny_model, renderer):
    model = load_model(tiny_model, "scalar")
    words = len(renderer.tokenizer)
    ensure_pad_token(model, renderer)
    assert model.config.pad_token_id == renderer.tokenizer.pad_token_id != renderer.eos_id
    assert len(renderer.tokenizer) == words == model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("pad", ["<eos>", None])
def test_padding_that_ends_responses_is_replaced(tiny_model, renderer, pad):
    renderer.tokenizer.pad_token = pad
    model = load_model(tiny_model, "scalar").eval()
    before = call_body(model, IDS)
    ensure_pad_token(model, renderer)
    pad_id = renderer.tokenizer.pad_token_id
    assert model.config.pad_token_id == pad_id
    assert pad_id not in (None, renderer.eos_id)
    assert pad_id < model.get_input_embeddings().weight.shape[0]
    assert renderer.tokenizer.decode([pad_id]) == "<|pad|>"
    assert torch.equal(call_body(model, IDS), before), "the other words keep their vectors"
    again = renderer.tokenizer.pad_token_id
    ensure_pad_token(model, renderer)
    assert renderer.tokenizer.pad_token_id == again


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
def test_an_exported_scalar_model_says_what_it_pads_with(tiny_model, renderer, tmp_path, pad):
    renderer.tokenizer.pad_token = pad
    model = load_model(tiny_model, "scalar")
    ensure_pad_token(model, renderer)
    target = export(model, renderer, tmp_path / "model")
    config = json.loads((target / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert config["vocab_size"] == len(tokenizer)
    loaded = AutoModelForSequenceClassification.from_pretrained(target)
    assert loaded.config.num_labels == 1


def _ragged(n: int = 20) -> Sequences:
    generator = torch.Generator().manual_seed(3)
    draw = lambda low, high: torch.randint(low, high, (1,), generator=generator).item()  # noqa: E731
    rows = lambda: [torch.randint(6, 600, (draw(1, 30),), generator=generator).tolist() for _ in range(n)]  # noqa: E731
    return stack_sequences(rows(), rows(), 0)


def test_grouping_rows_by_length_changes_no_number():
    rows, beside = _ragged(), torch.arange(20.0)
    found = by_length(rows, lambda part, more: part.length + more, beside)
    assert torch.equal(found, rows.length + beside)


def test_rows_are_grouped_only_where_much_would_be_padding():
    calls = []
    by_length(_ragged(), lambda rows: calls.append(len(rows)) or rows.length.float())
    assert sorted(calls) == [4, 8, 8]
    calls.clear()
    alike = stack_sequences([[7] * 5] * 20, [[8] * 9] * 20, 0)
    assert by_length(alike, lambda rows: calls.append(len(rows)) or rows.length.float()).tolist() == [14.0] * 20
    assert calls == [20]
