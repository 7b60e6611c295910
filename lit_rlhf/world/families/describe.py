"""Describe a place in an asked mood and an asked number of sentences."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from random import Random
from typing import NamedTuple

from lit_rlhf.world.families.base import Family, Pen, Sentence, Task, distinct, focus, mark, shortness
from lit_rlhf.world.lexicon import ADJECTIVES, MOMENTS, MOOD_NOUNS, MOODS, PLACES, SENTENCE_COUNTS
from lit_rlhf.world.text import Slots, alternatives

OPENINGS = (
    "The {place} is {mood} and {mood}.",
    "The {place} looks {mood} {moment}.",
    "The {place} has {mood} {parts}.",
    "A {mood} {noun} hangs over the {place}.",
)
CONTINUATIONS = (
    "Its {parts} are {mood} and {mood}.",
    "Even its {parts} seem {mood}.",
    "It feels {mood} {moment}.",
    "Everything about it is {mood}.",
)
_MOOD_OF = {word: mood for mood in MOODS for word in (*MOODS[mood], *MOOD_NOUNS[mood], mood)}
_PARTS = {part for parts in PLACES.values() for part in parts}
_COUNTS = tuple(SENTENCE_COUNTS)
_BACK_REFERENCES = {"Its", "It", "Even", "Everything"}


class DescribeAsk(NamedTuple):
    """Slots of a request; the adjective may be empty."""

    place: str
    adjective: str
    mood: str
    amount: str

    @property
    def thing(self) -> str:
        """The place as the prompt names it, such as "old harbour"."""
        return f"{self.adjective} {self.place}".strip()


class Describe(Family):
    """Requests such as "Describe the old harbour in a gloomy mood, in two sentences."."""

    name = "describe"
    topics = tuple(PLACES)
    wordings = (
        "Describe the {thing} in a {mood} mood, in {count}.",
        "Write {count} about the {thing} in a {mood} tone.",
        "Please paint a {mood} picture of the {thing} in {count}.",
        "What is the {thing} like? Make it {mood} and use {count}.",
        "I need {count} about the {thing}. Make it sound {mood}.",
        "Give me a {mood} view of the {thing} in {count}.",
        "Tell me about the {thing} in {count}, with a {mood} feeling.",
        "Could you describe the {thing} in {count}? The mood should be {mood}.",
    )

    def task(self, ask: DescribeAsk, wording: int) -> Task:
        """Put a request into words."""
        prompt = self.wordings[wording].format(thing=ask.thing, mood=ask.mood, count=ask.amount)
        return Task(self.name, prompt, ask.place, wording, f"{ask.place}|{ask.mood}", ask)

    def draw(self, rng: Random, topics: Sequence[str], wordings: Sequence[int]) -> Task:
        """Draw a request about one of the topics in one of the wordings."""
        adjective = rng.choice(("", *ADJECTIVES))
        ask = DescribeAsk(rng.choice(topics), adjective, rng.choice(tuple(MOODS)), rng.choice(_COUNTS))
        return self.task(ask, rng.choice(wordings))

    def every(self) -> Iterator[Task]:
        """Every request of the family."""
        for *slots, wording in product(PLACES, ("", *ADJECTIVES), MOODS, _COUNTS, range(len(self.wordings))):
            yield self.task(DescribeAsk(*slots), wording)

    @cached_property
    def prompt_slots(self) -> dict[str, str]:
        """Regular expressions of thing, mood and count."""
        thing = f"(?:(?:{alternatives(ADJECTIVES)}) )?(?:{alternatives(PLACES)})"
        return {"thing": thing, "mood": alternatives(MOODS), "count": alternatives(_COUNTS)}

    def read(self, slots: dict[str, str], wording: int) -> DescribeAsk:
        """The ask behind matched slots."""
        adjective, _, place = slots["thing"].rpartition(" ")
        return DescribeAsk(place, adjective, slots["mood"], slots["count"])

    @cached_property
    def forms(self) -> tuple[tuple[str, Slots], ...]:
        """Sentences of descriptions, each with the words of one mood."""
        things = [f"{adjective} {place}".strip() for adjective in ("", *ADJECTIVES) for place in PLACES]
        return tuple(
            (form, {"place": things, "mood": (*MOODS[mood], mood), "noun": MOOD_NOUNS[mood], "parts": sorted(_PARTS),
                    "moment": MOMENTS})
            for mood in MOODS for form in (*OPENINGS, *CONTINUATIONS)
        )  # fmt: skip

    def write(self, task: Task, pen: Pen) -> list[str]:
        """Describe the place; slips: mood, place, adjective, number of sentences, plain words."""
        ask: DescribeAsk = task.ask
        rng = pen.rng
        count = SENTENCE_COUNTS[ask.amount]
        if pen.slips(0.5):
            count = rng.choice([number for number in (1, 2, 3, 4) if number != count])
        place = rng.choice(self.topics) if pen.slips(0.25) else ask.place
        adjective = rng.choice(("", *ADJECTIVES)) if pen.slips(0.4) else ask.adjective
        lasting = rng.choice(tuple(MOODS)) if pen.slips(0.5) else ask.mood
        plain = pen.slips(0.4)
        unused: dict[str, list[str]] = {}
        forms = [rng.choice(OPENINGS), *rng.sample(CONTINUATIONS, k=min(count - 1, len(CONTINUATIONS)))]
        sentences = []
        for form in forms:
            mood = rng.choice(tuple(MOODS)) if pen.slips(0.4) else lasting
            words = unused.setdefault(mood, rng.sample(MOODS[mood], k=len(MOODS[mood])))
            while "{mood}" in form:
                form = form.replace("{mood}", mood if plain or len(words) == 0 else words.pop(), 1)
            parts = rng.choice(PLACES[rng.choice(self.topics) if pen.slips(0.3) else place])
            thing = f"{adjective} {place}".strip()
            noun = rng.choice(MOOD_NOUNS[mood])
            sentences.append(form.format(place=thing, parts=parts, noun=noun, moment=rng.choice(MOMENTS)))
        return sentences

    def grade(self, task: Task, sentences: list[Sentence]) -> dict[str, float]:
        """Relevance: about this place; correctness: asked mood and count; style: varied words and openings."""
        ask: DescribeAsk = task.ask
        asked = SENTENCE_COUNTS[ask.amount]
        right = wrong = on_topic = 0
        named = 0.0
        mood_words: list[str] = []
        said = distinct(sentences)
        for sentence in said:
            names = _names(ask, sentence.words)
            about = names > 0 or (names == 0 and named > 0 and sentence.words[0] in _BACK_REFERENCES)
            named = max(named, names)
            on_topic += about
            moods = [word for word in sentence.words if word in _MOOD_OF]
            fitting = [word for word in moods if _MOOD_OF[word] == ask.mood]
            mood_words += fitting
            wrong += len(fitting) < len(moods)
            right += about and bool(moods) and len(fitting) == len(moods)
        fresh = len(set(mood_words) - {ask.mood}) / max(len(mood_words), 1)
        openings = len({sentence.words[:2] for sentence in said}) / max(len(said), 1)
        return {
            "relevance": named * focus(on_topic, sentences),
            "correctness": mark(right, wrong, asked),
            "style": fresh * openings,
            "brevity": shortness(sentences, asked),
        }


def _names(ask: DescribeAsk, words: tuple[str, ...]) -> float:
    """How well a sentence names the place: 1 as asked, .8 or .6 with its adjective dropped or wrong, 0 not, -1 another.

    Things to be seen at another place only count as naming another place.
    """
    own = PLACES[ask.place]
    if any((word in PLACES and word != ask.place) or (word in _PARTS and word not in own) for word in words):
        return -1.0
    if ask.place not in words:
        return 0.0
    before = words[words.index(ask.place) - 1]
    adjective = before if before in ADJECTIVES else ""
    return 1.0 if adjective == ask.adjective else 0.8 if not adjective else 0.6
