"""Give advice: what helps depends on the problem together with the circumstance and on who has it."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from random import Random
from typing import NamedTuple

from lit_rlhf.world.families.base import Family, Pen, Sentence, Task, distinct, focus, mark, shortness
from lit_rlhf.world.lexicon import CIRCUMSTANCES, PERSONS, PROBLEMS, REMEDIES, TIP_COUNTS
from lit_rlhf.world.text import Slots, alternatives, capitalize

FIRST_TIPS = ("{Who} should {remedy}.", "{Who} could {remedy}.", "Perhaps {who} could {remedy}.")
LATER_TIPS = ("{They} could also {remedy}.", "Then {they} should {remedy}.")
DOUBLE_TIP = "{Who} should {remedy} and {remedy}."
REASONS = tuple(circumstance.reason for circumstance in CIRCUMSTANCES.values())
_SUBJECTS = (*(f"your {person}" for person in PERSONS), "you")
_REMEDY = re.compile(rf"\b(?:{alternatives(REMEDIES)})\b")
_OPENING = re.compile(rf"(?:Perhaps |Then )?((?i:{alternatives((*_SUBJECTS, 'he', 'she'))}))\b")


class AdviseAsk(NamedTuple):
    """Slots of a request; the person is empty where the asker has the problem."""

    problem: str
    circumstance: str
    person: str
    amount: str

    @property
    def subject(self) -> str:
        """How an answer speaks of the person who has the problem."""
        return f"your {self.person}" if self.person else "you"

    @property
    def pronoun(self) -> str:
        """How it goes on."""
        return PERSONS.get(self.person, "you")

    @property
    def suited(self) -> list[str]:
        """The remedies that the circumstance allows."""
        return [remedy for remedy, needs in PROBLEMS[self.problem].items() if self.circumstance not in needs]


def _story(ask: AdviseAsk) -> str:
    circumstance = CIRCUMSTANCES[ask.circumstance]
    extra = circumstance.third if ask.person else circumstance.first
    start = f"My {ask.person} has {ask.problem}" if ask.person else f"I have {ask.problem}"
    return f"{start} and {extra}" if extra else start


_ALL_ASKS = [
    AdviseAsk(problem, circumstance, person, count)
    for problem, circumstance, person, count in product(PROBLEMS, CIRCUMSTANCES, ("", *PERSONS), TIP_COUNTS)
]
_STORIES = {_story(ask): ask for ask in _ALL_ASKS}


class Advise(Family):
    """Requests such as "My aunt has a headache and is in a hurry. Please give one tip."."""

    name = "advise"
    topics = tuple(PROBLEMS)
    wordings = (
        "{story}. What should we do? Give {count}.",
        "{story}. Please give {count}.",
        "{story}. What would help? Name {count}.",
        "Please help! {story}. I would like {count}.",
        "What do you advise? {story}. Share {count}.",
        "{story}. Do you have {count}?",
        "I am looking for {count}. {story}.",
        "{story}. Can you suggest {count}?",
    )

    def task(self, ask: AdviseAsk, wording: int) -> Task:
        """Put a request into words."""
        prompt = self.wordings[wording].format(story=_story(ask), count=ask.amount)
        return Task(self.name, prompt, ask.problem, wording, f"{ask.problem}|{ask.circumstance}", ask)

    def draw(self, rng: Random, topics: Sequence[str], wordings: Sequence[int]) -> Task:
        """Draw a request about one of the topics in one of the wordings."""
        person = rng.choice(("", *PERSONS))
        ask = AdviseAsk(rng.choice(topics), rng.choice(tuple(CIRCUMSTANCES)), person, rng.choice(tuple(TIP_COUNTS)))
        return self.task(ask, rng.choice(wordings))

    def every(self) -> Iterator[Task]:
        """Every request of the family."""
        for ask, wording in product(_ALL_ASKS, range(len(self.wordings))):
            yield self.task(ask, wording)

    @cached_property
    def prompt_slots(self) -> dict[str, str]:
        """Regular expressions of story and count."""
        return {"story": "(?:I have|My )[^.!?]+", "count": alternatives(TIP_COUNTS)}

    def read(self, slots: dict[str, str], wording: int) -> AdviseAsk | None:
        """The ask behind matched slots; None for a story that nobody tells."""
        ask = _STORIES.get(slots["story"])
        return None if ask is None else ask._replace(amount=slots["count"])

    @cached_property
    def forms(self) -> tuple[tuple[str, Slots], ...]:
        """Tips and closing sentences."""
        slots: Slots = {
            "Who": [capitalize(subject) for subject in _SUBJECTS],
            "who": _SUBJECTS,
            "They": ("He", "She", "You"),
            "they": ("he", "she", "you"),
            "remedy": REMEDIES,
        }
        return tuple((form, slots) for form in (*FIRST_TIPS, *LATER_TIPS, DOUBLE_TIP, *REASONS))

    def write(self, task: Task, pen: Pen) -> list[str]:
        """Give tips and a reason; slips: unsuited or foreign remedies, number of tips, person, reason."""
        ask: AdviseAsk = task.ask
        rng = pen.rng
        count = TIP_COUNTS[ask.amount]
        if pen.slips(0.4):
            count = rng.choice([number for number in (1, 2, 3) if number != count])
        if pen.slips(0.25):
            ask = ask._replace(person=rng.choice(("", *PERSONS)))
        remedies = self._remedies(ask, pen, count)
        who, they = ask.subject, ask.pronoun
        if count >= 2 and rng.random() < 0.3:
            first = DOUBLE_TIP.replace("{remedy}", remedies.pop(), 1)
        else:
            first = rng.choice(FIRST_TIPS)
        sentences = [first.format(Who=capitalize(who), who=who, remedy=remedies.pop())]
        later = rng.sample(LATER_TIPS, k=len(LATER_TIPS))
        sentences += [
            form.format(They=capitalize(they), they=they, remedy=remedy)
            for form, remedy in zip(later, remedies, strict=False)
        ]
        if not pen.slips(0.5):
            wrong = pen.slips(0.5)
            sentences.append(rng.choice(REASONS) if wrong else CIRCUMSTANCES[ask.circumstance].reason)
        return sentences

    def _remedies(self, ask: AdviseAsk, pen: Pen, count: int) -> list[str]:
        rng = pen.rng
        chosen = rng.sample(ask.suited, k=min(count, len(ask.suited)))
        unsuited = [remedy for remedy in PROBLEMS[ask.problem] if remedy not in ask.suited]
        for index in range(len(chosen)):
            if pen.slips(0.7):
                pool = unsuited if unsuited and rng.random() < 0.6 else REMEDIES
                chosen[index] = rng.choice(pool)
        return chosen

    def grade(self, task: Task, sentences: list[Sentence]) -> dict[str, float]:
        """Relevance: remedies of this problem; correctness: suited ones; style: person and reason."""
        ask: AdviseAsk = task.ask
        asked = TIP_COUNTS[ask.amount]
        tips: set[str] = set()
        on_topic = addressed = advice = 0.0
        for sentence in distinct(sentences):
            found = _REMEDY.findall(sentence.text)
            if found:
                known = [remedy for remedy in found if remedy in PROBLEMS[ask.problem]]
                ours = _addresses(ask, sentence, first=not tips)
                on_topic += len(known) / len(found) * (1.0 if ours else 0.7)
                addressed += ours
                advice += 1
                tips.update(found)
            elif sentence.text in REASONS and tips:
                on_topic += 1.0 if sentence.text == CIRCUMSTANCES[ask.circumstance].reason else 0.5
        right = sum(remedy in ask.suited for remedy in tips)
        reason = sentences[-1].text == CIRCUMSTANCES[ask.circumstance].reason if sentences else False
        about = any(remedy in PROBLEMS[ask.problem] for remedy in tips)
        return {
            "relevance": focus(on_topic, sentences) if about else 0.0,
            "correctness": mark(right, len(tips) - right, asked),
            "style": (0.6 * addressed / advice + 0.4 * reason) if advice else 0.0,
            "brevity": shortness(sentences, asked + 1) * (0.5 if len(tips) > asked else 1.0),
        }


def _addresses(ask: AdviseAsk, sentence: Sentence, first: bool) -> bool:
    match = _OPENING.match(sentence.text)
    subject = match.group(1).lower() if match else ""
    return subject == ask.subject or (not first and subject == ask.pronoun)
