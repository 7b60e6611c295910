import math
import threading
import time
from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Record
from lit_rlhf.rewards import GoldReward, PythonReward, Reward
from lit_rlhf.world import GOLD_WEIGHTS, gold_components, gold_reward, is_refusal


def loaded(reward, renderer):
    return reward.load(renderer, "policy")


def test_the_function_sees_both_texts_of_every_row(completions, renderer):
    seen = []

    def function(prompt: str, response: str) -> float:
        seen.append((prompt, response))
        return float(len(seen))

    scores = loaded(PythonReward(function, scale=2.0), renderer).scores(completions)
    assert scores.tolist() == [2.0 * (i + 1) for i in range(len(completions))]
    expected = zip(completions.records, completions.texts, strict=True)
    assert seen == [(record.prompt[-1].content, text) for record, text in expected]


def test_a_conversation_comes_as_its_messages(completions, renderer):
    turns = (Message("user", "Hello."), Message("assistant", "Good day."), Message("user", "And now?"))
    one = Completions(completions.sequences[:1], completions.truncated[:1], [Record(turns)], ["Well."])
    prompts = []
    loaded(PythonReward(lambda prompt, response: prompts.append(prompt) or 0.0), renderer).scores(one)
    assert prompts == ["Hello.\n\nGood day.\n\nAnd now?"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_names_function_prompt_and_response(completions, renderer, value):
    def broken(prompt: str, response: str) -> float:
        return value if response == completions.texts[2] else 0.0

    with pytest.raises(DataError, match="broken") as raised:
        loaded(PythonReward(broken), renderer)(completions)
    message = str(raised.value)
    assert str(value) in message
    assert completions.records[2].prompt[-1].content[:40] in message
    assert completions.texts[2][:40] in message


def test_from_config_by_import_path(completions, renderer, tmp_path, monkeypatch):
    (tmp_path / "own_taste.py").write_text("def shortness(prompt, response):\n    return -len(response)\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / "reward.yaml"
    config.write_text("""
reward:
  class_path: lit_rlhf.rewards.PythonReward
  init_args: {function: own_taste.shortness, scale: 0.5}
""")
    parser = ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_argument("--reward", type=Reward)
    reward = loaded(parser.instantiate(parser.parse_args(["-c", str(config)])).reward, renderer)
    assert reward.scores(completions).tolist() == [-0.5 * len(text) for text in completions.texts]
    assert reward.fingerprint == "python own_taste.shortness x 0.5"


def test_fingerprints_tell_functions_and_scales_apart(renderer):
    def other(prompt: str, response: str) -> float:
        return 0.0

    rewards = [PythonReward(gold_reward), PythonReward(gold_reward, 2.0), PythonReward(other)]
    assert len({loaded(reward, renderer).fingerprint for reward in rewards}) == 3


def test_gold_reward_is_the_worlds_true_reward(completions, renderer):
    scores = loaded(GoldReward(), renderer).scores(completions)
    expected = [
        gold_reward(record.prompt[-1].content, text)
        for record, text in zip(completions.records, completions.texts, strict=True)
    ]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 1
    assert loaded(GoldReward(scale=3.0), renderer).scores(completions).tolist() == pytest.approx(
        [3 * each for each in expected], abs=1e-5
    )


def test_gold_reward_refuses_prompts_of_another_world(completions, renderer):
    foreign = Completions(
        completions.sequences[:1], completions.truncated[:1], [Record((Message("user", "Who won?"),))], ["Nobody."]
    )
    with pytest.raises(DataError, match="Who won"):
        loaded(GoldReward(), renderer)(foreign)


def test_gold_components_are_the_worlds(complete, records, renderer):
    texts = [record.chosen or "" for record in records]
    texts[0] = "I am sorry, but I cannot help with that."
    completions = complete(records, texts)
    found = loaded(GoldReward(scale=3.0), renderer).components(completions)
    assert set(found) == {*GOLD_WEIGHTS, "refusal"}
    for row, (record, text) in enumerate(zip(completions.records, completions.texts, strict=True)):
        expected = gold_components(record.prompt[-1].content, text)
        assert {name: found[name][row].item() for name in expected} == pytest.approx(expected)
        assert found["refusal"][row].item() == is_refusal(text)
    assert found["refusal"][0] == 1
    assert found["refusal"].mean() < 1


def test_no_text_is_judged_twice(completions, renderer, monkeypatch):
    calls = []

    def counted(prompt: str, response: str) -> float:
        calls.append(response)
        return 1.0

    python = loaded(PythonReward(counted), renderer)
    assert python(completions).sum() == python(completions).sum() == len(completions)
    assert calls == completions.texts
    judged = []
    monkeypatch.setattr(
        "lit_rlhf.world.gold_components", lambda *texts: judged.append(texts) or gold_components(*texts)
    )
    gold = loaded(GoldReward(), renderer)
    gold.components(completions)
    gold(completions)
    gold.components(completions)
    assert len(judged) == len(completions)


def test_a_call_in_time_gives_what_it_gives_without_a_limit(completions, renderer):
    def length(prompt: str, response: str) -> float:
        assert not torch.is_grad_enabled()
        return float(len(response))

    with torch.no_grad():
        scores = [loaded(PythonReward(length, timeout=each), renderer).scores(completions) for each in (None, 30.0)]
    assert torch.equal(*scores)
    assert len(scores[0].unique()) > 1


def test_a_call_that_hangs_is_an_error_that_names_it(completions, renderer):
    for_ever = threading.Event()

    def hanging(prompt: str, response: str) -> float:
        if response == completions.texts[2]:
            for_ever.wait(60.0)
        return 0.0

    start = time.perf_counter()
    with pytest.raises(DataError, match=r"hanging: took longer than 0.3 s for prompt") as raised:
        loaded(PythonReward(hanging, timeout=0.3), renderer).scores(completions)
    assert time.perf_counter() - start < 30.0
    assert completions.texts[2][:40] in str(raised.value)
    for_ever.set()


@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize("error", [TimeoutError, KeyError, SystemExit])
def test_errors_of_the_function_are_its_own(completions, renderer, timeout, error):
    def broken(prompt: str, response: str) -> float:
        raise error("mine")

    with pytest.raises(error, match="mine"):
        loaded(PythonReward(broken, timeout=timeout), renderer).scores(completions)


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan])
def test_a_limit_that_is_none_is_refused(timeout):
    with pytest.raises(DataError, match="timeout"):
        PythonReward(gold_reward, timeout=timeout)


def test_a_function_may_ask_for_the_record(renderer, completions):
    seen = []

    def graded(prompt: str, response: str, record: Record) -> float:
        seen.append(record)
        return float(record.row.get("points", 0))

    records = [replace(each, row={"points": place}) for place, each in enumerate(completions.records)]
    scores = loaded(PythonReward(graded), renderer).scores(replace(completions, records=records))
    assert scores.tolist() == list(range(len(records)))
    assert seen == records


@pytest.mark.parametrize(
    ("value", "says"), [(None, "gave None for prompt"), ("much", "gave 'much', no number, for prompt")]
)
def test_what_is_no_number_names_the_function_and_the_prompt(renderer, completions, value, says):
    def unsure(prompt: str, response: str) -> float:
        return value

    with pytest.raises(DataError, match=rf"(?s)reward function .*unsure: {says} .*response .*every path"):
        loaded(PythonReward(unsure), renderer).scores(completions)
