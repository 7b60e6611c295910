"""What every reader yields and every stage starts from: one `Record` per prompt with its responses."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """A prompt with a preferred and a rejected response.

    A demonstration has no ``rejected``; a bare prompt has neither. What is known about the labels beyond
    the preference itself rides along for measurement and for the treatments, never for plain training.

    Attributes:
        prompt: The conversation so far; its last message is the user's.
        chosen: The response that the annotator preferred (or the demonstration).
        rejected: The other response.
        source: Name of the source, for reports per source.
        location: ``file:line`` or another way to find the row again, for error messages.
        chosen_is_better: The true label where it is known (synthetic worlds): whether the chosen response
            really is the better one. For measurement only.
        tie: The annotators saw no difference.
        chosen_scores: Scores of the chosen response that came with the data, one per scoring model.
        rejected_scores: The same for the rejected response.
        strength: Mean preference strength that came with the data.
        meta: Anything else worth keeping, by name. ``truncated`` names those of ``chosen`` and ``rejected`` that were
            cut off: such a response has no end, and none is written behind it.
    """

    prompt: tuple[Message, ...]
    chosen: str | None = None
    rejected: str | None = None
    source: str = ""
    location: str = ""
    chosen_is_better: bool | None = None
    tie: bool = False
    chosen_scores: tuple[float, ...] | None = None
    rejected_scores: tuple[float, ...] | None = None
    strength: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_hash(self) -> str:
        """Hash of the prompt's messages: the key of every store."""
        return prompt_hash(self.prompt)

    @property
    def pair_hash(self) -> str:
        """Hash of prompt, chosen and rejected response, as the label has them: the key of strength tables."""
        return _digest([self.prompt_hash, self.chosen, self.rejected])

    @property
    def split_hash(self) -> str:
        """What the validation split goes by: the prompt, or the chosen text where there is no prompt to speak of."""
        if self.chosen is None or any(message.content.strip() for message in self.prompt):
            return self.prompt_hash
        return prompt_hash((*self.prompt, Message("assistant", self.chosen)))


def prompt_hash(prompt: tuple[Message, ...]) -> str:
    """Sixteen hexadecimal digits that name a conversation, the same on every machine and in every run."""
    return _digest([[message.role, message.content] for message in prompt])


def _digest(content: list[Any]) -> str:
    text = json.dumps(content, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Source(ABC):
    """Where records come from: files, a hub, or a synthetic world. The DataModule mixes any number of them.

    Attributes:
        name: Shown in reports.
        weight: Share of this source's records that is used; below 1 takes a fixed random part, above 1 repeats.
        bad_rows: How many rows `records` has skipped so far because they could not be read.
    """

    name: str
    weight: float = 1.0
    bad_rows: int = 0

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield the records, in the same order at every call."""
