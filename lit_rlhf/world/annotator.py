"""A human annotator in miniature: noisy in a known way, biased in a known way."""

import copy
import math
from collections.abc import Callable
from functools import cache
from random import Random
from statistics import NormalDist, fmean, pstdev
from typing import NamedTuple, Self

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import Configurable
from lit_rlhf.world.families import FAMILIES
from lit_rlhf.world.families.safety import is_refusal
from lit_rlhf.world.gold import gold_reward
from lit_rlhf.world.splits import draw_task
from lit_rlhf.world.text import split_words, stable_normal

_SAMPLE = 5000  # prompts on which the mean and the spread of the prompt's traits are measured


class Verdict(NamedTuple):
    """What an annotator says about two responses.

    Attributes:
        prefers_first: Whether the first response is preferred; also the verdict's truth value.
        flipped: Whether the label was turned round after the choice.
    """

    prefers_first: bool
    flipped: bool

    def __bool__(self) -> bool:
        return self.prefers_first


Gold = Callable[[str, str], float]
"""The gold reward of a prompt's text and a response."""

Prompts = Callable[[Random, int], list[str]]
"""Draws so many training prompts of a world, on which the traits of its prompts are scaled."""


def embedded_prompts(rng: Random, count: int) -> list[str]:
    """Training prompts of the embedded world, its families in turn."""
    families = tuple(FAMILIES)
    return [draw_task(rng, families[i % len(families)], "train").prompt for i in range(count)]


def _raw_trait(name: str, prompt: str) -> float:
    """Sum of fixed weights of a prompt's words, each word once; the weights of short words are 0."""
    words = sorted({word.lower() for word in split_words(prompt) if len(word) > 3})
    return sum(stable_normal(name, word) for word in words)


@cache
def _trait_scale(name: str, prompts: Prompts) -> tuple[float, float]:
    values = [_raw_trait(name, prompt) for prompt in prompts(Random(f"scale of {name}"), _SAMPLE)]
    return fmean(values), pstdev(values)


def prompt_bias(prompt: str, prompts: Prompts = embedded_prompts) -> float:
    """A learnable offset b(x): a sum of fixed word weights, with mean 0 and variance 1 over training prompts.

    It depends on the prompt alone. So it cancels within a pair and never changes a label; it matters where
    scores of different prompts meet, as in the reward of PPO.

    Args:
        prompt: The user's text.
        prompts: Draws training prompts of the world that the prompt is from.
    """
    mean, spread = _trait_scale("bias", prompts)
    return (_raw_trait("bias", prompt) - mean) / spread


class Annotator(Configurable):
    """Chooses between two responses by Bradley-Terry on a biased score, then errs at a known rate.

    P(first preferred) = sigmoid((score(first) - score(second)) / temperature); then the label is flipped,
    independently, with the prompt's flip rate. It works in any world with a gold reward; see `of_world`.

    Args:
        temperature: Bradley-Terry temperature in units of gold reward; 0 always takes the higher score.
        flip_rate: Mean probability of a flip, in [0, 0.5].
        length_bias: Added to the score for every word and punctuation mark of the response.
        refusal_bias: Added to the score of a response that refuses, rightly or wrongly.
        prompt_bias: Size of the prompt's offset: ``prompt_bias * b(x)`` with the function `prompt_bias` as b. It is
            part of `score` and cancels within a pair.
        flip_spread: How much the flip rate varies with the prompt's text, in [0, 1]: at 1 the rates are spread
            evenly between 0 and twice ``flip_rate``, at 0 they are all alike.
        ambiguous: Share of pairs, in [0, 1], that a source makes nearly equal in gold reward.
        seed: Of the annotator's own choices; two annotators differ by nothing else.

    Raises:
        DataError: A number is out of its range.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        flip_rate: float = 0.0,
        length_bias: float = 0.0,
        refusal_bias: float = 0.0,
        prompt_bias: float = 0.0,
        flip_spread: float = 0.0,
        ambiguous: float = 0.0,
        seed: int = 0,
    ) -> None:
        ranges = {"temperature": (temperature, 0, math.inf), "flip_rate": (flip_rate, 0, 0.5),
                  "flip_spread": (flip_spread, 0, 1), "ambiguous": (ambiguous, 0, 1)}  # fmt: skip
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise DataError(f"is {value}", f"world annotator, {name}", f"Choose a number in [{low}, {high}].")
        self.temperature = temperature
        self.flip_rate = flip_rate
        self.length_bias = length_bias
        self.refusal_bias = refusal_bias
        self.prompt_bias = prompt_bias
        self.flip_spread = flip_spread
        self.ambiguous = ambiguous
        self.seed = seed
        self._gold: Gold = gold_reward
        self._prompts: Prompts = embedded_prompts

    def of_world(self, gold: Gold, prompts: Prompts) -> Self:
        """The same annotator, with the same numbers, in another world than the embedded one.

        Args:
            gold: The world's gold reward, which takes the place of the embedded world's.
            prompts: Draws training prompts of that world: so the mean flip rate, and the size of the prompt's offset,
                are there what they are called.
        """
        moved = copy.copy(self)
        moved._gold, moved._prompts = gold, prompts
        return moved

    def score(self, prompt: str, response: str) -> float:
        """Gold reward plus this annotator's biases."""
        score = self._gold(prompt, response)
        if self.length_bias:
            score += self.length_bias * len(split_words(response))
        if self.refusal_bias and is_refusal(response):
            score += self.refusal_bias
        if self.prompt_bias:
            score += self.prompt_bias * prompt_bias(prompt, self._prompts)
        return score

    def flip_probability(self, prompt: str) -> float:
        """Probability that a label of this prompt is flipped."""
        if not self.flip_spread:
            return self.flip_rate
        mean, spread = _trait_scale("flips", self._prompts)
        place = NormalDist().cdf((_raw_trait("flips", prompt) - mean) / spread)  # about uniform over prompts
        return self.flip_rate * (1.0 + self.flip_spread * (2.0 * place - 1.0))

    def prefer(self, prompt: str, first: str, second: str, rng: Random) -> Verdict:
        """Choose between two responses.

        Args:
            prompt: The user's text.
            first: One response.
            second: The other one.
            rng: Source of chance; always asked for two numbers, so that knobs do not shift each other's chance.
        """
        gap = self.score(prompt, first) - self.score(prompt, second)
        chance, flip = rng.random(), rng.random()
        if self.temperature:
            choice = chance < 1.0 / (1.0 + math.exp(min(max(-gap / self.temperature, -500.0), 500.0)))
        else:
            choice = gap > 0 or (gap == 0 and chance < 0.5)
        flipped = flip < self.flip_probability(prompt)
        return Verdict(choice != flipped, flipped)
