import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data.batches import PromptBatch
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.policy import ServedSampler
from lit_rlhf.policy.rollout import complete
from lit_rlhf.policy.served import prompt_as_text, shortfall

K = 3
SAMPLING = Sampling(max_new_tokens=8, temperature=0.8, top_p=0.9)


@pytest.fixture
def sampler(policy_server):
    def make(suffix: str = "", **options) -> ServedSampler:
        endpoint = Endpoint(policy_server.url + suffix, concurrency=4, retries=0)
        return ServedSampler(endpoint, "sft", **{"check": False, **options})

    return make


def rows_of(batch: PromptBatch) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(batch.ids.tolist(), batch.length.tolist(), strict=True)]


def test_each_response_is_a_question_with_a_seed_of_its_own(sampler, policy_server, prompts, renderer):
    extra = {"repetition_penalty": 1.0, "top_p": 0.7}
    sampler(extra=extra).complete(prompts, renderer, Sampling(8, 0.8, 0.9, top_k=5), K, "a stream")
    asked = policy_server.questions
    assert len(asked) == K * len(prompts) == len({question["seed"] for question in asked})
    assert all(0 <= question["seed"] < 2**31 for question in asked)
    rest = {"model": "sft", "max_tokens": 8, "temperature": 0.8, "top_k": 5, **extra}
    assert all({**question, **rest} == question for question in asked)
    assert sorted(question["prompt"] for question in asked) == sorted(ids for ids in rows_of(prompts) for _ in range(K))


def test_completions_are_what_the_server_sampled(sampler, policy_server, prompts, renderer):
    completions = sampler().complete(prompts, renderer, SAMPLING, K, "a stream")
    seeds = {(tuple(question["prompt"]), question["seed"]) for question in policy_server.questions}
    model, found = policy_server.model, set()
    for row, response in enumerate(completions.sequences.response_lists()):
        ids = rows_of(prompts)[row // K]
        assert completions.records[row] is prompts.records[row // K]
        assert completions.sequences.ids[row, : len(ids)].tolist() == ids
        assert completions.texts[row] == renderer.response_text(response)
        for seed in (seed for prompt, seed in seeds if prompt == tuple(ids)):
            generator = torch.Generator().manual_seed(seed)
            drawn, cut = sample(
                model, torch.tensor([ids]), torch.tensor([len(ids)]), renderer.eos_id, SAMPLING, generator
            )
            if (drawn.response_lists()[0], bool(cut)) == (response, bool(completions.truncated[row])):
                found.add(row)
    assert found == set(range(K * len(prompts)))
    assert 0 < completions.truncated.sum() < len(completions)


def test_all_forms_of_the_prompt_give_the_same_responses(sampler, policy_server, prompts, renderer):
    forms = [
        sampler(prompt=form).complete(prompts, renderer, SAMPLING, K, "s").texts for form in ("ids", "text", "chat")
    ]
    assert forms[0] == forms[1] == forms[2]
    assert policy_server.paths == {"/v1/completions", "/v1/chat/completions"}
    assert sampler("/v1").complete(prompts, renderer, SAMPLING, K, "s").texts == forms[0]
    assert len(policy_server.paths) == 2
    assert sampler().complete(prompts, renderer, SAMPLING, K, "t").texts != forms[0]


def test_a_cut_prompt_is_sent_as_it_was_cut_or_refused(sampler, policy_server, prompts, renderer):
    cut = PromptBatch(prompts.ids[:, 2:], prompts.length - 2, prompts.records)
    for form in ("ids", "text"):
        policy_server.questions.clear()
        sampler(prompt=form).complete(cut, renderer, SAMPLING, 1, "s")
        read = [policy_server.prompt(question, chat=False) for question in policy_server.questions]
        assert sorted(read) == sorted(rows_of(cut))
    with pytest.raises(DataError, match="the prompt was cut"):
        sampler(prompt="chat").complete(cut, renderer, SAMPLING, 1, "s")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "no completion"),
        ([], "no completion"),
        ({"choices": []}, "no completion"),
        ({"choices": [{"text": None, "finish_reason": "stop"}]}, "no completion"),
        ({"choices": [{"text": "a"}]}, "no completion"),
        ({"choices": 2 * [{"text": "a", "finish_reason": "stop"}]}, "no completion"),
        ({"choices": [{"text": "a", "finish_reason": "content_filter"}]}, "'content_filter'"),
        ({"choices": [{"text": "a", "finish_reason": None}]}, "for the reason None"),
    ],
)
def test_an_answer_that_is_no_response_is_an_error_with_the_address(
    sampler, policy_server, prompts, renderer, answer, message
):
    policy_server.change = lambda _: answer
    with pytest.raises(DataError, match=message) as raised:
        sampler().complete(prompts, renderer, SAMPLING, K, "s")
    assert policy_server.url in str(raised.value)


def test_an_empty_answer_is_a_response_of_its_end_alone(sampler, policy_server, prompts, renderer):
    policy_server.change = lambda _: {"choices": [{"text": "", "finish_reason": "stop"}]}
    completions = sampler().complete(prompts, renderer, SAMPLING, 1, "s")
    assert completions.sequences.response_lists() == [[renderer.eos_id]] * len(prompts)


def test_a_server_that_does_not_sample_is_noticed(sampler, policy_server, prompts, renderer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler().complete(prompts, renderer, SAMPLING, K, "s")
        sampler().complete(prompts, renderer, Sampling(8, temperature=0.0), K, "s")
        sampler().complete(prompts, renderer, SAMPLING, 1, "s")
    greedy = {"temperature": 0.0}
    with pytest.warns(UserWarning, match="does the server sample"):
        sampler(extra=greedy).complete(prompts, renderer, SAMPLING, K, "s")


# ---------------------------------------------------------------------- the check


def test_the_check_comes_once_and_leaves_nothing_behind(sampler, policy_server, prompts, renderer, sharp_model):
    checked = sampler(check=True)
    checked.load(PolicyNetwork(sharp_model))
    assert list(checked.parameters()) == []  # or the trainer would move them to its device
    for asked in (4 + K * len(prompts), 4 + 2 * K * len(prompts)):
        checked.complete(prompts, renderer, SAMPLING, K, "s")
        assert len(policy_server.questions) == asked
    assert not checked._unchecked


@pytest.mark.parametrize("form", ["ids", "text", "chat"])
def test_the_check_finds_another_policy(sampler, prompts, renderer, write_sharp_model, tmp_path, form):
    checked = sampler(prompt=form, check=True)
    checked.load(PolicyNetwork(write_sharp_model(tmp_path / "other", seed=1)))
    with pytest.raises(DataError, match="not what the policy directory would say"):
        checked.complete(prompts, renderer, SAMPLING, K, "s")


def test_shortfall_is_the_distance_to_the_likeliest_token(sharp_model, prompts, renderer):
    policy = PolicyNetwork(sharp_model)
    generator = torch.Generator().manual_seed(0)
    completions = complete(policy, prompts, renderer, SAMPLING, generator, K)
    expected = []
    for row, response in enumerate(completions.sequences.response_lists()):
        ids = rows_of(prompts)[row // K] + response
        with torch.no_grad():
            logits = policy.model(torch.tensor([ids])).logits[0]
        for t in range(len(response) - int(completions.truncated[row])):
            before = logits[len(ids) - len(response) + t - 1]
            expected.append(float(before.max() - before[response[t]]))
    assert shortfall(policy, completions).tolist() == pytest.approx(expected, abs=1e-4)
    assert max(expected) > 0.5
    likeliest = complete(policy, prompts, renderer, Sampling(8, temperature=0.0))
    assert float(shortfall(policy, likeliest).max()) < 1e-4


# ---------------------------------------------------------------------- prompts as text


def tokenizer(adds: str) -> PreTrainedTokenizerFast:
    """Characters; ``adds`` says which special tokens it puts around a text by itself."""
    alphabet = ["<unk>", "<s>", "</s>", "\n", *(chr(code) for code in range(32, 127))]
    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(alphabet)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(single=adds, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(("adds", "sent"), [("$A", "<s>Human: Hi"), ("<s> $A", "Human: Hi")])
def test_a_beginning_of_sequence_is_never_doubled(adds, sent):
    renderer, prompt = Renderer(tokenizer(adds), "dialogue"), (Message("user", "Hi"),)
    ids = renderer.prompt_ids(prompt)
    text = prompt_as_text(ids, prompt, renderer)
    assert text.startswith(sent)
    assert renderer.tokenizer(text)["input_ids"] == ids
    assert ids.count(1) == 1


def test_a_tokenizer_that_adds_what_no_prompt_has_needs_ids():
    renderer, prompt = Renderer(tokenizer("<s> $A </s>"), "dialogue"), (Message("user", "Hi"),)
    with pytest.raises(DataError, match="no text gives the tokens") as raised:
        prompt_as_text(renderer.prompt_ids(prompt), prompt, renderer)
    assert "Send ids" in str(raised.value)
