import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, DeepseekV3Config

from lit_rlhf.data.batches import pad_rows
from lit_rlhf.networks.adapters import LoRA, activate
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.decoding import for_decoding
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.prefill import prefill
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.networks.states import packs

IDS = torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 15, 16]])


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    monkeypatch.setenv("LIT_RLHF_FAST", "{}")


def with_adapters(path):
    model = load_model(path, "causal").eval()
    LoRA(r=2).add(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("adapters", [False, True])
def test_meanwhile_the_logits_are_the_same_and_afterwards_the_weights(any_model, adapters):
    model = with_adapters(any_model) if adapters else load_model(any_model, "causal").eval()
    state = copy.deepcopy(model.state_dict())
    strides = {name: value.stride() for name, value in model.named_parameters()}
    with torch.no_grad():
        expected = model(IDS).logits
        with for_decoding(model):
            torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(model(IDS).logits, expected)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: value.stride() for name, value in model.named_parameters()} == strides


def test_adapters_cost_nothing_meanwhile(tiny_model):
    model = with_adapters(tiny_model)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    with for_decoding(model):
        assert all(layer.disable_adapters for layer in layers), "their change is in the weights"
    assert not any(layer.disable_adapters for layer in layers)


def test_adapters_of_other_layers_do_no_harm(tiny_model):
    """A reward model's adapters may lie where the policy has none."""
    model = load_model(tiny_model, "causal").eval()
    LoRA(r=2, targets=["q_proj"]).add(model)
    LoRA(r=2).add(model, "reward_0")
    activate(model.base_model, "default")
    expected = model(IDS).logits
    with torch.no_grad(), for_decoding(model):
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_weight_that_two_layers_share_comes_back(tiny_model):
    model = load_model(tiny_model, "causal").eval()
    layers = model.base_model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    LoRA(r=2).add(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(model.state_dict())
    expected = model(IDS).logits
    with torch.no_grad(), for_decoding(model):
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_frozen_stays_frozen(tiny_model):
    model = with_adapters(tiny_model).requires_grad_(False)
    sample(model, *pad_rows([[7, 8, 9], [10]], 0), 2, Sampling(max_new_tokens=3))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_part_that_is_in_another_mode_stays_in_it(tiny_model):
    model = load_model(tiny_model, "causal").train()
    model.base_model.layers[0].eval()
    sample(model, *pad_rows([[7, 8, 9], [10]], 0), 2, Sampling(max_new_tokens=3))
    assert model.training
    assert not model.base_model.layers[0].training


def test_the_weights_come_back_when_decoding_fails(tiny_model):
    model = with_adapters(tiny_model)
    before = model(IDS).logits
    with pytest.raises(ValueError, match="broken"), for_decoding(model):
        raise ValueError("broken")
    assert torch.equal(model(IDS).logits, before)


@pytest.mark.parametrize("fast", [True, False])
def test_adapters_answer_as_the_merged_model_does(tiny_model, fast):
    FastPaths(decoding=fast).use()
    prompts, lengths = pad_rows([[7, 8, 9], [10] * 8, [11]], 0)
    model = with_adapters(tiny_model)
    greedy = Sampling(max_new_tokens=12, temperature=0.0)
    found, _ = sample(model, prompts, lengths, 2, greedy)
    with torch.no_grad():
        for row, start, length in zip(found.ids, lengths.tolist(), found.length.tolist(), strict=True):
            logits = model(row[None, :length]).logits[0, start - 1 : length - 1]
            assert torch.equal(logits.argmax(-1), row[start:length])


def test_prompts_are_read_without_padding_to_the_same_end(any_model):
    model = load_model(any_model, "causal").eval()
    prompts, lengths = pad_rows([[7, 8, 9], [10, 11] * 4, [11], [7, 8, 9]], 0)
    found = []
    with torch.no_grad():
        for way in (FastPaths(packing=False), FastPaths(last_layer=False), FastPaths()):
            way.use()
            logits, cache, mask = prefill(model, prompts, lengths, 2)
            real = mask[:, None]
            layers = [
                states[real[..., -states.shape[2] :].expand(states.shape[:3])]
                for layer in cache.layers
                for states in (layer.keys, layer.values)
            ]
            found.append((logits, *layers))
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], atol=2e-5, rtol=1e-5)


def test_nothing_is_computed_for_padding(tiny_model):
    model, seen = load_model(tiny_model, "causal").eval(), []
    prompts, lengths = pad_rows([[7, 8, 9], [10, 11] * 4, [11]], 0)
    packs(model)
    model.get_input_embeddings().register_forward_hook(lambda _, ids, states: seen.append(ids[0].numel()))
    with torch.no_grad():
        prefill(model, prompts, lengths, 2)
    assert seen == [12]


def test_a_cache_of_latent_states_is_filled_alike():
    """DeepSeek's attention sees other keys than its cache holds."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8}
    widths = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1}
    more = {"topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "vocab_size": 50}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(DeepseekV3Config(**sizes, **heads, **widths, **more)).eval()
    prompts, lengths = pad_rows([[7, 8, 9], [10, 11] * 4, [11]], 0)
    found = []
    for way in (FastPaths(), FastPaths(packing=False)):
        way.use()
        found.append(sample(model, prompts, lengths, 2, Sampling(max_new_tokens=8, temperature=0.0))[0].ids)
    assert torch.equal(*found)
