"""Requests of users: a topic, one or two constraints, and the words for them; and which split a request belongs to."""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, Literal, NamedTuple, get_args

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Record
from lit_rlhf.world.checked.constraints import KINDS, NUMBERS, Constraint, can_stand_together, is_met
from lit_rlhf.world.checked.topics import TOPICS, unseen_topics
from lit_rlhf.world.checked.wordings import ASKS, UNSEEN_ASKS, WORDINGS
from lit_rlhf.world.text import stable_unit

CheckedSplit = Literal["train", "val", "unseen_topics", "unseen_wording", "unseen_kinds"]
CHECKED_SPLITS: tuple[CheckedSplit, ...] = get_args(CheckedSplit)

UNSEEN_KINDS = tuple(kind for kind in KINDS if not WORDINGS[kind].unseen)
"""Kinds of constraints that no request for training or validation has."""
SEEN_KINDS = tuple(kind for kind in KINDS if kind not in UNSEEN_KINDS)

_VALIDATION = 1 / 10
_SECOND = 2 / 5  # share of the requests that get a second constraint, where one is found that fits
_TRIES = 20  # draws of such a one


class Request(NamedTuple):
    """What a user asks for.

    Attributes:
        prompt: The request in words.
        topic: One of `TOPICS`.
        constraints: One or two.
        split: Where it belongs.
    """

    prompt: str
    topic: str
    constraints: tuple[Constraint, ...]
    split: CheckedSplit

    def record(self, source: str = "", location: str = "") -> Record:
        """A bare prompt, whose ``meta`` holds what an answer is checked for, in plain values."""
        meta = {"topic": self.topic, "split": self.split, "constraints": [dict(each) for each in self.constraints]}
        return Record((Message("user", self.prompt),), source=source, location=location, meta=meta)


def draw_request(rng: Random, kind: str, split: CheckedSplit) -> Request:
    """Draw a request of a split whose first constraint is of a kind.

    Args:
        rng: Source of chance.
        kind: One of the split's kinds, see `kinds_of`.
        split: Name of the split.
    """
    while True:
        topic = rng.choice(_topics(split == "unseen_topics"))
        constraints = [_constraint(rng, kind, topic)]
        if rng.random() < _SECOND:
            constraints += _second(rng, constraints[0], split, topic)
        prompt = _worded(rng, topic, constraints, split)
        if split not in ("train", "val") or _is_for_validation(prompt) == (split == "val"):
            return Request(prompt, topic, tuple(constraints), split)


def kinds_of(split: CheckedSplit) -> tuple[str, ...]:
    """The kinds of constraints in a split."""
    return UNSEEN_KINDS if split == "unseen_kinds" else SEEN_KINDS


def check_kinds(kinds: Sequence[str] | None, split: CheckedSplit) -> tuple[str, ...]:
    """The kinds' names, all of the split's for None.

    Raises:
        DataError: One is not of this split, or there are none at all.
    """
    known = kinds_of(split)
    names = known if kinds is None else tuple(kinds)
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        message = f"{wrong[0]!r} is no kind of split {split!r}" if wrong else "no kinds given"
        raise DataError(message, "checked world, kinds", f"Choose some of {', '.join(known)}.")
    return names


def check_checked_split(split: str) -> CheckedSplit:
    """The split's name.

    Raises:
        DataError: No such split; it lists those that there are.
    """
    if split not in CHECKED_SPLITS:
        raise DataError(
            f"no such split: {split!r}", "checked world, split", f"Choose one of {', '.join(CHECKED_SPLITS)}."
        )
    return split


def read_meta(meta: dict[str, Any], location: str) -> tuple[str, list[Constraint]]:
    """Topic and constraints of a record.

    Args:
        meta: The record's.
        location: Names the record in errors.

    Raises:
        DataError: If it brings none, or something that is no constraint: its answers cannot be checked.
    """
    topic, constraints = meta.get("topic"), meta.get("constraints")
    hint = "Take prompts from CheckedPrompts, or pairs from a store that was written for them."
    if not isinstance(topic, str) or topic not in TOPICS or not isinstance(constraints, list) or not constraints:
        raise DataError("brings no constraints that an answer could be checked for", location, hint)
    for constraint in constraints:
        if not isinstance(constraint, dict):
            raise DataError(f"{constraint!r} is no constraint", location, hint)
        is_met(constraint, "")  # refuses what is none
    return topic, constraints


def checked_prompts(rng: Random, count: int) -> list[str]:
    """Texts of training requests, the kinds of their first constraints in turn."""
    return [draw_request(rng, SEEN_KINDS[i % len(SEEN_KINDS)], "train").prompt for i in range(count)]


# ---------------------------------------------------------------------- inside


def _is_for_validation(prompt: str) -> bool:
    return stable_unit("checked validation", prompt) < _VALIDATION


@cache
def _topics(unseen: bool) -> tuple[str, ...]:
    return tuple(topic for topic in TOPICS if (topic in unseen_topics()) == unseen)


def _constraint(rng: Random, kind: str, topic: str) -> Constraint:
    return {"kind": kind, **KINDS[kind].draw(rng, topic)}


def _second(rng: Random, first: Constraint, split: CheckedSplit, topic: str) -> list[Constraint]:
    """A constraint that may stand behind the first one, if one is found."""
    for _ in range(_TRIES):
        kind = rng.choice(kinds_of(split))
        second = _constraint(rng, kind, topic)
        if _tails(kind, split) and can_stand_together(first, second):
            return [second]
    return []


def _wordings(kind: str, split: CheckedSplit) -> tuple[str, ...]:
    return WORDINGS[kind].unseen if split == "unseen_wording" else WORDINGS[kind].seen


def _tails(kind: str, split: CheckedSplit) -> list[str]:
    """The kind's wordings that stand behind a request."""
    return [wording for wording in _wordings(kind, split) if "{topic}" not in wording]


def _worded(rng: Random, topic: str, constraints: list[Constraint], split: CheckedSplit) -> str:
    first = rng.choice(_wordings(constraints[0]["kind"], split))
    parts = [first] if "{topic}" in first else [rng.choice(UNSEEN_ASKS if split == "unseen_wording" else ASKS), first]
    said = [(part, constraints[0]) for part in parts]
    said += [(rng.choice(_tails(each["kind"], split)), each) for each in constraints[1:]]
    return " ".join(part.format(topic=topic, **_slots(constraint)) for part, constraint in said)


def _slots(constraint: Constraint) -> dict[str, Any]:
    count = constraint.get("count")
    if count is None or count >= len(NUMBERS):
        return constraint
    return {**constraint, "number": NUMBERS[count], "sentence": "sentence" if count == 1 else "sentences"}
