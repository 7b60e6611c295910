import json
import threading

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Record
from lit_rlhf.rewards import RemoteReward, Reward


class Scorer:
    """A reward server: the score is a function of the two texts, unless the script says otherwise."""

    def __init__(self, serve) -> None:
        self.lock, self.questions, self.paths, self.script = threading.Lock(), [], set(), []
        self.url = serve(self.answer)

    def answer(self, path: str, question: dict, headers: dict) -> tuple[int, str | dict]:
        with self.lock:
            self.paths.add(path)
            self.questions.append(question["inputs"])
            if self.script:
                return self.script.pop(0)
        return 200, {"scores": [score(each) for each in question["inputs"]]}


def score(asked: dict) -> float:
    return len(asked["messages"][-1]["content"]) - 0.5 * len(asked["response"]) + 100 * asked["truncated"]


@pytest.fixture
def scorer(serve) -> Scorer:
    return Scorer(serve)


@pytest.fixture
def remote(scorer, renderer):
    def make(**options) -> RemoteReward:
        endpoint = Endpoint(scorer.url, timeout=5.0, retries=2, wait=0.0)
        return RemoteReward(endpoint, **options).load(renderer, "policy")

    return make


def expected(completions: Completions) -> list[float]:
    rows = zip(completions.records, completions.texts, completions.truncated.tolist(), strict=True)
    prompts = [(record.prompt[-1].content, text, cut) for record, text, cut in rows]
    return [len(prompt) - 0.5 * len(text) + 100 * cut for prompt, text, cut in prompts]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_scores_are_the_servers_in_the_order_of_the_rows(remote, scorer, completions, batch_size):
    reward = remote(batch_size=batch_size, scale=2.0, path="/v2/rate")
    assert reward.scores(completions).tolist() == pytest.approx([2 * each for each in expected(completions)])
    assert scorer.paths == {"/v2/rate"}
    assert sum(map(len, scorer.questions)) == len(completions)
    assert max(map(len, scorer.questions)) <= batch_size
    assert len(set(expected(completions))) > 2


def test_the_server_sees_the_whole_conversation(remote, scorer, completions):
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hello."),
        Message("assistant", "Yes?"),
        Message("user", "é"),
    )
    one = Completions(completions.sequences[:1], completions.truncated[:1], [Record(turns)], ["Well."])
    remote().scores(one)
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    assert scorer.questions == [[{"messages": messages, "response": "Well.", "truncated": False}]]


def test_the_reward_stands_on_the_last_token(remote, completions):
    rewards = remote()(completions)
    last = completions.sequences.response_length - 1
    assert rewards.gather(1, last[:, None]).squeeze(1).tolist() == pytest.approx(expected(completions))
    assert torch.equal(rewards.count_nonzero(dim=1), torch.ones(len(completions), dtype=torch.long))


def test_the_same_rows_are_asked_about_once(remote, scorer, completions):
    reward = remote()
    assert torch.equal(reward(completions), reward(completions))
    assert sum(map(len, scorer.questions)) == len(completions)
    reward.load(None, "policy")(completions)
    assert sum(map(len, scorer.questions)) == 2 * len(completions)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "gave nan for"),
        (float("inf"), "gave inf for"),
        (float("-inf"), "gave -inf for"),
        (1e39, "gave 1e[+]39 for"),  # infinite in fp32
        (10**400, "gave 1000"),
        (None, "gave None for"),
        ("0.5", "gave 0.5 for"),
        (True, "gave True for"),
        ([0.5], r"gave \[0.5\] for"),
    ],
    ids=lambda value: str(value)[:10],
)
def test_a_score_that_is_no_number_names_address_prompt_and_response(remote, scorer, completions, value, shown):
    scores = [0.0] * len(completions)
    scorer.script.append((200, json.dumps({"scores": [*scores[:2], value, *scores[3:]]})))
    with pytest.raises(DataError, match=shown) as raised:
        remote()(completions)
    message = str(raised.value)
    assert f"{scorer.url}/score" in message
    assert completions.records[2].prompt[-1].content[:40] in message
    assert completions.texts[2][:40] in message


@pytest.mark.parametrize(
    "answer",
    [{"scores": [0.5]}, {"scores": []}, {"scores": [0.0] * 7}, {"scores": 1.0}, {"score": [0.0] * 6}, [0.0] * 6, "no"],
    ids=str,
)
def test_an_answer_of_another_form_names_address_and_prompt(remote, scorer, completions, answer):
    scorer.script.append((200, json.dumps(answer)))
    with pytest.raises(DataError, match=r"for 6 responses, the first to prompt") as raised:
        remote()(completions)
    assert f"{scorer.url}/score" in str(raised.value)
    assert completions.records[0].prompt[-1].content[:40] in str(raised.value)


def test_a_busy_server_is_waited_for_and_a_dead_one_is_an_error(remote, scorer, completions):
    scorer.script += [(503, "busy"), (429, "slow down")]
    assert remote().scores(completions).tolist() == pytest.approx(expected(completions))
    scorer.script += [(503, "busy")] * 3
    with pytest.raises(DataError, match="no answer after 3 attempts"):
        remote().scores(completions)


def test_the_fingerprint_names_the_server_without_its_secrets(renderer):
    def fingerprint(url: str, **options) -> str:
        return RemoteReward(Endpoint(url), **options).load(renderer, "policy").fingerprint

    assert fingerprint("https://host:8000/rm?token=hidden") == "remote https://host:8000/rm x 1"
    named = fingerprint("http://one", name="helpful v2")
    assert named == fingerprint("http://other:9", name="helpful v2")
    different = {
        named,
        fingerprint("http://one"),
        fingerprint("http://one", path="/x"),
        fingerprint("http://one", scale=2.0),
        fingerprint("http://one", name="helpful v3"),
    }
    assert len(different) == 5


def test_from_config(scorer, completions, renderer, tmp_path):
    config = tmp_path / "reward.yaml"
    config.write_text(f"""
reward:
  class_path: lit_rlhf.rewards.RemoteReward
  init_args:
    endpoint: {{url: "{scorer.url}", timeout: 5}}
    name: helpful v2
    scale: 0.5
""")
    parser = ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_argument("--reward", type=Reward)
    reward = parser.instantiate(parser.parse_args(["-c", str(config)])).reward.load(renderer, "policy")
    assert reward.scores(completions).tolist() == pytest.approx([0.5 * each for each in expected(completions)])
    assert reward.fingerprint == "remote helpful v2 x 0.5"


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(DataError, match="batch_size"):
        RemoteReward(Endpoint("http://x"), batch_size=0)
