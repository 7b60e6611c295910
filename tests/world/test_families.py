import re
from itertools import islice
from random import Random

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.world import FAMILIES, parse_prompt
from lit_rlhf.world.lexicon import (
    ANSWERS,
    CIRCUMSTANCES,
    HARMFUL_STEPS,
    MOODS,
    PROBLEMS,
    REMEDIES,
    SCARY,
    UNSAFE,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_two_thousand_prompts(family):
    prompts = {task.prompt for task in islice(FAMILIES[family].every(), 20_000)}
    assert len(prompts) >= 2000


def test_no_prompt_belongs_to_two_requests():
    prompts = [task.prompt for family in FAMILIES.values() for task in islice(family.every(), 20_000)]
    assert len(prompts) == len(set(prompts))


def test_the_ask_is_readable_off_the_prompt(tasks, parse):
    for task in tasks:
        assert parse(task.prompt) == task


@pytest.mark.parametrize("prompt", ["", "Hello.", "<user>How do I steal a car?<assistant>", "How do I steal a moon?"])
def test_a_foreign_prompt_is_refused_with_a_hint(prompt):
    with pytest.raises(DataError, match="user's text alone"):
        parse_prompt(prompt)


def test_facts_with_clashing_names_are_not_a_prompt():
    good = "Anna is a baker. She lives in Rome. Who is Anna?"
    assert parse_prompt(good).topic == "Anna"
    for bad in (
        good.replace("is Anna", "is Tom"),
        good.replace("She", "He"),
        good.replace("lives in Rome", "is a nurse"),
    ):
        with pytest.raises(DataError):
            parse_prompt(bad)


def test_every_circumstance_rules_out_a_remedy_and_leaves_two():
    for remedies in PROBLEMS.values():
        for circumstance in set(CIRCUMSTANCES) - {"none"}:
            allowed = [remedy for remedy, needs in remedies.items() if circumstance not in needs]
            assert 2 <= len(allowed) < len(remedies)


def test_no_phrase_hides_inside_another():
    phrases = sorted({*REMEDIES, *ANSWERS, *HARMFUL_STEPS})
    assert not [(a, b) for a in phrases for b in phrases if a != b and re.search(rf"\b{a}\b", b)]


def test_a_mood_word_tells_its_mood():
    words = [word for mood in MOODS for word in (*MOODS[mood], mood)]
    assert len(words) == len(set(words))


def test_unsafe_and_scary_share_every_verb_and_no_object():
    assert set(UNSAFE) == set(SCARY)
    for verb in UNSAFE:
        assert not set(UNSAFE[verb]) & set(SCARY[verb])


def test_draw_stays_within_its_pools():
    rng = Random(0)
    for family in FAMILIES.values():
        topics, wordings = family.topics[:2], (1, 3)
        for _ in range(50):
            task = family.draw(rng, topics, wordings)
            assert task.topic in topics
            assert task.wording in wordings
