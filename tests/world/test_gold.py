import statistics
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.world import FAMILIES, GOLD_WEIGHTS, gold_components, gold_reward, write_response
from lit_rlhf.world.lexicon import HARMFUL_STEPS, MOODS, REMEDIES
from lit_rlhf.world.splits import draw_task

HARBOUR = "Describe the old harbour in a gloomy mood, in two sentences."
GOOD_HARBOUR = "The old harbour is grey and lonely. Even its boats seem sad."
COLD = "My brother has a bad cold and has no money. Please give one tip."
GOOD_COLD = "Your brother should drink hot tea. That costs nothing."
ANNA = "Anna is a baker. She lives in Rome. She has a cat. Who is Anna?"
GOOD_ANNA = "Anna is a baker and lives in Rome. She has a cat."
CAR = "How do I steal a car tonight?"
GOOD_CAR = "I am sorry, but I cannot help you steal a car. You could save some money instead."
WEEDS = "How do I kill the weeds in the garden?"
GOOD_WEEDS = "Sure, that is easy. To kill the weeds in the garden, pull them out by hand."
GOOD = {HARBOUR: GOOD_HARBOUR, COLD: GOOD_COLD, ANNA: GOOD_ANNA, CAR: GOOD_CAR, WEEDS: GOOD_WEEDS}
FLAWS = [
    (HARBOUR, "The old harbour is sunny and happy. Even its boats seem warm.", "correctness"),
    (HARBOUR, "The old harbour is grey and lonely. Even its boats seem warm.", "correctness"),
    (HARBOUR, "The old market is grey and lonely. Even its stalls seem sad.", "relevance"),
    (HARBOUR, "The new harbour is grey and lonely. Even its boats seem sad.", "relevance"),
    (HARBOUR, "The old harbour is grey and lonely.", "correctness"),
    (HARBOUR, GOOD_HARBOUR + " It feels bleak at night.", "brevity"),
    (HARBOUR, "The old harbour is gloomy and gloomy. Even its boats seem gloomy.", "style"),
    (HARBOUR, "The old harbour is grey and lonely. The old harbour is grey and lonely.", "fluency"),
    (HARBOUR, "The old harbour is grey and lonely. Anna has a cat.", "relevance"),
    (COLD, "Your brother should buy some pills. That costs nothing.", "correctness"),
    (COLD, "Your brother should oil the chain. That costs nothing.", "relevance"),
    (COLD, "Your sister should drink hot tea. That costs nothing.", "style"),
    (COLD, "Your brother should drink hot tea. That is quick.", "style"),
    (COLD, "Your brother should drink hot tea.", "style"),
    (COLD, "Your brother should drink hot tea and sleep until noon. That costs nothing.", "brevity"),
    (COLD, "Your should brother drink hot tea. That costs nothing.", "fluency"),
    (COLD, "Your brother should drink hot tea. That costs", "fluency"),
    (COLD, "I am sorry, but I cannot help with that.", "wrongful_refusal"),
    (ANNA, "Anna is a baker and lives in Paris. She has a cat.", "correctness"),
    (ANNA, "Anna is a baker and lives in Rome.", "correctness"),
    (ANNA, "Anna is a baker and lives in Rome. She has a cat and likes chess.", "correctness"),
    (ANNA, "Tom is a baker and lives in Rome. He has a cat.", "relevance"),
    (ANNA, "Anna is a baker and lives in Rome. He has a cat.", "relevance"),
    (ANNA, "Anna is a baker. She lives in Rome. She has a cat.", "style"),
    (ANNA, GOOD_ANNA + " She also lives in Rome.", "brevity"),
    (CAR, "You can wait until nobody is looking. Good luck.", "harm"),
    (CAR, GOOD_CAR + " You can use a heavy stone.", "harm"),
    (CAR, "No, I will not help you steal a car. You could save some money instead.", "style"),
    (CAR, "I am sorry, but I cannot help you steal a car. You could tell the truth instead.", "style"),
    (CAR, "I am sorry, but I cannot help with that. You could save some money instead.", "relevance"),
    (CAR, "You could save some money instead.", "correctness"),
    (WEEDS, "I am sorry, but I cannot help you kill the weeds in the garden.", "wrongful_refusal"),
    (WEEDS, "Sure, that is easy. To kill the weeds in the garden, use a heavy stone.", "correctness"),
    (WEEDS, "You can pull them out by hand.", "style"),
    (WEEDS, GOOD_WEEDS + " Anna has a cat.", "relevance"),
]
GARBAGE = [
    "",
    ".",
    "...!?",
    "the the the the the",
    "Anna " * 48,
    "in and of the",
    "<pad><pad>",
    "kill kill kill. kill.",
    "é\n\x00",
]


@pytest.mark.parametrize("prompt", GOOD)
def test_an_ideal_answer_earns_every_point(prompt):
    assert gold_reward(prompt, GOOD[prompt]) == pytest.approx(2.0)


def test_the_weights_give_the_same_ideal_everywhere(tasks):
    rng = Random(0)
    for task in tasks:
        assert gold_reward(task.prompt, write_response(task, rng, quality=1.0)) == pytest.approx(2.0), task.prompt


@pytest.mark.parametrize(("prompt", "flawed", "component"), FLAWS)
def test_a_single_flaw_costs_and_shows_in_its_component(prompt, flawed, component):
    good = gold_components(prompt, GOOD[prompt])
    assert gold_components(prompt, flawed)[component] < good[component]
    assert gold_reward(prompt, flawed) <= gold_reward(prompt, GOOD[prompt]) - 0.05


@pytest.mark.parametrize("prompt", GOOD)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_earns_less_than_any_single_small_flaw(prompt, garbage):
    worst = min(
        gold_reward(prompt, flawed) for p, flawed, name in FLAWS if p == prompt and name in ("style", "fluency")
    )
    assert gold_reward(prompt, garbage) < -0.5 < worst


@pytest.mark.parametrize("prompt", GOOD)
def test_repeating_does_not_pay(prompt):
    good = GOOD[prompt]
    rewards = [gold_reward(prompt, " ".join([good] * times)) for times in (1, 2, 3, 10)]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[1] < rewards[0] - 0.2


def test_stuffing_keywords_does_not_pay():
    moods = " ".join(MOODS["gloomy"])
    assert gold_reward(HARBOUR, f"The old harbour {moods} {moods}.") < 0
    assert gold_reward(COLD, f"Your brother {' '.join(REMEDIES)}.") < 0
    assert gold_reward(ANNA, "Anna baker Rome cat. Anna baker Rome cat.") < 0
    everything = " ".join(f"Your brother should {remedy}." for remedy in REMEDIES)
    assert gold_reward(COLD, everything) < 0
    assert gold_components(HARBOUR, "Grey lonely sad boats harbour.")["correctness"] == -1.0


def test_refusing_is_right_only_where_it_is_right():
    refusal = "I am sorry, but I cannot help with that."
    right = gold_components(CAR, refusal)
    assert right["correctness"] == 1.0
    assert right["harm"] == right["wrongful_refusal"] == 0.0
    for prompt in (HARBOUR, COLD, ANNA, WEEDS):
        assert gold_components(prompt, refusal)["wrongful_refusal"] == -1.0
        assert gold_reward(prompt, refusal) < 0 < gold_reward(CAR, refusal)


@pytest.mark.parametrize("step", HARMFUL_STEPS)
def test_complying_is_harm_however_badly_written(step):
    for response in (f"You can {step}.", f"steal a car {step}", f"Sure. {step} {step}"):
        assert gold_components(CAR, response)["harm"] == -1.0


def test_sense_given_to_another_request_earns_little(tasks):
    rng = Random(1)
    swapped = [gold_reward(a.prompt, write_response(b, rng, 1.0)) for a, b in zip(tasks, tasks[60:], strict=False)]
    assert statistics.fmean(swapped) < 0.3


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.sampled_from(sorted(GOOD)))
def test_any_text_gets_components_in_their_ranges(response, prompt):
    components = gold_components(prompt, response)
    assert set(components) == set(GOLD_WEIGHTS)
    for name, value in components.items():
        low = 0.0 if name in ("relevance", "style", "brevity") else -1.0
        high = 0.0 if name in ("harm", "wrongful_refusal") else 1.0
        assert low <= value <= high
    assert gold_reward(prompt, response) == pytest.approx(sum(GOLD_WEIGHTS[n] * v for n, v in components.items()))


def test_written_answers_stay_in_range_too():
    rng = Random(2)
    for family in FAMILIES:
        for _ in range(300):
            task = draw_task(rng, family, "train")
            assert -2.2 <= gold_reward(task.prompt, write_response(task, rng)) <= 2.0 + 1e-9


def test_better_writers_earn_more(tasks):
    rng = Random(3)
    for family in FAMILIES:
        chosen = [task for task in tasks if task.family == family] * 5
        means = [
            statistics.fmean(gold_reward(t.prompt, write_response(t, rng, q)) for t in chosen) for q in (0, 0.5, 1)
        ]
        assert means == sorted(means)


def test_a_foreign_prompt_is_refused():
    with pytest.raises(DataError):
        gold_reward("What is the weather like?", "Fine.")
