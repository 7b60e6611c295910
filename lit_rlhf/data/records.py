"""What every reader yields and every stage starts from: one `Record` per prompt with its responses."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_rlhf.data.options import Configurable

Role = Literal["tools", "system", "user", "assistant", "tool"]
"""Who speaks. ``tool`` is a tool's result; ``tools``, before all others, lists the tools that may be called."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said; for ``tools``, their descriptions as a JSON list.
        extra: What else a chat template may write of the turn, as a JSON object: the assistant's ``tool_calls``, its
            ``reasoning_content``, a tool's ``name`` or ``tool_call_id``. Empty for most.
    """

    role: Role
    content: str
    extra: str = ""


class ToolCall(str):
    """A response that calls tools. Its text shows the calls as JSON; a chat template writes the ``message``."""

    message: Message

    def __new__(cls, message: Message) -> "ToolCall":
        """Show a message's words and its calls as one text."""
        calls = json.loads(message.extra)["tool_calls"]
        functions = [json.dumps(call.get("function", call), ensure_ascii=False) for call in calls]
        text = super().__new__(cls, "\n".join(filter(None, [message.content, *functions])))
        text.message = message
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes keep the message."""
        return (ToolCall, (self.message,))


@dataclass(frozen=True, slots=True)
class Record:
    """A prompt with a preferred and a rejected response.

    A demonstration has no ``rejected``, a response that somebody marked as bad no ``chosen``, a bare prompt neither.
    What is known about the labels beyond the preference itself rides along for measurement and for the treatments,
    never for plain training.

    Attributes:
        prompt: The conversation so far; its last message is the user's, or a tool's result.
        chosen: The response that the annotator preferred (or the demonstration).
        rejected: The other response.
        source: Name of the source, for reports per source.
        location: ``file:line`` or another way to find the row again, for error messages.
        chosen_is_better: The true label where it is known (synthetic worlds): whether the chosen response
            really is the better one. For measurement only.
        tie: The annotators saw no difference.
        chosen_scores: Scores of the chosen response that came with the data, one per scoring model.
        rejected_scores: The same for the rejected response.
        responses: All responses, where the data has a list of them; ``chosen`` is the best, ``rejected`` the worst.
        grades: One number per response, higher is better: scores, or ranks with a minus sign.
        strength: Mean preference strength that came with the data.
        meta: Anything else worth keeping, by name. ``truncated`` names those of ``chosen`` and ``rejected`` that were
            cut off: such a response has no end, and none is written behind it.
        row: All columns of the row that it was read from, where somebody may ask for them: prompts keep theirs.
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
    responses: tuple[str, ...] = ()
    grades: tuple[float, ...] = ()
    strength: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

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
    return _digest([[message.role, message.content, *filter(None, [message.extra])] for message in prompt])


def _digest(content: list[Any]) -> str:
    text = json.dumps(content, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Source(Configurable, ABC):
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
