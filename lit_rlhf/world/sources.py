"""Streams of the world's records: demonstrations, preference pairs and bare prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Record, Source
from lit_rlhf.world.annotator import Annotator
from lit_rlhf.world.families import Task
from lit_rlhf.world.gold import gold_reward
from lit_rlhf.world.splits import Split, check_families, check_split, count_prompts, draw_task, has_prompts
from lit_rlhf.world.writer import write_response

_TRIES = 50  # redraws of a second response that must differ from the first
_CANDIDATES = 12  # responses among which an ambiguous pair is looked for


class _WorldSource(Source):
    """What the three sources share: a name, a seed, a split and families taking turns in random order."""

    bad_rows = 0

    def __init__(
        self, size: int, seed: int, split: str, families: Sequence[str] | None, name: str, weight: float
    ) -> None:
        if size < 0:
            raise DataError(f"is {size}", "world, size", "Give the number of records, 0 or more.")
        self.size = size
        self.seed = seed
        self.split: Split = check_split(split)
        self.families = check_families(families)
        self.name = name
        self.weight = weight

    def __len__(self) -> int:
        return self.size

    def _draws(self, kind: str, cover_all: bool = False) -> Iterator[tuple[int, Random, Task]]:
        """Number, generator and request of each record; the families take turns, shuffled in each round."""
        rng = Random(f"{kind} {self.split} {self.seed}")
        turns: list[str] = []
        for index in range(self.size):
            if not turns:
                turns = list(self.families)
                rng.shuffle(turns)
            yield index, rng, draw_task(rng, turns.pop(), self.split, cover_all)

    def _record(self, index: int, task: Task, chosen: str | None = None, rejected: str | None = None) -> Record:
        return Record(
            prompt=(Message("user", task.prompt),),
            chosen=chosen,
            rejected=rejected,
            source=self.name,
            location=f"{self.name}:{index}",
            meta={"family": task.family, "split": self.split},
        )


class WorldDemonstrations(_WorldSource):
    """Prompts with one answer of mixed quality each, for SFT: the stand-in for pre-training.

    Args:
        size: Number of records.
        seed: Of the stream.
        split: One of `SPLITS`.
        families: Names of the families; None for all.
        name: Shown in reports.
        weight: Share of the records that is used.
        cover_all: In the training split, draw from every prompt but the validation ones, so that every word occurs;
            a word-level model cannot know a word that it never saw. Pairs and prompts never do this.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        split: str = "train",
        families: Sequence[str] | None = None,
        name: str = "world",
        weight: float = 1.0,
        cover_all: bool = True,
    ) -> None:
        super().__init__(size, seed, split, families, name, weight)
        self.cover_all = cover_all

    def records(self) -> Iterator[Record]:
        """Yield the demonstrations, the same at every call."""
        for index, rng, task in self._draws("demonstrations", self.cover_all and self.split == "train"):
            yield self._record(index, task, chosen=write_response(task, rng))


class WorldPairs(_WorldSource):
    """Prompts with two answers, labelled by an annotator; the true label rides along.

    The two answers are independent draws of the writer and always differ in text and in gold reward. ``meta`` holds
    family, split, flipped, gold_chosen and gold_rejected.

    Args:
        size: Number of records.
        seed: Of the texts; the annotator's choices have their own.
        split: One of `SPLITS`.
        annotator: Who labels; None for one without noise (temperature 0).
        families: Names of the families; None for all.
        name: Shown in reports.
        weight: Share of the records that is used.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        split: str = "train",
        annotator: Annotator | None = None,
        families: Sequence[str] | None = None,
        name: str = "world",
        weight: float = 1.0,
    ) -> None:
        super().__init__(size, seed, split, families, name, weight)
        self.annotator = Annotator(temperature=0.0) if annotator is None else annotator

    def records(self) -> Iterator[Record]:
        """Yield the pairs, the same at every call."""
        choices = Random(f"choices {self.split} {self.seed} {self.annotator.seed}")
        for index, rng, task in self._draws("pairs"):
            ambiguous = choices.random() < self.annotator.ambiguous
            first, second = _two_responses(task, rng, ambiguous)
            verdict = self.annotator.prefer(task.prompt, first, second, choices)
            chosen, rejected = (first, second) if verdict else (second, first)
            gold = gold_reward(task.prompt, chosen), gold_reward(task.prompt, rejected)
            record = self._record(index, task, chosen, rejected)
            record.meta.update(flipped=verdict.flipped, gold_chosen=gold[0], gold_rejected=gold[1])
            yield replace(record, chosen_is_better=gold[0] > gold[1])


def _two_responses(task: Task, rng: Random, ambiguous: bool) -> tuple[str, str]:
    """Two responses of different gold reward: independent draws, or the nearest of several."""
    first = write_response(task, rng)
    target = gold_reward(task.prompt, first)
    rivals: list[tuple[float, str]] = []
    wanted = _CANDIDATES if ambiguous else 1
    for _ in range(_TRIES):
        rival = write_response(task, rng)
        gap = abs(gold_reward(task.prompt, rival) - target)
        if rival != first and gap > 1e-6:
            rivals.append((gap, rival))
        if len(rivals) == wanted:
            break
    if not rivals:
        return _two_responses(task, rng, ambiguous)
    return first, min(rivals)[1]


class WorldPrompts(_WorldSource):
    """Bare prompts, for PPO and for evaluation; no prompt twice within a stream.

    Args:
        size: Number of records.
        seed: Of the stream.
        split: One of `SPLITS`.
        families: Names of the families; None for all.
        name: Shown in reports.
        weight: Share of the records that is used.

    Raises:
        DataError: The split has fewer prompts than asked for.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        split: str = "train",
        families: Sequence[str] | None = None,
        name: str = "world",
        weight: float = 1.0,
    ) -> None:
        super().__init__(size, seed, split, families, name, weight)
        each = -(-size // len(self.families))
        for family in self.families:
            if has_prompts(family, self.split, each):
                continue
            raise DataError(
                f"{self.size} distinct prompts asked for, {each} of them of family {family!r}, which has "
                f"{count_prompts(family, self.split)} in split {self.split!r}",
                "world prompts, size",
                "Ask for fewer, or leave the family out.",
            )

    def records(self) -> Iterator[Record]:
        """Yield the prompts, the same at every call."""
        seen: set[str] = set()
        for index, rng, task in self._draws("prompts"):
            while task.prompt in seen:
                task = draw_task(rng, task.family, self.split)
            seen.add(task.prompt)
            yield self._record(index, task)
