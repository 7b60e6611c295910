import pytest
import torch

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy.rollout import complete, seeded_generator, set_state

CPU = torch.device("cpu")


def test_every_prompt_has_k_rows_in_a_block(tiny_model, prompts, renderer):
    k = 3
    completions = complete(
        PolicyNetwork(tiny_model), prompts, renderer, Sampling(max_new_tokens=6), seeded_generator(CPU, 1), k
    )
    sequences = completions.sequences
    assert len(completions) == len(completions.texts) == len(completions.records) == k * len(prompts)
    for row, (record, text, response) in enumerate(
        zip(completions.records, completions.texts, sequences.response_lists(), strict=True)
    ):
        assert record is prompts.records[row // k]
        start = int(sequences.prompt_length[row])
        assert sequences.ids[row, :start].tolist() == renderer.prompt_ids(record.prompt)
        assert text == renderer.tokenizer.decode(response, skip_special_tokens=True)
        assert bool(completions.truncated[row]) == (response[-1] != renderer.eos_id)
        assert 1 <= len(response) <= 6


@pytest.mark.parametrize("other", [("a", 1, 3), ("a", 2, 2), ("b", 1, 2), ("a", 12), ("a 1", 2, 0)])
def test_streams_of_different_parts_differ(other):
    first = torch.rand(4, generator=seeded_generator(CPU, "a", 1, 2))
    assert torch.equal(first, torch.rand(4, generator=seeded_generator(CPU, "a", 1, 2)))
    assert not torch.equal(first, torch.rand(4, generator=seeded_generator(CPU, *other)))


def test_nothing_global_decides_what_is_sampled(tiny_model, prompts, renderer):
    policy, sampling = PolicyNetwork(tiny_model), Sampling(max_new_tokens=6)
    texts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        texts.append(complete(policy, prompts, renderer, sampling, seeded_generator(CPU, "x")).texts)
        assert torch.equal(torch.get_rng_state(), state)
    assert texts[0] == texts[1]


def test_a_generator_goes_on_from_its_like_and_refuses_another_device():
    first, second = (seeded_generator(torch.device("cpu"), "a", number) for number in range(2))
    set_state(second, first.get_state())
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=second))
    with pytest.raises(DataError, match=r"not those of a generator on cpu[\s\S]*where it was written"):
        set_state(second, torch.zeros(16, dtype=torch.uint8))  # as long as that of CUDA
