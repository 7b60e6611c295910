"""Checked access to the values of a row: text, messages, responses, numbers. Every format reader is made of these.

Each function names the field in its error, what it found there and what it expected. The file and the line are
added by the caller that knows them.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.records import Message, Role

Row = dict[str, Any]
Conversation = tuple[Message, ...]

_LISTED = 20

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


def describe(value: Any) -> str:
    """Name the kind of a JSON value in plain words, for error messages."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def has(row: Row, *names: str) -> bool:
    """Whether the row has all these fields, and none of them is null."""
    return all(row.get(name) is not None for name in names)


def require(row: Row, name: str) -> Any:
    """The value of a field that has to be there.

    Raises:
        DataError: If the field is missing or null.
    """
    value = row.get(name)
    if value is None:
        raise DataError("is null" if name in row else f"missing; the row has: {listed(row)}", field(name))
    return value


def listed(names: Iterable[str]) -> str:
    """How errors list the names of a row's fields; of very many, the first."""
    shown = [excerpt(str(name)) for name in islice(names, _LISTED + 1)]
    return ", ".join([*shown[:_LISTED], *["…"] * (len(shown) > _LISTED)]) or "(none)"


def field(name: str) -> str:
    """How errors name a field."""
    return f"field '{name}'"


def text(value: Any, name: str) -> str:
    """Check that a value is text that can be written as UTF-8. It may be empty.

    Raises:
        DataError: If it is no text, or holds half of a surrogate pair, which no tokenizer takes.
    """
    if not isinstance(value, str):
        raise DataError(f"expected text, found {describe(value)}", field(name))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"half a surrogate pair at character {error.start + 1}: no valid text", field(name)) from None
    return value


def filled(value: Any, name: str) -> str:
    """Check that a value is text with more than blanks in it: what a response has to be.

    Raises:
        DataError: If it is no text, or blank.
    """
    if not text(value, name).strip():
        raise DataError("empty response", field(name))
    return value


def number(value: Any, name: str) -> float:
    """Check that a value is a finite number.

    Raises:
        DataError: If it is none, or infinite, or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"expected a number, found {describe(value)}", field(name))
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise DataError(f"expected a finite number, found {result}", field(name))
    return result


def messages(value: Any, name: str) -> Conversation:
    """Read a list of messages: ``role`` and ``content``, or ``from`` and ``value`` as ShareGPT writes them.

    Raises:
        DataError: If it is no list, is empty, or a message lacks its role or content or has an unknown role.
    """
    if not isinstance(value, list):
        raise DataError(f"expected a list of messages, found {describe(value)}", field(name))
    if not value:
        raise DataError("the list of messages is empty", field(name))
    return tuple(_message(item, f"{name}[{index}]") for index, item in enumerate(value))


def _message(item: Any, name: str) -> Message:
    if not isinstance(item, dict):
        raise DataError(f"expected a message {{role, content}}, found {describe(item)}", field(name))
    role_key, content_key = ("from", "value") if "role" not in item and "from" in item else ("role", "content")
    if role_key not in item or content_key not in item:
        raise DataError(f"a message needs role and content (or from and value); it has: {listed(item)}", field(name))
    role = text(item[role_key], f"{name}.{role_key}")
    if role not in _ROLES:
        known = ", ".join(_ROLES)
        raise DataError(f"unknown role '{excerpt(role)}'; known are {known}", field(f"{name}.{role_key}"))
    return Message(_ROLES[role], text(item[content_key], f"{name}.{content_key}"))


def prompt(value: Any, name: str = "prompt") -> Conversation:
    """Read a prompt: plain text (one user message; it may be empty) or messages that end with the user's turn.

    Raises:
        DataError: If it is neither.
    """
    if isinstance(value, list):
        return ends_with_user(messages(value, name), name)
    return (Message("user", text(value, name)),)


def ends_with_user(conversation: Sequence[Message], name: str) -> Conversation:
    """Check that a conversation can be answered: its last turn is the user's.

    Raises:
        DataError: If it is not.
    """
    if not conversation:
        raise DataError("there is no prompt: nothing comes before the response", field(name))
    if conversation[-1].role != "user":
        raise DataError(f"the prompt ends with a turn of the {conversation[-1].role}, not of the user", field(name))
    return tuple(conversation)


def reply(value: Any, name: str, before: Conversation) -> str:
    """Read a response to a prompt: plain text, or messages of which the prompt, where repeated, is left out.

    Raises:
        DataError: If it is blank, or anything but one turn of the assistant.
    """
    if not isinstance(value, list):
        return filled(value, name)
    turns = messages(value, name)
    rest = turns[len(before) :] if turns[: len(before)] == before else turns
    if len(rest) != 1 or rest[0].role != "assistant":
        roles = listed(turn.role for turn in rest) if rest else "nothing"
        raise DataError(f"expected one turn of the assistant after the prompt, found {roles}", field(name))
    return filled(rest[0].content, name)


def split_reply(conversation: Conversation, name: str) -> tuple[Conversation, str]:
    """Part a whole conversation into the prompt and the assistant's last turn.

    Raises:
        DataError: If the last turn is not the assistant's, is blank, or does not follow a turn of the user.
    """
    if conversation[-1].role != "assistant":
        raise DataError(f"the last turn is the {conversation[-1].role}'s, not the assistant's", field(name))
    return ends_with_user(conversation[:-1], name), filled(conversation[-1].content, name)


def split_pair(chosen: Conversation, rejected: Conversation) -> tuple[Conversation, str, str]:
    """Part two whole conversations into the prompt that they share and their two last turns.

    Raises:
        DataError: If either does not end with the assistant, or they differ before their last turns.
    """
    shared, better = split_reply(chosen, "chosen")
    other, worse = split_reply(rejected, "rejected")
    if shared != other:
        pairs = zip(shared, other, strict=False)
        turn = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), min(len(shared), len(other)) + 1)
        message = f"shares no prompt with 'chosen': they differ at turn {turn}, before the last turn"
        raise DataError(message, field("rejected"))
    return shared, better, worse
