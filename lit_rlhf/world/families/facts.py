"""Sum up the facts that the prompt states about somebody."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import permutations, product
from random import Random
from typing import NamedTuple

from lit_rlhf.world.families.base import Family, Pen, Sentence, Task, distinct, focus, mark, shortness
from lit_rlhf.world.lexicon import FACTS, NAMES
from lit_rlhf.world.text import Slots, alternatives

Fact = tuple[str, str]  # kind and value

_LEADS = {lead: kind for kind, (lead, _) in FACTS.items()}
_CLAUSE = re.compile(f"({alternatives(_LEADS)}) (\\w+)")
_STATEMENT = re.compile(f"(\\w+) (?:{_CLAUSE.pattern})\\.")
_FORMS = ("{Who} {clause}.", "{Who} {clause} and {clause}.", "{They} also {action}.")


class FactsAsk(NamedTuple):
    """A name and the facts in the order in which the prompt states them."""

    name: str
    facts: tuple[Fact, ...]


def clause(fact: Fact) -> str:
    """A fact as a clause without its subject, such as "lives in Rome"."""
    return f"{FACTS[fact[0]][0]} {fact[1]}"


_CLAUSES = tuple(clause((kind, value)) for kind, (_, values) in FACTS.items() for value in values)
_ACTIONS = tuple(one for one in _CLAUSES if not one.startswith("is "))  # what "also" can go before


class Facts(Family):
    """Requests such as "Anna is a baker. She lives in Rome. Please sum up the facts about Anna."."""

    name = "facts"
    topics = tuple(NAMES)
    wordings = (
        "{facts} Sum up the facts about {name}.",
        "Here are some facts. {facts} Please sum them up.",
        "{facts} Who is {name}?",
        "{facts} What do we know about {name}?",
        "Read this. {facts} Now tell me about {name}.",
        "{facts} Write a short note about {name}.",
        "Please sum this up. {facts}",
        "{facts} Can you repeat that in short form?",
    )

    def task(self, ask: FactsAsk, wording: int) -> Task:
        """Put a request into words."""
        subjects = [ask.name, *[NAMES[ask.name]] * (len(ask.facts) - 1)]
        facts = " ".join(f"{who} {clause(fact)}." for who, fact in zip(subjects, ask.facts, strict=True))
        prompt = self.wordings[wording].format(facts=facts, name=ask.name)
        return Task(self.name, prompt, ask.name, wording, f"{ask.facts[0][1]}|{ask.facts[1][1]}", ask)

    def draw(self, rng: Random, topics: Sequence[str], wordings: Sequence[int]) -> Task:
        """Draw a request about one of the topics in one of the wordings."""
        kinds = rng.sample(tuple(FACTS), k=rng.randint(2, 4))
        ask = FactsAsk(rng.choice(topics), tuple((kind, rng.choice(FACTS[kind][1])) for kind in kinds))
        return self.task(ask, rng.choice(wordings))

    def every(self) -> Iterator[Task]:
        """Every request with two facts: the others are too many to walk through."""
        for name, kinds, wording in product(NAMES, permutations(FACTS, 2), range(len(self.wordings))):
            for values in product(*(FACTS[kind][1] for kind in kinds)):
                yield self.task(FactsAsk(name, tuple(zip(kinds, values, strict=True))), wording)

    @cached_property
    def prompt_slots(self) -> dict[str, str]:
        """Regular expressions of facts and name."""
        statement = f"(?:{alternatives((*NAMES, 'He', 'She'))}) (?:{alternatives(_CLAUSES)})\\."
        return {"facts": f"{statement}(?: {statement})+", "name": alternatives(NAMES)}

    def read(self, slots: dict[str, str], wording: int) -> FactsAsk | None:
        """The ask behind matched slots; None where the subjects or the number of facts do not fit."""
        statements = _STATEMENT.findall(slots["facts"])
        name = statements[0][0]
        facts = tuple((_LEADS[lead], value) for _, lead, value in statements)
        followers = {who for who, _, _ in statements[1:]}
        fits = slots.get("name", name) == name and name in NAMES and followers == {NAMES[name]}
        known = 2 <= len(facts) <= 4 and len(dict(facts)) == len(facts)
        return FactsAsk(name, facts) if fits and known else None

    @cached_property
    def forms(self) -> tuple[tuple[str, Slots], ...]:
        """Sentences with one or two facts."""
        slots: Slots = {"Who": (*NAMES, "He", "She"), "They": ("He", "She"), "clause": _CLAUSES, "action": _ACTIONS}
        return tuple((form, slots) for form in _FORMS)

    def write(self, task: Task, pen: Pen) -> list[str]:
        """Restate the facts two by two; slips: a wrong, missing or invented fact, name, pronoun, one by one."""
        rng = pen.rng
        name, facts = task.ask
        facts = list(facts)
        if rng.random() < 0.3:
            rng.shuffle(facts)
        if pen.slips(0.35) and len(facts) > 1:
            facts.pop(rng.randrange(len(facts)))
        for index, (kind, _) in enumerate(facts):
            if pen.slips(0.35):
                facts[index] = (kind, rng.choice(FACTS[kind][1]))
        if pen.slips(0.35):
            kind = rng.choice(tuple(FACTS))
            facts.insert(rng.randint(0, len(facts)), (kind, rng.choice(FACTS[kind][1])))
        if pen.slips(0.2):
            name = rng.choice(self.topics)
        pronoun = NAMES[name] if not pen.slips(0.15) else rng.choice(("He", "She"))
        step = 1 if pen.slips(0.4) else 2
        groups = [facts[start : start + step] for start in range(0, len(facts), step)]
        subjects = [name, *[pronoun] * (len(groups) - 1)]
        return [
            f"{who} {' and '.join(map(clause, group))}."
            if len(group) == 2 or who == name or group[0][0] == "job" or rng.random() < 0.5
            else f"{who} also {clause(group[0])}."
            for who, group in zip(subjects, groups, strict=True)
        ]

    def grade(self, task: Task, sentences: list[Sentence]) -> dict[str, float]:
        """Relevance: about this person; correctness: just the stated facts; style: bundled, led by the name."""
        name, facts = task.ask
        asked = len(facts)
        said: list[Fact] = []
        wrong = 0
        about = 0.0
        usable = distinct(sentences)
        for sentence in usable:
            stated = [(_LEADS[lead], value) for lead, value in _CLAUSE.findall(sentence.text)]
            who = sentence.words[0]
            if who == name or (about > 0 and who in ("He", "She")):
                about += bool(stated) * (1.0 if who in (name, NAMES[name]) else 0.5)
                said += stated
            else:
                wrong += len(stated)
        right = set(said) & set(facts)
        wrong += len(set(said) - right)
        needed = (asked + 1) // 2
        led = usable and usable[0].words[0] == name and all(one.words[0] == NAMES[name] for one in usable[1:])
        bundled = len(said) / max(len(usable), 1) >= asked / needed
        return {
            "relevance": focus(about, sentences),
            "correctness": mark(len(right), wrong, asked),
            "style": 0.5 * bool(led) + 0.5 * bundled if right else 0.0,
            "brevity": max(0.0, shortness(sentences, needed) - 0.5 * (len(said) - len(set(said)))),
        }
