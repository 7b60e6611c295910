import copy
import itertools
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, BloomConfig, GPTJConfig, MistralConfig

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks import states
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.packing import NAME, attend, pack
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.states import packs, states_at

WAYS = [FastPaths(*ways) for ways in itertools.product([False, True], repeat=4)]
PLAIN = FastPaths(False, False, False, False)


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    monkeypatch.setenv("LIT_RLHF_FAST", "{}")
    monkeypatch.setattr(states, "_tokens_at_once", lambda model: 150)  # of some 500: several parts


def test_long_rows_are_cut_into_pieces_and_still_right(tiny_model, monkeypatch):
    monkeypatch.setattr(states, "_tokens_at_once", lambda model: None)
    generator = torch.Generator().manual_seed(5)
    words = [torch.randint(6, 600, (n,), generator=generator).tolist() for n in (60, 120, 191, 30, 8)]
    sequences = stack_sequences([words[0], words[0], words[2]], [words[1] + words[3], words[1], words[4]], 0)
    network = PolicyNetwork(tiny_model)
    same(measured(network, sequences, FastPaths()), measured(network, sequences, PLAIN))


def test_a_choice_of_tokens_is_left_to_the_architecture(tiny_model):
    model = load_model(tiny_model, "causal").eval()
    with pytest.raises(ValueError, match="not known here"):
        attend(model, *(torch.zeros(1, 2, 3, 4),) * 3, None, indices=torch.zeros(1, 3, 2))
    model.config.index_topk = 6
    assert not packs(model)
    assert model.config._attn_implementation == "sdpa"


def test_an_error_in_the_trial_leaves_the_model_as_it_was(tiny_model, monkeypatch):
    model = load_model(tiny_model, "causal").train()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(states, "_packed", stop)
    with pytest.raises(KeyboardInterrupt):
        packs(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_a_vocabulary_of_a_few_tokens_can_be_tried():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = MistralConfig(**sizes, intermediate_size=48, vocab_size=5, sliding_window=None)
    assert packs(AutoModelForCausalLM.from_config(config).eval())


@pytest.mark.parametrize("way", [PLAIN, FastPaths()])
def test_a_row_without_a_prompt_is_refused(tiny_model, way):
    way.use()
    with pytest.raises(DataError, match="has no token"):
        PolicyNetwork(tiny_model)(stack_sequences([[5, 6], []], [[7, 8], [7, 8]], 0))


def rows(prompts: int = 6, each: int = 3, vocabulary: int = 600) -> Sequences:
    """Ragged rows, several to a prompt, not side by side."""
    generator = torch.Generator().manual_seed(3)

    def words(low: int, high: int) -> list[int]:
        n = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(6, vocabulary, (n,), generator=generator).tolist()

    asked = [words(1, 30) for _ in range(prompts)]
    return stack_sequences(asked * each, [words(1, 30) for _ in range(prompts * each)], 0)


def measured(network, sequences, way, **options):
    """Outputs and gradients."""
    way.use()
    network.zero_grad()
    output = network(sequences, **options)
    mask = sequences.response_mask if output.dim() == 2 else torch.ones_like(output, dtype=torch.bool)
    (output * torch.arange(output.numel()).reshape(output.shape).cos())[mask].sum().backward()
    return output.detach()[mask], [p.grad.clone() for p in network.parameters() if p.grad is not None]


def same(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    for x, y in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(x, y, atol=1e-5 * (1 + float(y.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_every_fast_way_gives_the_plain_log_probabilities_and_gradients(any_model, way):
    network, sequences = PolicyNetwork(any_model), rows()
    same(measured(network, sequences, way), measured(network, sequences, PLAIN))


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
@pytest.mark.parametrize("values", [False, True])
def test_every_fast_way_gives_the_plain_scores_and_gradients(any_model, values, way):
    network, sequences = RewardNetwork(any_model), rows()
    same(measured(network, sequences, way, values=values), measured(network, sequences, PLAIN, values=values))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_the_usual_architectures_take_the_fast_ways(write_model, architecture):
    model = load_model(write_model(architecture), "causal")
    assert packs(model)
    assert packs(model, pruned=True)


def test_the_fast_ways_compute_less(tiny_model):
    network, sequences = RewardNetwork(tiny_model), rows()
    seen: dict[str, list[int]] = {"first": [], "last": []}
    layers = network.model.base_model.layers
    for name, layer in (("first", layers[0]), ("last", layers[-1])):
        layer.mlp.gate_proj.register_forward_hook(lambda _, x, y, name=name: seen[name].append(y[..., 0].numel()))
    packs(network.model)
    for each in seen.values():
        each.clear()
    with torch.no_grad():
        for ways in ((False, False, False), (True, False, False), (True, True, False), (True, True, True)):
            way = FastPaths(*ways, cache_sized=False)
            way.use()
            network(sequences)
    plain, padding_free, shared, pruned = ([sum(seen["first"][:3])], *([n] for n in seen["first"][3:]))
    tokens, prompts = int(sequences.length.sum()), int(sequences.prompt_length[:6].sum())
    assert (padding_free, shared, pruned) == ([tokens], [tokens - 2 * prompts], [tokens - 2 * prompts])
    assert plain[0] > tokens
    assert seen["last"][-2:] == [tokens - 2 * prompts, len(sequences)]


@pytest.mark.parametrize("config", [GPTJConfig, BloomConfig])
def test_architectures_with_an_attention_of_their_own_take_the_plain_way(config):
    sizes = {"hidden_size": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 600, "n_positions": 64}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**sizes, rotary_dim=8)).eval()
    before, network = model.config._attn_implementation, PolicyNetwork(model)
    same(measured(network, rows(), FastPaths()), measured(network, rows(), PLAIN))
    if type(model)._supports_attention_backend:  # GPT-J's attention is the shared one since transformers 5.24
        assert packs(model)
    else:
        assert not packs(model)
        assert model.config._attn_implementation == before


@pytest.mark.parametrize("window", [4, 64])
def test_a_window_of_attention_is_kept(window):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    config = MistralConfig(**sizes, intermediate_size=48, vocab_size=600, sliding_window=window)
    network = PolicyNetwork(AutoModelForCausalLM.from_config(config).eval())
    same(measured(network, rows(), FastPaths()), measured(network, rows(), PLAIN))


def test_an_attention_that_was_asked_for_stays(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    assert not packs(model)
    assert model.config._attn_implementation == "eager"


def test_another_attention_than_when_it_was_tried_is_noticed(tiny_model):
    model = load_model(tiny_model, "causal").eval()
    assert packs(model)
    model.set_attn_implementation("eager")
    assert not packs(model)
    network = PolicyNetwork(model)
    same(measured(network, rows(), FastPaths()), measured(network, rows(), PLAIN))


def test_capped_scores_and_layers_with_a_state_are_computed_the_plain_way(tiny_model):
    model = load_model(tiny_model, "causal").eval()
    with pytest.raises(ValueError, match="changes the scores"):
        attend(model, *(torch.zeros(1, 2, 3, 4),) * 3, None, pack(rows()), softcap=50.0)
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert not packs(model)


def test_padded_rows_and_masks_still_work_where_rows_can_be_packed(tiny_model):
    plain, model = (load_model(tiny_model, "causal").eval() for _ in range(2))
    assert packs(model)
    assert model.config._attn_implementation == NAME
    ids, mask = torch.tensor([[0, 0, 7, 8], [9, 10, 11, 12]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}):
            found, expected = (each(input_ids=ids, **options).logits for each in (model, plain))
            real = torch.ones_like(mask) if not options else mask
            assert torch.equal(found[real.bool()], expected[real.bool()])


def test_checkpointed_layers_give_the_same_gradients(tiny_model):
    network, sequences = RewardNetwork(tiny_model).train(), rows()
    expected = measured(network, sequences, PLAIN)
    for layer in network.model.base_model.layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = (
            True,
            partial(checkpoint, use_reentrant=False),
        )
    same(measured(network, sequences, FastPaths()), expected)


def test_adapters_are_trained_alike(tiny_model):
    network, sequences = RewardNetwork(tiny_model), rows()
    LoRA(r=2).add(network.model)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    same(measured(network, sequences, FastPaths()), measured(network, sequences, PLAIN))


def test_the_trial_leaves_the_model_as_it_was(tiny_model):
    model = load_model(tiny_model, "causal").train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    packs(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def under_one_system_turn(each: int = 1) -> Sequences:
    """`rows` whose prompts all begin with the same twenty tokens."""
    plain, system = rows(each=each), list(range(6, 26))
    listed = zip(plain.ids.tolist(), plain.prompt_length.tolist(), plain.length.tolist(), strict=True)
    prompts, answers = zip(
        *((system + ids[:prompt], ids[prompt:length]) for ids, prompt, length in listed), strict=True
    )
    return stack_sequences(list(prompts), list(answers), 0)


@pytest.mark.parametrize("kind", [PolicyNetwork, RewardNetwork])
def test_a_system_turn_that_all_begin_with_is_computed_once(tiny_model, kind):
    network, sequences = kind(tiny_model), under_one_system_turn()
    seen: list[int] = []
    same(measured(network, sequences, FastPaths()), measured(network, sequences, PLAIN))
    network.model.base_model.layers[0].mlp.register_forward_hook(lambda _, x, y: seen.append(y[..., 0].numel()))
    with torch.no_grad():
        FastPaths(cache_sized=False).use()
        network(sequences)
    assert seen == [int(sequences.length.sum()) - 20 * (len(sequences) - 1)]


def test_what_saves_more_is_shared():
    few, many = under_one_system_turn(), under_one_system_turn(3)
    assert states.beginnings(few).tolist() == [20] * len(few)
    assert states.beginnings(many).tolist() == many.prompt_length.tolist()  # each prompt occurs three times
    assert states.beginnings(few, least=0.9).tolist() == few.prompt_length.tolist()
    assert states.beginnings(few[slice(0, 1)]).tolist() == few.prompt_length[:1].tolist()
    twins = stack_sequences([[7, 8, 9]] * 2, [[5], [6, 7]], 0)
    assert states.beginnings(twins).tolist() == [3, 3]


def test_parts_hold_every_row_once_and_rows_of_one_prompt_together():
    sequences = rows()
    parts = states._parts(sequences, sequences.prompt_length, 150)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(sequences)))
    assert len(parts) > 2
    for number in range(6):  # the prompt of rows 0, 6 and 12, and so on
        assert sum(number in part % 6 for part in parts) == 1
    tokens = [int(sequences.length[part].sum() - 2 * sequences.prompt_length[part].sum() / 3) for part in parts]
    assert max(tokens) <= 150


def test_no_state_depends_on_the_rows_beside_it(tiny_model):
    model, sequences = load_model(tiny_model, "causal").eval(), rows()
    last = sequences.length[:, None] - 1
    with torch.no_grad():
        together = states_at(model, sequences, last)
        for row in range(len(sequences)):
            alone = sequences[slice(row, row + 1)]
            torch.testing.assert_close(states_at(model, alone, last[row : row + 1])[0], together[row])
