"""Lists of messages in the shapes that chat data comes in, as `Message` objects.

``role`` and ``content``, or ``from`` and ``value`` as ShareGPT writes them; roles in any case and under other names;
content as text or as a list of text parts; calls of tools and their results; and all of that written as one text.
"""

import ast
import json
import re
import warnings
from contextlib import suppress
from itertools import chain
from typing import Any, cast

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.records import Message, Role, ToolCall
from lit_rlhf.data.values import describe, field, filled, listed, text

Conversation = tuple[Message, ...]

_ROLES: dict[str, tuple[str, ...]] = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "model", "bot", "ai", "chatbot", "chatgpt", "function_call", "tool_call"),
    "tool": ("tool", "observation", "function", "ipython", "tool_response", "function_response"),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_CALLS = ("function_call", "tool_call")  # roles of turns that are nothing but a call
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker", "author"), ("content", "value", "text", "parts", "message")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_THOUGHTS = ("thinking", "reasoning")  # kinds of parts
_NO_TEXT = ("image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "file")
_BEGINS_A_LIST = re.compile(r"""\s*\[\s*\{\s*(['"])(role|from|content|value)\1\s*:""")
_LONGEST_LITERAL = 2**20
_DEEPEST = 100  # levels of a tool's description, or of a call


def messages(value: Any, name: str) -> Conversation:
    """Read a list of messages, or the text of one.

    Raises:
        DataError: If it is no list, is empty, or a message lacks its role or content, has an unknown role, or says
            something that is no text.
    """
    turns = spelled_out(value)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list):
        raise DataError(f"expected a list of messages, found {describe(turns)}", field(name))
    if not turns:
        raise DataError("the list of messages is empty", field(name))
    return tuple(_message(item, f"{name}[{index}]") for index, item in enumerate(turns))


def spelled_out(value: Any) -> Any:
    """A list of messages that was written as one text (JSON, or as Python prints it), as that list; else the value.

    A list of exchanges, each with ``input`` and ``output``, becomes the messages that it stands for.
    """
    if isinstance(value, list):
        return _exchanges(value)
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")) or len(value) > _LONGEST_LITERAL:
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():  # of escapes that Python does not know: a prompt is no program
                warnings.simplefilter("ignore")
                found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # {{}} is a TypeError
            return value
    turns = [found] if isinstance(found, dict) else found
    return found if is_conversation(turns) else value


def _exchanges(value: list[Any]) -> list[Any]:
    """Turns that are written in pairs of ``input`` and ``output`` (Capybara), as messages; any other list as it is."""
    keys = ("input", "output")
    if not value or not all(
        isinstance(item, dict) and all(isinstance(item.get(k), str) for k in keys) for item in value
    ):
        return value
    if any(map(is_message, value)):
        return value
    return [{"role": r, "content": item[k]} for item in value for r, k in zip(("user", "assistant"), keys, strict=True)]


def check_text(value: Any, name: str) -> None:
    """Refuse a text that was to be a list of messages, but is cut off, or as numpy prints it: without commas.

    Raises:
        DataError: If it is such a text.
    """
    if not isinstance(value, str) or not _BEGINS_A_LIST.match(value):
        return
    try:
        json.loads(value)
        return
    except RecursionError:
        return
    except ValueError as error:
        end = len(value.rstrip())
        cut = isinstance(error, json.JSONDecodeError) and (error.pos >= end or error.msg.startswith("Unterminated"))
    if cut or (value.rstrip().endswith("]") and re.search(r"\}\s*\n\s*\{", value)):
        message = "a list of messages as text, but it is cut off, or has no commas, as numpy prints a list"
        raise DataError(message, field(name), "Write lists of messages with json.dumps.")


def spelled_texts(value: Any) -> list[str] | None:
    """The texts of a list that was written as one text, as some tables hold a conversation's turns; None for others."""
    if not isinstance(value, str) or not value.startswith("[") or len(value) > _LONGEST_LITERAL:
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found and all(isinstance(each, str) for each in found) else None


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, going by the keys of its entries."""
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def is_message(value: Any) -> bool:
    """Whether a value is an object with a role and something said."""
    if not isinstance(value, dict):
        return False
    said = any(key in value for key in (*_CONTENT_KEYS, "tool_calls", "function_call"))
    return said and any(key in value for key in _ROLE_KEYS)


def answer(message: Message, name: str) -> str:
    """What an assistant's message answers: its text, behind its reasoning if it shows any, or its calls of tools.

    Raises:
        DataError: If it is blank.
    """
    extra = json.loads(message.extra) if message.extra else {}
    if "tool_calls" in extra:
        return ToolCall(message)
    said = filled(message.content, name)
    reasoning = extra.get("reasoning_content")
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{said}" if reasoning and "</think>" not in said else said


def tools(value: Any, name: str) -> Conversation:
    """The tools that an assistant may call, as the turn that stands before all others; nothing where there are none.

    Raises:
        DataError: If it is no list of objects, nor the JSON of one.
    """
    value = _tool(value, name) if isinstance(value, str) and value.strip() else value or []
    value = [value] if isinstance(value, dict) else value
    value = [_tool(item, name) for item in value] if isinstance(value, list) else value
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise DataError(f"expected a list of tools, found {describe(value)}", field(name))
    _check_depth(value, name)
    return (Message("tools", _json([_without_nulls(tool) for tool in value])),) if value else ()


def _tool(value: Any, name: str) -> Any:
    """One tool, or a list of them, from its JSON; what is no text as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise DataError("expected a list of tools, found a text that is no JSON", field(name)) from None


def _message(item: Any, name: str) -> Message:
    if not isinstance(item, dict):
        raise DataError(f"expected a message {{role, content}}, found {describe(item)}", field(name))
    role_key = next((key for key in _ROLE_KEYS if key in item), None)
    content_key = next((key for key in _CONTENT_KEYS if key in item), None)
    calls = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else [])
    if role_key is None or (content_key is None and not calls):
        raise DataError(f"a message needs role and content (or from and value); it has: {listed(item)}", field(name))
    said = text(item[role_key], f"{name}.{role_key}").strip().lower()
    if said not in _ROLE_OF:
        known = ", ".join(_ROLE_OF)
        message = f"unknown role '{excerpt(item[role_key])}'; known are {known}"
        raise DataError(message, field(f"{name}.{role_key}"))
    role = cast(Role, _ROLE_OF[said])
    content = "" if content_key is None else item[content_key]
    where = f"{name}.{content_key or 'content'}"
    if said in _CALLS:
        calls, content = _called(content, where), ""
    content, thought = _without_thoughts(content)
    content = "" if calls and content is None else _content(content, where)
    return Message(role, content, _extra(role, {"reasoning": thought, **item} if thought else item, calls, name))


def _without_thoughts(content: Any) -> tuple[Any, str]:
    """What a message says in parts, and what is thought in others of them."""
    if not isinstance(content, list):
        return content, ""
    thoughts = [part for part in content if isinstance(part, dict) and part.get("type") in _THOUGHTS]
    texts: list[Any] = [part.get("thinking", part.get("reasoning", part.get("text"))) for part in thoughts]
    if not thoughts or not all(isinstance(each, str) for each in texts):
        return content, ""
    return [part for part in content if part not in thoughts], "\n".join(texts)


def _content(value: Any, name: str) -> str:
    """What a message says: text, or a list of text parts, which become lines."""
    if isinstance(value, dict) and "parts" in value:
        value = value["parts"]
    if not isinstance(value, list):
        return text(value, name)
    return "\n".join(_part(part, f"{name}[{index}]") for index, part in enumerate(value))


def _part(value: Any, name: str) -> str:
    if isinstance(value, str):
        return text(value, name)
    if not isinstance(value, dict):
        raise DataError(f"expected a part of text, found {describe(value)}", field(name))
    kind = value.get("type", "text")
    if kind in _NO_TEXT or (value.get("text") is None and any(value.get(key) is not None for key in _NO_TEXT)):
        shown = kind if kind in _NO_TEXT else next(key for key in _NO_TEXT if value.get(key) is not None)
        raise DataError(
            f"a part of the kind '{shown}': pictures, sounds and films are not read, only text", field(name)
        )
    return text(value.get("text", value.get("content")), f"{name}.text")


def _extra(role: str, item: dict[str, Any], calls: Any, name: str) -> str:
    """What a template may write of a message besides its content, as JSON; empty where there is nothing."""
    extra: dict[str, Any] = {}
    if calls:
        if role != "assistant":
            raise DataError(f"calls of tools in a turn of the {role}", field(name))
        extra["tool_calls"] = _normal_calls(calls, f"{name}.tool_calls")
    if role == "assistant":
        reasoning = next(
            (item[key] for key in _REASONING if isinstance(item.get(key), str) and item[key].strip()), None
        )
        extra |= {"reasoning_content": text(reasoning, f"{name}.reasoning_content")} if reasoning else {}
    if role == "tool":
        extra |= {key: item[key] for key in ("name", "tool_call_id") if isinstance(item.get(key), str)}
    return _json(extra) if extra else ""


def _called(content: Any, name: str) -> list[Any]:
    """The calls that ShareGPT writes as JSON into the value of a turn."""
    try:
        found = json.loads(content) if isinstance(content, str) else content
    except (ValueError, RecursionError):
        raise DataError("expected a call of a tool as JSON, found other text", field(name)) from None
    return found if isinstance(found, list) else [found]


def _normal_calls(calls: Any, name: str) -> list[dict[str, Any]]:
    """Calls as chat templates expect them: ``function`` with a name and with arguments that are an object."""
    if isinstance(calls, str):
        calls = _called(calls, name)
    if not isinstance(calls, list):
        raise DataError(f"expected a list of calls, found {describe(calls)}", field(name))
    _check_depth(calls, name)
    normal = []
    for index, call in enumerate(calls):
        call = _without_nulls(call) if isinstance(call, dict) else call
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError("a call needs the name of a function", field(f"{name}[{index}]"))
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):  # what is no JSON is left as the text it is
                arguments = json.loads(arguments) if arguments.strip() else {}
            _check_depth(arguments, f"{name}[{index}]")
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        normal.append({**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return normal


def _check_depth(value: Any, name: str) -> None:
    """Refuse what is nested so deeply that those who write it again, template or server, may fail."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = list(chain.from_iterable(inner))
    if level:
        raise DataError(f"nested more than {_DEEPEST} levels deep", field(name))


def _without_nulls(value: Any) -> Any:
    """A value less its null entries, which tables fill in wherever another row has a key."""
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _json(value: Any) -> str:
    try:
        written = json.dumps(value, ensure_ascii=False, default=str)
        written.encode("utf-8")
    except (ValueError, RecursionError, UnicodeEncodeError):
        raise DataError("a call or a description of a tool that is no valid JSON", field("tools")) from None
    return written
