"""Tools in a conversation: what a chat template is given of them, and whether it has written them."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.records import Message

Prompt = tuple[Message, ...]


def as_dicts(prompt: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as a chat template or a server reads them; the turn that lists tools is none of them."""
    return [
        {"role": message.role, "content": message.content, **(json.loads(message.extra) if message.extra else {})}
        for message in prompt
        if message.role != "tools"
    ]


def tools_of(prompt: Sequence[Message]) -> list[dict[str, Any]] | None:
    """The tools that may be called in a conversation; None without any."""
    return json.loads(prompt[0].content) if prompt and prompt[0].role == "tools" else None


def request(prompt: Sequence[Message]) -> dict[str, Any]:
    """A conversation as it is sent to a server of OpenAI's form."""
    tools = tools_of(prompt)
    return {"messages": as_dicts(prompt)} | ({} if tools is None else {"tools": tools})


def from_row(row: dict[str, Any]) -> Message:
    """A message as a store holds it."""
    return Message(row["role"], row["content"], row.get("extra") or "")


def to_row(message: Message) -> dict[str, str]:
    """A message for a store; `from_row` reads it."""
    return {"role": message.role, "content": message.content} | ({"extra": message.extra} if message.extra else {})


def head(prompt: Prompt) -> Prompt:
    """The turns before a conversation proper: the list of tools, and the system's."""
    count = next((i for i, message in enumerate(prompt) if message.role not in ("tools", "system")), len(prompt))
    return prompt[:count]


def check_written(prompt: Sequence[Message], text: str, name: str) -> None:
    """Refuse a template that has left out tools, calls or results of a conversation.

    Args:
        prompt: The conversation.
        text: What the template made of it.
        name: The tokenizer that the template belongs to, for the error.

    Raises:
        DataError: If something is missing in the text.
    """
    if not any(message.role in ("tools", "tool") or "tool_calls" in message.extra for message in prompt):
        return
    needed = Counter(wanted for message in prompt for wanted in _said(message))
    for (kind, words), times in needed.items():
        elsewhere = sum(message.content.count(words) for message in prompt if message.role not in ("tools", "tool"))
        others = sum(count for (other, same), count in needed.items() if same == words and other != kind)
        expected = 1 if kind == _RESULT else times + others + elsewhere
        if text.count(words) < expected:
            hint = "Name a tokenizer or a template that knows tools: data.tokenizer, data.template."
            raise DataError(f"writes no {kind}: {excerpt(words)!r} is lost", f"the chat template of {name}", hint)


_LIST, _RESULT, _CALL = "list of tools", "result of a tool", "call of a tool"


def _said(message: Message) -> list[tuple[str, str]]:
    """What must be found of a message in the text of a template that knows tools, each with what it is."""
    if message.role == "tools":
        inner = [tool.get("function", tool) for tool in json.loads(message.content)]
        names = [each.get("name") if isinstance(each, dict) else each for each in inner]
        return [(_LIST, name) for name in dict.fromkeys(name for name in names if isinstance(name, str))]
    if message.role == "tool":
        return [(_RESULT, message.content.strip())]
    if "tool_calls" in message.extra:
        return [(_CALL, call["function"]["name"]) for call in json.loads(message.extra)["tool_calls"]]
    return []
