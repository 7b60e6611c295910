"""What every family of requests has: prompts to draw and parse, answers to write, and a way to grade them."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, NamedTuple

from lit_rlhf.world.text import Slots, template_pattern

USABLE = 0.3  # a sentence less fluent than this says nothing: what it contains is not credited


class Sentence(NamedTuple):
    """One sentence of a response.

    Attributes:
        text: The sentence, without surrounding spaces.
        words: Its words and punctuation marks.
        fluency: Between 0 and 1; how near it is to a sentence of the grammar.
    """

    text: str
    words: tuple[str, ...]
    fluency: float

    @property
    def usable(self) -> bool:
        """Whether the sentence is good enough English for its content to count."""
        return self.fluency >= USABLE


@dataclass(frozen=True, slots=True)
class Task:
    """A request and what it asks for.

    Attributes:
        family: Name of the family.
        prompt: The text.
        topic: What the unseen-topic split goes by.
        wording: Index of the wording, what the unseen-wording split goes by.
        combination: What the unseen-combination split goes by.
        ask: The family's own slots.
    """

    family: str
    prompt: str
    topic: str
    wording: int
    combination: str
    ask: Any


@dataclass(slots=True)
class Pen:
    """A writer's hand: a random generator and how good the writer is.

    Attributes:
        rng: Source of chance.
        quality: 1 never slips; at 0 a slip happens at its full rate.
    """

    rng: Random
    quality: float

    def slips(self, rate: float) -> bool:
        """Whether this flaw happens now."""
        return self.rng.random() < rate * (1.0 - self.quality)


class Family(ABC):
    """One family of requests."""

    name: str
    wordings: tuple[str, ...]
    topics: tuple[str, ...]

    @abstractmethod
    def task(self, ask: Any, wording: int) -> Task:
        """Put a request into words."""

    @abstractmethod
    def draw(self, rng: Random, topics: Sequence[str], wordings: Sequence[int]) -> Task:
        """Draw a request about one of the topics in one of the wordings."""

    @abstractmethod
    def every(self) -> Iterator[Task]:
        """Every request of the family, for counting."""

    @abstractmethod
    def read(self, slots: dict[str, str], wording: int) -> Any:
        """The ask that belongs to the slots of a matched prompt, or None where they contradict each other."""

    @cached_property
    @abstractmethod
    def prompt_slots(self) -> dict[str, str]:
        """Regular expression of every slot of the wordings."""

    @cached_property
    @abstractmethod
    def forms(self) -> tuple[tuple[str, Slots], ...]:
        """The sentences that answers are made of: templates with the phrases of their slots."""

    @abstractmethod
    def write(self, task: Task, pen: Pen) -> list[str]:
        """Sentences of an answer, with the flaws of this family that the pen slips into."""

    @abstractmethod
    def grade(self, task: Task, sentences: list[Sentence]) -> dict[str, float]:
        """Relevance, correctness, style and brevity of an answer, and harm where it applies."""

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [template_pattern(wording, self.prompt_slots) for wording in self.wordings]

    def parse(self, prompt: str) -> Task | None:
        """Read a request off its text; None if it is not of this family."""
        for wording, pattern in enumerate(self._patterns):
            match = pattern.fullmatch(prompt)
            ask = None if match is None else self.read(match.groupdict(), wording)
            if ask is not None:
                return self.task(ask, wording)
        return None


def mark(right: int, wrong: float, asked: int) -> float:
    """Correctness in [-1, 1]: -1 for nothing right, 1 for everything, less for what is wrong or more than asked."""
    wrong += 0.5 * max(0, right - asked)
    return max(-1.0, 2.0 * min(right, asked) / asked - 1.0 - wrong / asked)


def focus(on_topic: float, sentences: list[Sentence]) -> float:
    """Relevance in [0, 1]: the squared share of sentences that are on topic; one stray sentence already shows."""
    return (on_topic / len(sentences)) ** 2 if sentences else 0.0


def shortness(sentences: list[Sentence], allowed: int, words_each: int = 15) -> float:
    """Brevity in [0, 1]: half a point off for every sentence too many, and off for endless ones."""
    if not sentences:
        return 0.0
    words = sum(len(sentence.words) for sentence in sentences)
    excess = 0.5 * max(0, len(sentences) - allowed) + max(0, words - words_each * allowed) / 20
    return max(0.0, 1.0 - excess)


def distinct(sentences: list[Sentence]) -> list[Sentence]:
    """The usable sentences, each text once."""
    return list({sentence.text: sentence for sentence in sentences if sentence.usable}.values())
