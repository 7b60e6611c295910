import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaForCausalLM

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks import policy_network
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.world import tokenizer

EOS, WORDS = tokenizer().eos_token_id, len(tokenizer())


def random_rows(seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(6, WORDS, (length,), generator=generator).tolist()

    prompts = [ids(n) for n in (4, 15, 2, 9)]
    responses = [[*ids(n), EOS] for n in (12, 3, 0, 7)]
    prompts[3][2] = EOS
    responses[0][5] = EOS
    return prompts, [*responses[:3], responses[3][:-1]]


def by_hand(network: PolicyNetwork, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """Log-probabilities from the logits of all positions of one unpadded row."""
    logits = network.model(input_ids=torch.tensor([prompt + response])).logits[0]
    steps = [(logits[len(prompt) + t - 1] / temperature).log_softmax(-1)[token] for t, token in enumerate(response)]
    return torch.stack(steps)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_of_a_plain_loop(any_model, temperature):
    network = PolicyNetwork(any_model).eval()
    prompts, responses = random_rows()
    for filler in (0, EOS, 300):
        batch = stack_sequences(prompts, responses, filler)
        with torch.no_grad():
            found = network(batch, temperature)
        assert found.shape == batch.response_mask.shape
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            expected = by_hand(network, prompt, response, temperature)
            torch.testing.assert_close(found[row, : len(response)], expected, atol=1e-5, rtol=1e-5)


def test_without_an_argument_network_samples_at_temperature_one(tiny_model):
    network = PolicyNetwork(tiny_model).eval()
    batch = stack_sequences(*random_rows(), pad_id=0)
    assert torch.equal(network(batch), network(batch, 1.0))
    assert not torch.allclose(network(batch), network(batch, 0.5))


def test_gradients_are_those_of_a_plain_loop(tiny_model):
    network = PolicyNetwork(tiny_model).eval()
    prompts, responses = random_rows()
    batch = stack_sequences(prompts, responses, 300)
    weights = torch.randn(batch.response_mask.shape, generator=torch.Generator().manual_seed(1))
    (network(batch, 0.7) * weights)[batch.response_mask].sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad()
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        (by_hand(network, prompt, response, 0.7) * weights[row, : len(response)]).sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_vocabulary_logits_are_computed_for_response_positions_only(any_model):
    network = PolicyNetwork(any_model).eval()
    seen = []
    network.model.get_output_embeddings().register_forward_hook(lambda layer, args, out: seen.append(out.shape))
    prompts, responses = [[7] * 30, [8] * 25], [[9] * 4 + [EOS], [10] * 12 + [EOS]]
    network(stack_sequences(prompts, responses, 0))
    assert seen[-1] == (5 + 13, WORDS)


def test_models_that_cannot_leave_out_logits_give_the_same(tiny_model, monkeypatch):
    class Plain(LlamaForCausalLM):
        def forward(self, input_ids, use_cache=None):
            return super().forward(input_ids=input_ids, use_cache=use_cache)

    batch = stack_sequences(*random_rows(), pad_id=0)
    expected = PolicyNetwork(tiny_model).eval()(batch, 0.8)
    monkeypatch.setattr(policy_network, "load_model", lambda path, kind: Plain.from_pretrained(path))
    torch.testing.assert_close(PolicyNetwork(tiny_model).eval()(batch, 0.8), expected)


def test_rows_longer_than_the_model_are_refused(tiny_model):
    network = PolicyNetwork(tiny_model)
    batch = stack_sequences([[7] * 250], [[8] * 10], 0)
    assert isinstance(batch, Sequences)
    with pytest.raises(DataError, match="260 tokens exceeds the model's 256 positions"):
        network(batch)


def test_logits_some_at_a_time_give_the_same_numbers_and_gradients(tiny_model, monkeypatch):
    batch = stack_sequences(*random_rows(), pad_id=300)
    weights = torch.randn(batch.response_mask.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for at_once in (2**25, 5 * WORDS):
        monkeypatch.setattr(PolicyNetwork, "logits_at_once", at_once)
        network, seen = PolicyNetwork(tiny_model), []
        network.model.get_output_embeddings().register_forward_hook(lambda layer, args, out, s=seen: s.append(len(out)))
        logprobs, entropy = network.with_entropy(batch, 0.7)
        ((logprobs + 0.3 * entropy) * weights)[batch.response_mask].sum().backward()
        found.append((logprobs, entropy, {name: p.grad for name, p in network.named_parameters()}))
        assert max(seen[1:]) == (25 if at_once == 2**25 else 5)  # the first call looks at the head itself
    (one, entropy, grads), (some, entropies, some_grads) = found
    mask = batch.response_mask
    torch.testing.assert_close(some[mask], one[mask])
    torch.testing.assert_close(entropies[mask], entropy[mask])
    for name, grad in grads.items():
        torch.testing.assert_close(some_grads[name], grad, atol=1e-6, rtol=1e-4)


def test_the_entropy_is_that_of_the_tempered_distribution(any_model):
    network = PolicyNetwork(any_model)
    prompts, responses = random_rows()
    batch = stack_sequences(prompts, responses, 0)
    with torch.no_grad():
        logprobs, entropy, scores = network.with_entropy(batch, 0.6, score=lambda states: states.sum(-1))
        torch.testing.assert_close(logprobs, network(batch, 0.6))
        torch.testing.assert_close(scores, network.scores(batch, lambda states: states.sum(-1)))
        torch.testing.assert_close(scores, network.with_scores(batch, 0.6, lambda states: states.sum(-1))[1])
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            logits = network.model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.6
            expected = torch.distributions.Categorical(logits=logits).entropy()
            torch.testing.assert_close(entropy[row, : len(response)], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_architectures_that_cap_their_logits_go_on_doing_so(known, monkeypatch):
    config = Gemma2Config(vocab_size=WORDS, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                          num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.01,
                          max_position_embeddings=64)  # fmt: skip
    network = PolicyNetwork(Gemma2ForCausalLM(config).eval())
    assert network._behind_head is not None
    assert network._behind_head(torch.tensor(5.0)).item() == pytest.approx(0.01)
    if not known:  # then its own way is taken
        monkeypatch.setitem(vars(network), "_behind_head", None)
    prompts, responses = random_rows()
    batch = stack_sequences(prompts, responses, 0)
    with torch.no_grad():
        found, entropy, scores = network.with_entropy(batch, 1.0, score=lambda states: states.sum(-1))
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            expected = by_hand(network, prompt, response, 1.0)
            torch.testing.assert_close(found[row, : len(response)], expected, atol=1e-5, rtol=1e-5)
    assert entropy[batch.response_mask].min() > 0
    assert scores[batch.response_mask].abs().min() > 0
