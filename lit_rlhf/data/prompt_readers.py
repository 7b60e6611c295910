"""The prompt of a row, wherever it stands: one column or several, text, turns or messages, a system turn and tools."""

from contextlib import suppress
from typing import Any

from lit_rlhf.data import columns
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import Conversation, Row, ends_with_user, messages, prompt, require, said, text
from lit_rlhf.data.messages import tools
from lit_rlhf.data.records import Message
from lit_rlhf.data.transcripts import is_open_transcript, parse_prompt


def required_prompt(row: Row, transcripts: bool = False) -> Conversation:
    """The prompt of a row, without its system turn.

    Args:
        row: The row.
        transcripts: Read a text with ``Human:`` and ``Assistant:`` as the turns that it shows.
    """
    whole = conversation_column(row)
    if whole is not None and (columns.find(row, ["prompt"]) is None or _repeats(row, whole)):
        turns = turns_of(row[whole], whole)
        return ends_with_user(turns[:-1] if turns[-1].role == "assistant" and len(turns) > 1 else turns, whole)
    name = columns.prompt_column(row)
    if name is None:
        name = "prompt"
    value = require(row, name)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):  # OpenAI's preferences
        value = value["messages"]
    if transcripts and isinstance(value, str) and is_open_transcript(value):
        return parse_prompt(value, str(name))
    if isinstance(value, list) and value and not any(isinstance(item, dict) for item in value):
        earlier = plain_turns(value, str(name))
        return ends_with_user(earlier, str(name))
    if isinstance(value, dict) and (key := columns.text_key(value) or columns.full_text_key(value)) is not None:
        value = value if columns.is_message(value) else value[key]  # WebGPT's questions are objects
    asked = prompt(value, name)
    asked = _with_input(row, name, asked)
    past = columns.find(row, ["history"])
    if past is not None and past != name and isinstance(said(dict.get(row, past)), list) and said(row[past]):
        return (*turns_of(row[past], str(past)), *asked)
    return asked


def turns_of(value: Any, name: str) -> Conversation:
    """Turns as messages, as texts in turn from the user on, or as pairs of texts."""
    turns = said(value)
    if isinstance(turns, list) and turns and not any(isinstance(turn, dict) for turn in turns):
        return plain_turns(turns, str(name))
    return messages(turns, str(name))


def _repeats(row: Row, whole: Any) -> bool:
    """Whether a text ``prompt`` is the last question of the messages beside it, which then hold what came before."""
    value = dict.get(row, "prompt")
    if not isinstance(value, str):
        return False
    with suppress(DataError):
        asked = [turn.content.strip() for turn in turns_of(dict.get(row, whole), str(whole)) if turn.role == "user"]
        return bool(asked) and asked[-1] == value.strip()
    return False


def _with_input(row: Row, name: Any, asked: Conversation) -> Conversation:
    """An instruction with its input, a blank line between (Alpaca)."""
    beside = columns.find(row, ["input"])
    if str(name).strip().lower() not in ("instruction", "prompt") or beside in (None, name):
        return asked
    given = text(row[beside], beside)
    if not given.strip() or len(asked) != 1:
        return asked
    return (Message("user", "\n\n".join(filter(str.strip, [asked[0].content, given]))),)


def plain_turns(value: list[Any], name: str) -> Conversation:
    """Turns that are written as pairs of texts, or as texts that alternate from the user on."""
    pairs = all(isinstance(item, list) and len(item) == 2 for item in value)
    texts = [each for item in value for each in item] if pairs else value
    return tuple(
        Message("assistant" if i % 2 else "user", text(each, f"{name}[{i // 2 if pairs else i}]"))
        for i, each in enumerate(texts)
    )


def conversation_column(row: Row) -> Any | None:
    """The column that holds messages, if there is one."""
    return next(
        (c for name in columns.CONVERSATIONS if (c := columns.find(row, [name])) is not None and _is_turns(row, c)),
        None,
    )


def is_answered(row: Row, column: Any) -> bool:
    """Whether a conversation ends with a turn of the assistant."""
    with suppress(DataError):
        return turns_of(dict.get(row, column), str(column))[-1].role == "assistant"
    return False


def is_whole(row: Row, column: Any) -> bool:
    """Whether a conversation has more than one turn."""
    value = dict.get(row, column)
    return columns.is_whole(value) or columns.is_plain_turns(value)


def _is_turns(row: Row, column: Any) -> bool:
    return isinstance(said(dict.get(row, column)), list)


def tools_turn(row: Row) -> Conversation:
    """The tools of a column, as the turn before all others."""
    name = columns.find(row, columns.TOOLS)
    return () if name is None else tools(row[name], name)


def system_turn(row: Row, asked: Conversation) -> Conversation:
    """The system turn of a column, unless the conversation begins with one."""
    name = columns.find(row, columns.SYSTEMS)
    if name is None or any(turn.role == "system" for turn in asked):
        return ()
    content = text(row[name], name)
    return (Message("system", content),) if content.strip() else ()


def prompt_of(row: Row) -> Any | None:
    """The column that a prompt can be read from, if one is there."""
    whole = conversation_column(row)
    if whole is not None:
        return whole
    try:
        return columns.prompt_column(row)
    except DataError:  # two of them: the reader asks which
        return "prompt"
