import pytest
import torch
from jsonargparse import ArgumentParser

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Record
from lit_rlhf.rewards import CheckedReward, Reward
from lit_rlhf.world.checked import CHECKED_WEIGHTS, CheckedPrompts, checked_components, checked_gold

TEXTS = ["Well.", "It is small and old.", "People like the world", "Is it? It is, it is, it is."]


@pytest.fixture
def answered(complete):
    """Four made-up answers to prompts of the checked world; the last is cut off."""
    return complete(list(CheckedPrompts(4).records()), TEXTS, cut=(3,))


def test_each_response_is_checked_for_what_its_own_record_asks(answered, renderer):
    reward = CheckedReward(scale=2.0).load(renderer, "policy")
    expected = [
        checked_gold(record.meta["topic"], record.meta["constraints"], text, cut)
        for record, text, cut in zip(answered.records, answered.texts, [False, False, False, True], strict=True)
    ]
    assert reward.scores(answered).tolist() == pytest.approx([2 * value for value in expected])
    assert torch.equal(reward(answered).sum(1), reward.scores(answered))
    components = reward.components(answered)
    assert components.keys() == CHECKED_WEIGHTS.keys()
    meta = answered.records[0].meta
    first = checked_components(meta["topic"], meta["constraints"], answered.texts[0])
    assert {name: float(column[0]) for name, column in components.items()} == pytest.approx(first)
    total = sum(weight * components[name] for name, weight in CHECKED_WEIGHTS.items())
    assert (2 * total).tolist() == pytest.approx(reward.scores(answered).tolist())


def test_a_response_that_was_cut_off_is_unfinished(answered, renderer):
    reward = CheckedReward().load(renderer, "policy")
    assert reward.components(answered)["unfinished"][3] == -1.0


def test_a_prompt_of_another_world_is_refused_by_name(complete, renderer):
    other = complete([Record((Message("user", "What is honey?"),), location="pairs.jsonl:3")], ["Sweet."])
    with pytest.raises(DataError, match=r"(?s)pairs\.jsonl:3.*CheckedPrompts"):
        CheckedReward().load(renderer, "policy").scores(other)


def test_it_can_be_named_in_a_config():
    parser = ArgumentParser()
    parser.add_subclass_arguments(Reward, "judge")
    judge = {"class_path": "lit_rlhf.rewards.CheckedReward", "init_args": {"scale": 0.5}}
    assert parser.instantiate_classes(parser.parse_object({"judge": judge})).judge.scale == 0.5
