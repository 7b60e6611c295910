from itertools import islice
from random import Random

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.world import FAMILIES, SPLITS, WorldPairs, WorldPrompts, count_prompts, parse_prompt
from lit_rlhf.world.splits import draw_task, has_prompts, split_of, unseen_topics, unseen_wordings
from lit_rlhf.world.text import split_words


@pytest.mark.parametrize("family", FAMILIES)
def test_every_split_of_every_family_has_prompts(family):
    for split in SPLITS:
        assert has_prompts(family, split, 200)


def test_has_prompts_agrees_with_the_count():
    there = count_prompts("unsafe", "val")
    assert has_prompts("unsafe", "val", there)
    assert not has_prompts("unsafe", "val", there + 1)


def test_splits_are_disjoint():
    prompts = {split: {r.prompt[0].content for r in WorldPrompts(800, split=split).records()} for split in SPLITS}
    for one in SPLITS:
        assert len(prompts[one]) == 800
        for other in SPLITS:
            assert one == other or not prompts[one] & prompts[other]


def test_training_never_meets_what_is_unseen():
    seen = [parse_prompt(r.prompt[0].content) for r in WorldPairs(1500).records()]
    seen += [parse_prompt(r.prompt[0].content) for r in WorldPrompts(1500).records()]
    for task in seen:
        assert task.topic not in unseen_topics(task.family)
        assert FAMILIES[task.family].wordings[task.wording] not in unseen_wordings(task.family)
    unseen = {parse_prompt(r.prompt[0].content) for r in WorldPrompts(500, split="ood_combination").records()}
    pairs = {(task.family, task.combination) for task in seen}
    assert not pairs & {(task.family, task.combination) for task in unseen}


def test_unseen_places_and_problems_are_unseen_words():
    words = {w for r in WorldPairs(1500, families=["describe"]).records() for w in split_words(r.prompt[0].content)}
    assert not words & unseen_topics("describe")


def test_each_unseen_split_is_new_in_one_way_only():
    for family in FAMILIES:
        rng = Random(family)
        for split, topic, wording in (("ood_topic", True, False), ("ood_wording", False, True)):
            for _ in range(50):
                task = draw_task(rng, family, split)
                assert (task.topic in unseen_topics(family)) == topic
                assert (FAMILIES[family].wordings[task.wording] in unseen_wordings(family)) == wording


def test_the_rule_does_not_depend_on_the_stream():
    for task in islice(FAMILIES["scary"].every(), 500):
        assert split_of(task) == split_of(parse_prompt(task.prompt))


def test_unknown_names_are_refused():
    with pytest.raises(DataError, match="ood_topic"):
        WorldPairs(1, split="test")
    with pytest.raises(DataError, match="describe"):
        WorldPairs(1, families=["poetry"])
    with pytest.raises(DataError, match="no families"):
        WorldPairs(1, families=[])
