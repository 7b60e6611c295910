"""Checked access to the fields of a row: prompts, responses, and the values that they are made of.

Every format reader is made of these functions. Each names the field in its error, what it found there and what it
expected. The file and the line are added by the caller that knows them.
"""

from collections.abc import Sequence
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.messages import Conversation, answer, check_text, is_message, messages, spelled_out
from lit_rlhf.data.records import Message
from lit_rlhf.data.values import Row, describe, field, filled, has, listed, number, numeric, require, text

__all__ = [
    "Conversation",
    "Row",
    "describe",
    "ends_with_user",
    "field",
    "filled",
    "has",
    "listed",
    "messages",
    "number",
    "numeric",
    "prompt",
    "reply",
    "require",
    "said",
    "split_pair",
    "split_reply",
    "text",
]


def prompt(value: Any, name: str = "prompt") -> Conversation:
    """Read a prompt: plain text (one user message; it may be empty) or messages that end with the user's turn.

    Raises:
        DataError: If it is neither.
    """
    value = said(value)
    if isinstance(value, list):
        return ends_with_user(messages(value, name), name)
    check_text(value, name)
    return (Message("user", text(value, name)),)


def said(value: Any) -> Any:
    """A message by itself, or a text that spells out messages, as the list of messages; any other value as it is."""
    value = spelled_out(value)
    return [value] if is_message(value) else value


def ends_with_user(conversation: Sequence[Message], name: str) -> Conversation:
    """Check that a conversation can be answered: its last turn is the user's, or a tool's result.

    Raises:
        DataError: If it is not.
    """
    if not conversation:
        raise DataError("there is no prompt: nothing comes before the response", field(name))
    if conversation[-1].role not in ("user", "tool"):
        raise DataError(f"the prompt ends with a turn of the {conversation[-1].role}, not of the user", field(name))
    return tuple(conversation)


def reply(value: Any, name: str, before: Conversation) -> str:
    """Read a response to a prompt: plain text, or messages of which the prompt, where repeated, is left out.

    Raises:
        DataError: If it is blank, or anything but one turn of the assistant.
    """
    value = said(value)
    if not isinstance(value, list):
        check_text(value, name)
        return filled(value, name)
    turns = messages(value, name)
    rest = turns[len(before) :] if turns[: len(before)] == before else turns
    if len(rest) != 1 or rest[0].role != "assistant":
        roles = listed(turn.role for turn in rest) if rest else "nothing"
        raise DataError(f"expected one turn of the assistant after the prompt, found {roles}", field(name))
    return answer(rest[0], name)


def split_reply(conversation: Conversation, name: str) -> tuple[Conversation, str]:
    """Part a whole conversation into the prompt and the assistant's last turn.

    Raises:
        DataError: If the last turn is not the assistant's, is blank, or does not follow a turn of the user.
    """
    if conversation[-1].role != "assistant":
        raise DataError(f"the last turn is the {conversation[-1].role}'s, not the assistant's", field(name))
    return ends_with_user(conversation[:-1], name), answer(conversation[-1], name)


def split_pair(
    chosen: Conversation, rejected: Conversation, names: tuple[str, str] = ("chosen", "rejected")
) -> tuple[Conversation, str, str]:
    """Part two whole conversations into the prompt that they share and their two last turns.

    Raises:
        DataError: If either does not end with the assistant, or they differ before their last turns.
    """
    shared, better = split_reply(chosen, names[0])
    other, worse = split_reply(rejected, names[1])
    if shared != other:
        pairs = zip(shared, other, strict=False)
        turn = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), min(len(shared), len(other)) + 1)
        message = f"shares no prompt with '{names[0]}': they differ at turn {turn}, before the last turn"
        raise DataError(message, field(names[1]))
    return shared, better, worse
