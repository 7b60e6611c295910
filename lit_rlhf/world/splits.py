"""Which prompts are for training, for validation, and out of distribution: by rule, not by list."""

from collections.abc import Sequence
from functools import cache
from itertools import islice
from random import Random
from typing import Literal, get_args

from lit_rlhf.data.errors import DataError
from lit_rlhf.world.families import FAMILIES, Task
from lit_rlhf.world.text import stable_unit

Split = Literal["train", "val", "ood_topic", "ood_wording", "ood_combination"]
SPLITS: tuple[Split, ...] = get_args(Split)

_UNSEEN_SHARE = 1 / 5  # of a family's topics, and of its wordings
_UNSEEN_COMBINATIONS = 1 / 8
_VALIDATION = 1 / 10


@cache
def unseen_topics(family: str) -> frozenset[str]:
    """Topics that no training pair and no training prompt is about."""
    return _least(f"topic {family}", FAMILIES[family].topics)


@cache
def unseen_wordings(family: str) -> frozenset[str]:
    """Wordings that no training pair and no training prompt uses."""
    return _least(f"wording {family}", FAMILIES[family].wordings)


def _least(salt: str, items: Sequence[str]) -> frozenset[str]:
    ranked = sorted(items, key=lambda item: stable_unit(salt, item))
    return frozenset(ranked[: max(1, round(len(items) * _UNSEEN_SHARE))])


def split_of(task: Task) -> Split | None:
    """The split of a request; None if it is out of distribution in more ways than one."""
    topic = task.topic in unseen_topics(task.family)
    wording = FAMILIES[task.family].wordings[task.wording] in unseen_wordings(task.family)
    combination = stable_unit("combination", task.family, task.combination) < _UNSEEN_COMBINATIONS
    if topic + wording + combination > 1:
        return None
    if topic:
        return "ood_topic"
    if wording:
        return "ood_wording"
    if combination:
        return "ood_combination"
    return "val" if stable_unit("validation", task.prompt) < _VALIDATION else "train"


@cache
def _pools(family: str, split: Split | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Topics and wordings that a split can use; every one for None."""
    kind = FAMILIES[family]
    new_topics, new_wordings = unseen_topics(family), unseen_wordings(family)
    topics = [topic for topic in kind.topics if split is None or (topic in new_topics) == (split == "ood_topic")]
    wordings = [
        index
        for index, wording in enumerate(kind.wordings)
        if split is None or (wording in new_wordings) == (split == "ood_wording")
    ]
    return tuple(topics), tuple(wordings)


def draw_task(rng: Random, family: str, split: Split, cover_all: bool = False) -> Task:
    """Draw a request of a family and a split.

    Args:
        rng: Source of chance.
        family: Name of the family.
        split: Name of the split.
        cover_all: Draw from all prompts but those of the validation split, whatever ``split`` says.
    """
    topics, wordings = _pools(family, None if cover_all else split)
    while True:
        task = FAMILIES[family].draw(rng, topics, wordings)
        found = split_of(task)
        if found == split or (cover_all and found != "val"):
            return task


def has_prompts(family: str, split: Split, wanted: int) -> bool:
    """Whether a split has that many distinct prompts of a family; counts no further than it must."""
    there = (task for task in FAMILIES[family].every() if split_of(task) == split)
    return next(islice(there, max(wanted - 1, 0), None), None) is not None


@cache
def count_prompts(family: str, split: Split) -> int:
    """Number of distinct prompts of a family in a split (for facts: those with two facts, a lower bound)."""
    return sum(split_of(task) == split for task in FAMILIES[family].every())


def check_split(split: str) -> Split:
    """The split's name, or an error that lists the names there are.

    Raises:
        DataError: No such split.
    """
    if split not in SPLITS:
        raise DataError(f"no such split: {split!r}", "world, split", f"Choose one of {', '.join(SPLITS)}.")
    return split


def check_families(families: Sequence[str] | None) -> tuple[str, ...]:
    """The families' names, all of them for None.

    Raises:
        DataError: No such family, or none at all.
    """
    names = tuple(FAMILIES) if families is None else tuple(families)
    wrong = [name for name in names if name not in FAMILIES]
    if wrong or not names:
        raise DataError(
            f"no such family: {wrong[0]!r}" if wrong else "no families given",
            "world, families",
            f"Choose some of {', '.join(FAMILIES)}.",
        )
    return names
