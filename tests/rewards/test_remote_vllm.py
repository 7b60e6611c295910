"""A server of vLLM's forms, as its documentation and source describe them, that computes with transformers."""

import json
import re
import threading
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.data.records import Message, Record
from lit_rlhf.rewards import Reward, RewardModel, ScalarReward, VLLMReward


class VLLM:
    """``vllm serve FOLDER``: the head's output of the last token, under a sigmoid unless the switch says otherwise."""

    def __init__(self, serve, folder: str, switch: str = "use_activation") -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.tokenizer, self.switch = AutoTokenizer.from_pretrained(folder), switch
        self.lock, self.questions, self.change = threading.Lock(), [], lambda entries: entries
        self.url = serve(self.answer)

    def answer(self, path: str, question: dict, headers: dict) -> tuple[int, dict | str]:
        with self.lock:
            self.questions.append((path, question))
            if path not in ("/classify", "/pooling"):
                return 404, {"detail": "Not Found"}
            numbers = [self.score(ids, question.get(self.switch)) for ids in self.tokens(question)]
            entries = [self.entry(path, index, number) for index, number in enumerate(numbers)]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            data = self.change(entries)
            return 200, data if isinstance(data, str) else {"object": "list", "data": data, "usage": usage}

    def tokens(self, question: dict) -> list[list[int]]:
        if "messages" in question:
            ends = {name: question[name] for name in ("add_generation_prompt", "continue_final_message")}
            text = self.tokenizer.apply_chat_template(question["messages"], tokenize=False, **ends)
            return [self.tokenizer(text, add_special_tokens=question.get("add_special_tokens", False))["input_ids"]]
        assert all(isinstance(row, list) for row in question["input"])
        return question["input"]

    @torch.no_grad()
    def score(self, ids: list[int], activation: bool | None) -> float:
        logit = self.model(input_ids=torch.tensor([ids])).logits[0, 0]
        return float(logit if activation is False else logit.sigmoid())

    @staticmethod
    def entry(path: str, index: int, number: float) -> dict:
        if path == "/pooling":
            return {"index": index, "object": "pooling", "data": [number]}
        return {"index": index, "label": "LABEL_0", "probs": [number], "num_classes": 1}


@pytest.fixture
def server(serve, tiny_reward_model) -> VLLM:
    return VLLM(serve, tiny_reward_model)


@pytest.fixture
def remote(server, renderer, tiny_reward_model):
    def make(**options) -> VLLMReward:
        endpoint = Endpoint(server.url, timeout=20.0, retries=0, wait=0.0)
        return VLLMReward(endpoint, **{"tokenizer": tiny_reward_model, **options}).load(renderer, "policy")

    return make


def own(folder: str, completions: Completions, rows: slice = slice(None)) -> list[float]:
    prompts = [record.prompt for record in completions.records][rows]
    return RewardModel.load(folder).score(prompts, completions.texts[rows])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("form", ["classify", "pooling"])
def test_scores_are_those_of_the_reward_model_itself(
    remote, server, complete, records, tiny_reward_model, form, batch_size
):
    completions = complete(records)
    expected = own(tiny_reward_model, completions)
    scores = remote(form=form, batch_size=batch_size).scores(completions).tolist()
    assert scores == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01, "the rows can be told apart"
    assert {path for path, _ in server.questions} == {f"/{form}"}
    assert max(len(question["input"]) for _, question in server.questions) <= batch_size


@pytest.mark.parametrize("form", ["classify", "pooling"])
def test_scores_equal_those_of_the_same_folder_as_reward_cut_off_ones_included(
    remote, completions, renderer, tiny_reward_model, form
):
    local = ScalarReward(tiny_reward_model, scale=1.0).load(renderer, "policy")
    assert bool(completions.truncated.any())
    assert remote(form=form).scores(completions).tolist() == pytest.approx(local.scores(completions).tolist(), abs=1e-5)
    ended = Completions(completions.sequences, torch.zeros(6).bool(), completions.records, completions.texts)
    ended.sequences = stack_sequences(
        [renderer.prompt_ids(record.prompt) for record in ended.records], renderer.responses_ids(ended.texts), 0
    )
    cut = completions.truncated
    assert not torch.allclose(remote().scores(ended)[cut], local.scores(completions)[cut], atol=1e-4)


def test_a_policy_with_another_tokenizer_is_asked_about_as_text(serve, letters, completions, renderer):
    server = VLLM(serve, letters)
    reward = VLLMReward(Endpoint(server.url, retries=0), letters).load(renderer, "policy")
    local = ScalarReward(letters, scale=1.0).load(renderer, "policy")
    assert not local.shares_ids
    assert reward.scores(completions).tolist() == pytest.approx(local.scores(completions).tolist(), abs=1e-5)


def test_marks_inside_a_message_stay_words(serve, letters, complete, renderer):
    record = Record((Message("user", "What does <end> mean?"),))
    completions = complete([record] * 2, ["An end.", "An end."])
    completions.texts = ["It is <end> of a turn.", "Nothing."]
    reward = VLLMReward(Endpoint(VLLM(serve, letters).url, retries=0), letters).load(renderer, "policy")
    assert reward.scores(completions).tolist() == pytest.approx(own(letters, completions), abs=1e-5)


def test_the_scale_is_a_factor_and_the_same_rows_are_asked_about_once(remote, server, completions):
    plain, scaled = remote(), remote(scale=-2.0)
    assert scaled.scores(completions).tolist() == pytest.approx((-2.0 * plain.scores(completions)).tolist(), abs=1e-5)
    asked = len(server.questions)
    plain.scores(completions)
    assert len(server.questions) == asked


def test_what_is_asked_switches_the_activation_off_and_adds_no_tokens(remote, server, completions, renderer):
    remote(form="pooling", model="rm", batch_size=100).scores(completions)
    _, question = server.questions[0]
    sequences = completions.sequences
    rows = [ids[:length] for ids, length in zip(sequences.ids.tolist(), sequences.length, strict=True)]
    assert question == {
        "model": "rm", "input": rows, "task": "classify", "use_activation": False, "add_special_tokens": False
    }  # fmt: skip
    remote(form="classify").scores(completions)
    assert not {"model", "task"} & set(server.questions[-1][1])


def test_without_a_tokenizer_the_server_writes_the_conversation(serve, tiny_reward_model, completions, renderer):
    server = VLLM(serve, tiny_reward_model)
    reward = VLLMReward(Endpoint(server.url, retries=0)).load(renderer, "policy")
    scores = reward.scores(completions).tolist()
    questions = [question for _, question in server.questions][: len(completions)]
    by_answer = {question["messages"][-1]["content"]: question for question in questions}
    for row, text in enumerate(completions.texts):
        question = by_answer[text]
        turns = [{"role": turn.role, "content": turn.content} for turn in completions.records[row].prompt]
        assert question["messages"] == [*turns, {"role": "assistant", "content": text}]
        assert question["continue_final_message"] is bool(completions.truncated[row])
        assert question["add_generation_prompt"] is question["use_activation"] is False
        assert scores[row] == pytest.approx(server.score(server.tokens(question)[0], False), abs=1e-5)


def test_messages_give_the_scores_of_the_model_itself_where_the_template_ends_a_turn(
    serve, tiny_reward_model, complete, records, renderer
):
    completions = complete(records)
    reward = VLLMReward(Endpoint(VLLM(serve, tiny_reward_model).url, retries=0)).load(renderer, "policy")
    assert reward.scores(completions).tolist() == pytest.approx(own(tiny_reward_model, completions), abs=1e-5)


def test_the_entries_are_ordered_by_their_index(remote, server, completions):
    expected = remote().scores(completions).tolist()
    server.change = lambda entries: entries[::-1]
    assert remote().scores(completions).tolist() == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[:-1],
        lambda entries: [*entries, {**entries[0], "index": len(entries)}],
        lambda entries: [{**entry, "index": 0} for entry in entries],
        lambda entries: [{**entry, "index": entry["index"] + 1} for entry in entries],
        lambda entries: [{**entry, "index": [0]} for entry in entries],
        lambda entries: [entry["probs"] for entry in entries],
        lambda entries: {"0": entries},
        lambda entries: None,
        lambda entries: json.dumps("no"),
        lambda entries: json.dumps(entries),
    ],
    ids=["fewer", "more", "one index", "from 1", "no index", "lists", "object", "nothing", "text", "no data"],
)
def test_an_answer_of_another_form_names_address_prompt_and_what_is_expected(remote, server, completions, change):
    server.change = change
    with pytest.raises(
        DataError, match=r"for 6 responses, the first to prompt .*\n.*\"index\": 0, \"probs\""
    ) as raised:
        remote()(completions)
    assert f"{server.url}/classify" in str(raised.value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(float("nan"), "nan"), (float("inf"), "inf"), (None, "None"), ("0.5", "0.5"), (True, "True"), (10**400, "1000")],
    ids=["nan", "inf", "null", "text", "true", "huge"],
)
@pytest.mark.parametrize("form", ["classify", "pooling"])
def test_a_score_that_is_no_number_names_the_response(remote, server, completions, form, value, shown):
    field = {"classify": "probs", "pooling": "data"}[form]
    server.change = lambda entries: [{**entry, field: [value] if entry["index"] == 2 else [7.0]} for entry in entries]
    with pytest.raises(DataError, match=f"gave {shown}.* for prompt") as raised:
        remote(form=form)(completions)
    assert completions.texts[2][:40] in str(raised.value)
    assert isinstance(raised.value, NotFiniteError) == isinstance(value, float)


def test_numbers_that_pooling_nests_once_more_are_read(remote, server, completions):
    expected = remote(form="pooling").scores(completions).tolist()
    server.change = lambda entries: [{**entry, "data": [entry["data"]]} for entry in entries]
    assert remote(form="pooling").scores(completions).tolist() == expected


def test_classes_and_token_scores_are_refused(remote, server, completions):
    server.change = lambda entries: [{**entry, "probs": [0.4, 0.6], "num_classes": 2} for entry in entries]
    with pytest.raises(DataError, match=r"2 numbers per response(.|\n)*one label"):
        remote().scores(completions)
    server.change = lambda entries: [{**entry, "data": [[0.4], [0.6], [2.0]]} for entry in entries]
    with pytest.raises(DataError, match=r"each of 3 tokens(.|\n)*form: classify"):
        remote(form="pooling").scores(completions)
    server.change = lambda entries: [{**entry, "data": "AAAAPw=="} for entry in entries]
    with pytest.raises(DataError, match="gave AAAAPw== for prompt"):
        remote(form="pooling").scores(completions)


@pytest.mark.parametrize("form", ["classify", "pooling"])
def test_a_server_that_knows_the_switch_by_another_name_is_found_out(
    serve, tiny_reward_model, completions, renderer, form
):
    server = VLLM(serve, tiny_reward_model, switch="activation")

    def scores(**options) -> list[float]:
        reward = VLLMReward(Endpoint(server.url, retries=0), tiny_reward_model, form=form, **options)
        return reward.load(renderer, "policy").scores(completions).tolist()

    with pytest.raises(DataError, match=r"all 6 scores lie between 0 and 1(.|\n)*switch: activation"):
        scores()
    local = ScalarReward(tiny_reward_model, scale=1.0).load(renderer, "policy")
    assert scores(switch="activation") == pytest.approx(local.scores(completions).tolist(), abs=1e-5)
    assert all(0 < score < 1 for score in scores(check=False))


def test_small_raw_scores_pass_the_check_and_it_is_made_once(serve, tiny_reward_model, completions, renderer):
    server = VLLM(serve, tiny_reward_model)
    server.score = lambda ids, activation: 0.25 if activation is False else 0.5622
    reward = VLLMReward(Endpoint(server.url, retries=0), tiny_reward_model, batch_size=100).load(renderer, "policy")
    reward.scores(completions)
    assert [question["use_activation"] for _, question in server.questions] == [False, True]
    reward.scores(completions[0:3])
    assert len(server.questions) == 3


def test_a_server_without_activation_is_not_refused_for_two_small_scores(
    serve, tiny_reward_model, completions, renderer
):
    server = VLLM(serve, tiny_reward_model)
    server.score = lambda ids, activation: 0.25
    reward = VLLMReward(Endpoint(server.url, retries=0), tiny_reward_model).load(renderer, "policy")
    assert reward.scores(completions[0:2]).tolist() == [0.25, 0.25]
    with pytest.raises(DataError, match="probabilities"):
        reward.scores(completions)


def test_what_the_server_says_about_a_refusal_is_shown(serve, tiny_reward_model, completions, renderer):
    url = serve(lambda path, question, headers: (404, {"error": {"message": "The model `x` does not exist."}}))
    with pytest.raises(DataError, match=r"status 404(.|\n)*does not exist"):
        VLLMReward(Endpoint(url, retries=0), tiny_reward_model).load(renderer, "policy").scores(completions)


def test_a_missing_tokenizer_is_named(renderer, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        VLLMReward(Endpoint("http://x"), str(tmp_path / "nowhere")).load(renderer, "policy")
    with pytest.raises(DataError, match="VLLMReward, batch_size"):
        VLLMReward(Endpoint("http://x"), batch_size=0)


def test_the_fingerprint_names_whatever_changes_the_scores(renderer, tiny_reward_model, letters):
    def fingerprint(url: str = "https://host:8000/", **options) -> str:
        return VLLMReward(Endpoint(url), **options).load(renderer, "policy").fingerprint

    assert fingerprint() == "vllm https://host:8000/classify of messages x 1"
    assert fingerprint(name="rm v2") == fingerprint("http://other", name="rm v2")
    assert fingerprint(name="rm v2") == fingerprint(name="rm v2", form="pooling", model="served", batch_size=3)
    options = [{}, {"tokenizer": tiny_reward_model}, {"tokenizer": letters}, {"model": "a"}, {"scale": 2.0}]
    assert len({fingerprint(**each) for each in options}) == len(options)


def test_from_config(server, completions, renderer, tiny_reward_model, tmp_path):
    config = tmp_path / "reward.yaml"
    config.write_text(f"""
reward:
  class_path: VLLMReward
  init_args:
    endpoint: {{url: "{server.url}", timeout: 20}}
    tokenizer: {tiny_reward_model}
    form: pooling
    scale: 0.5
""")
    parser = ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_argument("--reward", type=Reward)
    reward = parser.instantiate(parser.parse_args(["-c", str(config)])).reward.load(renderer, "policy")
    local = ScalarReward(tiny_reward_model, scale=0.5).load(renderer, "policy")
    assert reward.scores(completions).tolist() == pytest.approx(local.scores(completions).tolist(), abs=1e-5)


def test_the_documented_config_is_one(renderer, tiny_reward_model, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "servers.md").read_text("utf-8")
    (text,) = [block for block in re.findall(r"(?s)```yaml\n(.*?)```", page) if "VLLMReward" in block]
    config = tmp_path / "reward.yaml"
    config.write_text(text.replace("runs/reward/model", tiny_reward_model))
    parser = ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_argument("--reward", type=Reward)
    reward = parser.instantiate(parser.parse_args(["-c", str(config)])).reward.load(renderer, "policy")
    assert reward.fingerprint.startswith("vllm http://rm:8000/classify rm of ")
