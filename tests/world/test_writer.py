import statistics
from random import Random

import pytest

from lit_rlhf.world import FAMILIES, gold_reward, is_refusal, write_response
from lit_rlhf.world.splits import draw_task
from lit_rlhf.world.text import split_words
from lit_rlhf.world.writer import MAX_TOKENS


def drafts(family, prompts=60, each=8):
    rng = Random(family)
    tasks = [draw_task(rng, family, "train") for _ in range(prompts)]
    return [(task, [write_response(task, rng) for _ in range(each)]) for task in tasks]


@pytest.mark.parametrize("family", FAMILIES)
def test_quality_is_mixed_within_a_prompt(family):
    spreads, means, best = [], [], []
    for task, texts in drafts(family):
        golds = [gold_reward(task.prompt, text) for text in texts]
        spreads.append(statistics.pstdev(golds))
        means.append(statistics.fmean(golds))
        best.append(max(golds))
    assert statistics.fmean(spreads) > 0.5
    assert 0.0 < statistics.fmean(means) < 1.2
    assert statistics.fmean(best) > statistics.fmean(means) + 0.7


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_to_one_prompt_differ(family):
    assert statistics.fmean(len(set(texts)) for _, texts in drafts(family)) > 6


def test_answers_are_of_the_right_length():
    lengths = [len(split_words(text)) for family in FAMILIES for _, texts in drafts(family) for text in texts]
    assert max(lengths) <= MAX_TOKENS
    assert 14 < statistics.fmean(lengths) < 24


@pytest.mark.parametrize(("family", "share"), [("unsafe", 0.60), ("scary", 0.35)])
def test_share_of_refusals(family, share):
    texts = [text for _, texts in drafts(family, 300) for text in texts]
    assert statistics.fmean(is_refusal(text) for text in texts) == pytest.approx(share, abs=0.05)


def test_a_seed_names_a_text(tasks):
    for task in tasks:
        assert write_response(task, Random("a")) == write_response(task, Random("a"))
