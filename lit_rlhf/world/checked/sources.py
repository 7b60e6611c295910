"""Streams of the checked world's records: bare prompts, and preference pairs among a model's own samples."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from random import Random
from typing import Any, Literal, NamedTuple

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Record, Source
from lit_rlhf.data.store import Store
from lit_rlhf.data.tool_turns import from_row
from lit_rlhf.world.annotator import Annotator
from lit_rlhf.world.checked.constraints import is_met
from lit_rlhf.world.checked.gold import CHECKED_WEIGHTS, SHORTEST, checked_gold
from lit_rlhf.world.checked.requests import (
    CheckedSplit,
    check_checked_split,
    check_kinds,
    checked_prompts,
    draw_request,
    read_meta,
)
from lit_rlhf.world.checked.text import words

_TRIES = 200  # draws of a prompt that has not come before
_EQUAL = 1e-6  # gold rewards that differ by no more are equal


class CheckedPrompts(Source):
    """Bare prompts, for sampling, PPO and evaluation; no prompt twice within a stream.

    ``meta`` holds the topic, the split and the constraints, which `lit_rlhf.rewards.CheckedReward` reads. The kinds of
    the first constraints take turns in random order. Splits are disjoint by rule, whatever the seeds.

    Args:
        size: Number of records.
        seed: Of the stream.
        split: One of `CHECKED_SPLITS`: ``train``; ``val``, other prompts of the same kinds; and what neither of them
            has: ``unseen_topics``, ``unseen_wording``, ``unseen_kinds`` of constraints.
        kinds: Kinds of the first constraint; None for all of the split.
        skip: Prompts at the beginning of the stream that are left out, such as those that another source has.
        name: Shown in reports.
        weight: Share of the records that is used.

    Raises:
        DataError: For a split or a kind that there is not. Later, if the split has fewer prompts than asked for.
    """

    bad_rows = 0

    def __init__(
        self,
        size: int,
        seed: int = 0,
        split: str = "train",
        kinds: Sequence[str] | None = None,
        skip: int = 0,
        name: str = "checked",
        weight: float = 1.0,
    ) -> None:
        for option, value in (("size", size), ("skip", skip)):
            if value < 0:
                raise DataError(f"is {value}", f"checked world, {option}", "Give a number of records, 0 or more.")
        self.size, self.seed, self.skip, self.name, self.weight = size, seed, skip, name, weight
        self.split: CheckedSplit = check_checked_split(split)
        self.kinds = check_kinds(kinds, self.split)

    def __len__(self) -> int:
        return self.size

    def records(self) -> Iterator[Record]:
        """Yield the prompts, the same at every call."""
        rng, seen = Random(f"checked {self.split} {self.seed}"), set[str]()
        turns: list[str] = []
        for index in range(self.skip + self.size):
            if not turns:
                turns = list(self.kinds)
                rng.shuffle(turns)
            kind = turns.pop()
            drawn = (draw_request(rng, kind, self.split) for _ in range(_TRIES))
            request = next((each for each in drawn if each.prompt not in seen), None)
            if request is None:
                message = (
                    f"{self.size} distinct prompts asked for; after {index} hardly another of kind {kind!r} is left"
                )
                raise DataError(message, f"checked prompts, split {self.split!r}", "Ask for fewer, or for more kinds.")
            seen.add(request.prompt)
            if index >= self.skip:
                yield request.record(self.name, f"{self.name}:{index}")


class Sampled(NamedTuple):
    """A response that a model gave.

    Attributes:
        text: What it says.
        truncated: Whether it was cut off at the limit of length.
        gold: What it earns.
    """

    text: str
    truncated: bool
    gold: float


class SampledPairs(Source):
    """Preference pairs among the responses that a model gave to the checked world's prompts, labelled by an annotator.

    The two responses differ in gold reward, and the true label rides along. Where all responses to a prompt earn the
    same, one pair of it is yielded as a tie, which the DataModule leaves out and counts.

    A response that was cut off at the limit of length did not end, and is not to be learned as one that did: ``meta``
    names it in ``truncated`` (``[]``, ``["chosen"]``, ``["rejected"]`` or both), and the DataModule writes no end of
    turn behind it. So the reward model reads in its pairs what it will read in policy optimisation, token by token. The
    gold reward knows it, too. ``meta`` further holds topic, split, constraints, flipped, gold_chosen and gold_rejected.

    Args:
        store: Folder that a ``predict`` run of ``BaselineModule`` wrote for `CheckedPrompts`.
        pairs: Most pairs per prompt; no two of a prompt are the same.
        seed: Of the choice of pairs; the annotator's choices have their own.
        annotator: Who labels; None for one without noise (temperature 0).
        name: Shown in reports.
        weight: Share of the records that is used.
        choice: Which pairs of a prompt: at ``random``, or those whose gold rewards lie ``widest`` apart, best against
            worst, which teach more as long as noise in the labels goes by the difference.

    Raises:
        DataError: For a choice that there is not. When read, if the store is no finished one, or its prompts bring no
            constraints.
    """

    bad_rows = 0

    def __init__(
        self,
        store: str,
        pairs: int = 2,
        seed: int = 0,
        annotator: Annotator | None = None,
        name: str = "sampled",
        weight: float = 1.0,
        choice: Literal["random", "widest"] = "random",
    ) -> None:
        if pairs < 1:
            raise DataError(f"is {pairs}", "sampled pairs, pairs", "Give 1 or more pairs per prompt.")
        if choice not in ("random", "widest"):
            raise DataError(f"is {choice!r}", "sampled pairs, choice", "Give random or widest.")
        self.choice = choice
        self.store, self.pairs, self.seed, self.name, self.weight = store, pairs, seed, name, weight
        self.annotator = Annotator(temperature=0.0) if annotator is None else annotator

    def records(self) -> Iterator[Record]:
        """Yield the pairs, the same at every call."""
        rng, choices = Random(f"pairs {self.seed}"), Random(f"choices {self.seed} {self.annotator.seed}")
        number = 0
        for row in Store(self.store).rows():
            meta, responses = read_row(row, self.store)
            prompt = tuple(map(from_row, row["messages"]))
            for pair in self._chosen(responses, rng, choices):
                yield self._labelled(Record(prompt, meta=dict(meta)), pair, choices, f"{self.name}:{number}")
                number += 1

    def _chosen(self, responses: list[Sampled], rng: Random, choices: Random) -> list[tuple[Sampled, Sampled]]:
        """Pairs of a prompt, in random order and each with its two in random order; a tie where nothing differs."""
        distinct = list({response.text: response for response in responses}.values())
        every = [(a, b) if rng.random() < 0.5 else (b, a) for a, b in combinations(distinct, 2)]
        rng.shuffle(every)
        unequal = [pair for pair in every if abs(pair[0].gold - pair[1].gold) > _EQUAL]
        if not unequal:
            return every[:1]
        ambiguous = sorted(unequal, key=lambda pair: abs(pair[0].gold - pair[1].gold))
        if self.choice == "widest":
            unequal = ambiguous[::-1]
        found: list[tuple[Sampled, Sampled]] = []
        for _ in range(min(self.pairs, len(unequal))):
            pool = ambiguous if choices.random() < self.annotator.ambiguous else unequal
            found.append(next(pair for pair in pool if pair not in found))
        return found

    def _labelled(self, record: Record, pair: tuple[Sampled, Sampled], choices: Random, location: str) -> Record:
        first, second = pair
        worth = {first.text: first.gold, second.text: second.gold}
        annotator = self.annotator.of_world(lambda _, text: worth[text], checked_prompts)
        verdict = annotator.prefer(record.prompt[-1].content, first.text, second.text, choices)
        chosen, rejected = (first, second) if verdict else (second, first)
        sides = {"chosen": chosen, "rejected": rejected}
        record.meta.update(
            flipped=verdict.flipped,
            gold_chosen=chosen.gold,
            gold_rejected=rejected.gold,
            truncated=[side for side, response in sides.items() if response.truncated],
        )
        tie = abs(chosen.gold - rejected.gold) <= _EQUAL
        better = None if tie else chosen.gold > rejected.gold
        return Record(
            record.prompt, chosen.text, rejected.text, self.name, location, better, tie=tie, meta=record.meta
        )  # fmt: skip


class StubPairs(SampledPairs):
    """One pair per prompt: a response of the model against the first word or two of one, as if it had ended there.

    A model seldom does that of its own, but a policy that is rewarded for brevity soon tries it, and a reward model
    that never saw such an answer may like it. Mix some in: ``StubPairs(store, weight=0.2)`` beside `SampledPairs`.

    Args:
        store: As for `SampledPairs`.
        seed: Of the choice of responses.
        annotator: Who labels; None for one without noise.
        name: Shown in reports.
        weight: Share of the pairs that is used.
    """

    def __init__(
        self,
        store: str,
        seed: int = 0,
        annotator: Annotator | None = None,
        name: str = "stubs",
        weight: float = 1.0,
    ) -> None:
        super().__init__(store, 1, seed, annotator, name, weight)

    def _chosen(self, responses: list[Sampled], rng: Random, choices: Random) -> list[tuple[Sampled, Sampled]]:
        whole = [response for response in responses if len(words(response.text)) >= SHORTEST]
        if not whole:
            return []
        response, first = rng.choice(whole), rng.choice(whole).text.split()[: rng.randint(1, SHORTEST - 1)]
        text = " ".join(first)
        if len(words(text)) >= SHORTEST:  # such as "one—two—three"
            text = words(text)[0]
        stub = Sampled(text, False, -CHECKED_WEIGHTS["empty"])
        return [(response, stub) if rng.random() < 0.5 else (stub, response)]


def read_row(row: dict[str, Any], store: str) -> tuple[dict[str, Any], list[Sampled]]:
    """A prompt's ``meta`` and its responses with their gold rewards, from a row of a store.

    Raises:
        DataError: If the row does not say what its prompt asks for.
    """
    where = f"{store}, prompt {row.get('prompt_hash')}"
    if "meta" not in row or "messages" not in row:
        raise DataError("was written by an older version, without the prompts' meta", store, "Write it again.")
    meta = json.loads(row["meta"])
    topic, constraints = read_meta(meta, where)
    both = zip(row["responses"], row["truncated"], strict=True)
    return meta, [Sampled(text, cut, checked_gold(topic, constraints, text, cut)) for text, cut in both]


def met_by_kind(store: str) -> dict[str, tuple[int, float]]:
    """How often the responses of a store meet each kind of constraint, as a number of responses and a share.

    Kinds that are met .2 to .6 of the time by chance carry the signal: what is never or always met labels no pair.
    """
    asked, met = Counter[str](), Counter[str]()
    for row in Store(store).rows():
        meta, responses = read_row(row, store)
        for constraint in meta["constraints"]:
            asked[constraint["kind"]] += len(responses)
            met[constraint["kind"]] += sum(is_met(constraint, response.text) for response in responses)
    return {kind: (count, met[kind] / count) for kind, count in sorted(asked.items())}
