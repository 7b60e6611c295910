import math
import statistics
from random import Random

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.world import Annotator, WorldPairs, WorldPrompts, gold_reward, prompt_bias
from lit_rlhf.world.text import split_words

PROMPT = "How do I steal a car tonight?"
REFUSAL = "I am sorry, but I cannot help you steal a car. You could save some money instead."
COMPLIANCE = "You can wait until nobody is looking."


def share(annotator, first, second, count=4000):
    rng = Random(0)
    return statistics.fmean(bool(annotator.prefer(PROMPT, first, second, rng)) for _ in range(count))


def test_a_cold_annotator_always_takes_the_better_one():
    assert share(Annotator(temperature=0.0), REFUSAL, COMPLIANCE, 50) == 1.0
    assert share(Annotator(temperature=0.0), COMPLIANCE, REFUSAL, 50) == 0.0


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_choices_follow_bradley_terry(temperature):
    gap = gold_reward(PROMPT, REFUSAL) - gold_reward(PROMPT, COMPLIANCE)
    expected = 1 / (1 + math.exp(-gap / temperature))
    tolerance = 4 * math.sqrt(expected * (1 - expected) / 4000)
    assert share(Annotator(temperature=temperature), REFUSAL, COMPLIANCE) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_the_flip_rate_is_realised(rate):
    pairs = list(WorldPairs(2000, annotator=Annotator(temperature=0.0, flip_rate=rate)).records())
    flipped = statistics.fmean(pair.meta["flipped"] for pair in pairs)
    assert flipped == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 2000))
    assert all(pair.chosen_is_better != pair.meta["flipped"] for pair in pairs)


def test_flips_can_depend_on_the_prompt_and_keep_their_mean():
    annotator = Annotator(flip_rate=0.2, flip_spread=1.0)
    rates = [annotator.flip_probability(r.prompt[0].content) for r in WorldPrompts(2000).records()]
    assert statistics.fmean(rates) == pytest.approx(0.2, abs=0.02)
    assert statistics.pstdev(rates) > 0.08
    assert min(rates) >= 0.0
    assert max(rates) <= 0.4
    assert Annotator(flip_rate=0.2).flip_probability(PROMPT) == 0.2


@pytest.mark.parametrize(
    ("knob", "size", "feature"),
    [
        ("length_bias", 0.3, lambda pair: len(split_words(pair.chosen)) - len(split_words(pair.rejected))),
        ("refusal_bias", 3.0, lambda pair: ("help" in pair.chosen) - ("help" in pair.rejected)),
    ],
)
def test_a_bias_pulls_its_way(knob, size, feature):
    pulled = {
        sign: statistics.fmean(
            feature(pair)
            for pair in WorldPairs(600, annotator=Annotator(temperature=0.0, **{knob: sign * size})).records()
        )
        for sign in (-1, 0, 1)
    }
    assert pulled[-1] < pulled[0] < pulled[1]


def test_prompt_bias_has_mean_zero_and_unit_variance():
    values = [prompt_bias(r.prompt[0].content) for r in WorldPrompts(4000, seed=7).records()]
    assert statistics.fmean(values) == pytest.approx(0.0, abs=0.1)
    assert statistics.pstdev(values) == pytest.approx(1.0, abs=0.1)


def test_prompt_bias_is_part_of_the_score_and_cancels_within_a_pair():
    plain, biased = Annotator(), Annotator(prompt_bias=2.0)
    for text in (REFUSAL, COMPLIANCE):
        assert biased.score(PROMPT, text) == pytest.approx(plain.score(PROMPT, text) + 2.0 * prompt_bias(PROMPT))
    assert list(WorldPairs(300, annotator=biased).records()) == list(WorldPairs(300, annotator=plain).records())


def test_ambiguous_pairs_are_nearly_equal():
    def gap(ambiguous):
        pairs = WorldPairs(400, annotator=Annotator(ambiguous=ambiguous)).records()
        return statistics.median(abs(pair.meta["gold_chosen"] - pair.meta["gold_rejected"]) for pair in pairs)

    assert gap(1.0) < 0.25 * gap(0.0)


@pytest.mark.parametrize("knob", [{"flip_rate": 0.7}, {"temperature": -1.0}, {"flip_spread": 2.0}, {"ambiguous": -0.1}])
def test_numbers_out_of_range_are_refused(knob):
    with pytest.raises(DataError, match=next(iter(knob))):
        Annotator(**knob)
