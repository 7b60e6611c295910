"""Transcripts in the form of Anthropic's HH-RLHF: turns that begin with ``Human:`` or ``Assistant:``."""

import re
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import Conversation, ends_with_user, field, filled
from lit_rlhf.data.records import Message

_OPEN = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


def is_transcript(value: Any) -> bool:
    """Whether a value is text that begins as a transcript does."""
    return isinstance(value, str) and value.lstrip().startswith(("Human:", "Assistant:"))


def is_open_transcript(value: Any) -> bool:
    """Whether a value is a transcript that waits for the assistant: it ends with ``Assistant:``."""
    return is_transcript(value) and value.rstrip().endswith(_OPEN)


def parse_transcript(text: str, name: str) -> Conversation:
    """Split a transcript into messages, without the blanks around them.

    Turns of one speaker in a row become one message: the assistant's last turn in HH-RLHF sometimes has a stray
    marker in its middle.

    Args:
        text: The transcript. Blank lines before the first turn do not matter.
        name: The field, for errors.

    Raises:
        DataError: If the text does not begin with a turn.
    """
    start, *parts = _TURN.split(f"\n\n{text.lstrip()}")
    if start or not parts:
        raise DataError("no transcript: it has to begin with 'Human:' or 'Assistant:'", field(name))
    turns: list[Message] = []
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        content = content.strip()
        if turns and turns[-1].role == role:
            content = "\n\n".join(filter(None, (turns.pop().content, content)))
        turns.append(Message(role, content))
    return tuple(turns)


def parse_prompt(text: str, name: str) -> Conversation:
    """Read a transcript that ends with a human turn, with or without an ``Assistant:`` behind it.

    Raises:
        DataError: If it is no transcript, or its last turn is the assistant's.
    """
    turns = parse_transcript(text, name)
    if turns[-1] == Message("assistant", ""):
        turns = turns[:-1]
    return ends_with_user(turns, name)


def parse_reply(text: str, name: str) -> str:
    """Read what the assistant says behind a transcript: the text without blanks around it or stray markers in it.

    Raises:
        DataError: If it is blank, or goes on with a human turn.
    """
    reply, *further = parse_transcript(f"Assistant: {text}", name)
    if further:
        raise DataError("goes on with a further turn 'Human:'", field(name))
    return filled(reply.content, name)
