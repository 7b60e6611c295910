"""Rows in plain words: what columns, messages and prompts mean, told without the code under test."""

import ast
import json
import re
from contextlib import suppress
from typing import Any

from reliability.fuzz_words import (
    ANSWERS,
    CONTENTS,
    LESSER_PROMPTS,
    PICTURES,
    PROMPTS,
    QUESTION_KEYS,
    REJECTED,
    ROLES,
    SIDES,
    SYSTEMS,
    TALKS,
    TEXT_KEYS,
    TOOLS,
)

Turn = tuple[str, Any, dict[str, Any]]
"""Who speaks, what is said, and what else a template may write of it."""
Columns = dict[str, Any]
"""The values of a row that are not null, by their names in small letters with ``_`` between the words."""


class WrongRow(AssertionError):
    """A reader accepted a row and made something else of it than is written there."""


def demand(holds: bool, what: str, *shown: Any) -> None:
    """Raise `WrongRow` unless a statement holds."""
    if not holds:
        raise WrongRow(f"{what}: {', '.join(repr(each)[:200] for each in shown)}")


def columns(row: dict[str, Any]) -> Columns:
    """The columns of a row; of two whose names differ in case or blanks, the one in small letters, or the first."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found.setdefault(_small(name), value)
    found |= {name: value for name, value in row.items() if name == _small(name)}
    return {name: value for name, value in found.items() if value is not None}


def _small(name: str) -> str:
    apart = "".join(f"_{b}" if a.islower() and a.isascii() and b.isupper() and b.isascii() else b
                    for a, b in zip(f" {name.strip()}", name.strip(), strict=False))  # fmt: skip
    return re.sub(r"[\s.-]+", "_", apart.lower())


def first(given: Columns, names: list[str]) -> str | None:
    """The first of some names that is among the columns."""
    return next((name for name in names if name in given), None)


def sides(given: Columns) -> tuple[str, str] | None:
    """The names of the better and the worse response."""
    named = next((pair for pair in SIDES if pair[0] in given and pair[1] in given), None)
    answers, worse = [name for name in ANSWERS if name in given], first(given, REJECTED)
    return named or ((answers[0], worse) if len(answers) == 1 and worse is not None else None)


# ---------------------------------------------------------------------- messages


def talk(value: Any) -> Any:
    """Messages as a list: one alone, or those that a text spells out; any other value as it is."""
    found = _spelled(value) if isinstance(value, str) and value.lstrip()[:1] in ("[", "{") else value
    if isinstance(found, dict) and _is_message(found):
        return [found]
    if isinstance(value, list) and value and all(map(_is_exchange, value)):
        return [{"role": who, "content": said[key]} for said in value for who, key in _EXCHANGE]
    return found if isinstance(value, list) or is_talk(found) else value


_EXCHANGE = (("user", "input"), ("assistant", "output"))


def _is_exchange(value: Any) -> bool:
    said = isinstance(value, dict) and all(isinstance(value.get(key), str) for _, key in _EXCHANGE)
    return said and not _is_message(value)


def is_talk(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(_is_message(each) for each in value)


def is_dialogue(value: Any) -> bool:
    """Whether a value is a conversation of more than one turn, or texts that take turns and end with the assistant."""
    in_texts = isinstance(value, list) and len(value) in range(2, 10**6, 2) and all(isinstance(t, str) for t in value)
    return in_texts or is_whole(value)


def is_whole(value: Any) -> bool:
    """Whether a value is a conversation of more than one turn."""
    return is_talk(talk(value)) and len(talk(value)) > 1


def _spelled(value: str) -> Any:
    try:
        return json.loads(value)
    except Exception:
        try:
            return ast.literal_eval(value.strip())
        except BaseException:
            return None


_WHO, _SAID = ("role", "from", "speaker", "author"), ("content", "value", "text", "parts", "message")


def _is_message(value: Any) -> bool:
    keys = set(value) if isinstance(value, dict) else set()
    said = keys & {*_SAID, "tool_calls", "function_call"}
    return bool(said and keys & set(_WHO))


def turns(value: Any) -> list[Turn]:
    """A conversation, of messages or of texts in turn."""
    found = talk(value)
    if found and not any(isinstance(item, dict) for item in found):
        return in_turn(found)
    return [_turn(item) for item in found]


def _turn(item: dict[str, Any]) -> Turn:
    who = next(item[key] for key in _WHO if key in item).strip().lower()
    said = next((item[key] for key in _SAID if key in item), None)
    calls = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else [])
    if who in ("function_call", "tool_call"):
        calls, said = said, None
    if isinstance(calls, str):
        calls = json.loads(calls)
    calls = [calls] if isinstance(calls, dict) else calls
    role, extra = ROLES[who], {}
    if calls:
        demand(role == "assistant", "a call by somebody else", item)
        extra["tool_calls"] = [_call(call) for call in calls]
    said, parts = _parted(said)
    thoughts = [item.get(key) for key in ("reasoning_content", "reasoning", "thinking")]
    thoughts = [each for each in thoughts if isinstance(each, str) and each.strip()] + [
        each for each in [parts] if each
    ]
    if role == "assistant" and thoughts:
        extra["reasoning_content"] = thoughts[0]
    if role == "tool":
        extra |= {key: item[key] for key in ("name", "tool_call_id") if isinstance(item.get(key), str)}
    demand(said is not None or who in ("function_call", "tool_call") or bool(calls), "nothing is said", item)
    return role, "" if said is None else _words(said), extra


def _parted(said: Any) -> tuple[Any, str]:
    """What is said, and what parts of it are thoughts."""
    kinds = ("thinking", "reasoning")
    parts = [part for part in said if isinstance(part, dict) and part.get("type") in kinds] if _is_list(said) else []
    texts = [part.get("thinking", part.get("reasoning", part.get("text"))) for part in parts]
    if not parts or not all(isinstance(text, str) for text in texts):
        return said, ""
    return [part for part in said if part not in parts], "\n".join(texts)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    call = without_nulls(call)
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments) if arguments.strip() else {}
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def without_nulls(value: Any) -> Any:
    """A value without the null entries of objects."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return list(map(without_nulls, value)) if isinstance(value, list) else value


def _words(content: Any) -> str:
    parts = content["parts"] if isinstance(content, dict) else content
    if isinstance(parts, str):
        return parts
    lines = []
    for part in parts:
        if isinstance(part, dict):
            pictures = [key for key in PICTURES if part.get(key) is not None]
            demand(part.get("type") not in PICTURES and not (pictures and part.get("text") is None), "lost", part)
        lines.append(part if isinstance(part, str) else part["text"] if "text" in part else part["content"])
    return "\n".join(lines)


def answer(turn: Turn) -> str:
    """The response that a turn is: its words behind its reasoning, or its calls."""
    role, said, extra = turn
    demand(role == "assistant", "the answer of another", turn)
    if "tool_calls" in extra:
        shown = [json.dumps(call["function"], ensure_ascii=False) for call in extra["tool_calls"]]
        return "\n".join([said, *shown] if said else shown)
    thought = extra.get("reasoning_content")
    return f"<think>\n{thought.strip()}\n</think>\n\n{said}" if thought and "</think>" not in said else said


def response(value: Any, asked: list[Turn]) -> str:
    """A response as text, as a message, or behind the prompt that it answers."""
    value = talk(value)
    if isinstance(value, str):
        return value
    *before, last = turns(value)
    demand(before in ([], asked), "what stands before the answer is not the prompt", value)
    return answer(last)


def only(value: Any) -> Any:
    """The text in a list of one, or of an object that is no message; any other value as it is."""
    if isinstance(value, dict) and not _is_message(value):
        return next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), str)), value)
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) else value


# ---------------------------------------------------------------------- prompts


def prompt(value: Any) -> list[Turn]:
    """A prompt as text or as messages."""
    value = talk(value)
    return [("user", value, {})] if isinstance(value, str) else turns(value)


def asked(given: Columns, transcripts: bool = False) -> list[Turn]:
    """The prompt of a row, without what `head` finds."""
    whole = talk_column(given)
    if whole is not None and ("prompt" not in given or _repeats(given, whole)):
        found = turns(given[whole])
        return found[:-1] if len(found) > 1 and found[-1][0] == "assistant" else found
    name = prompt_name(given)
    value = given[name or "prompt"]
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if isinstance(value, dict) and not _is_message(value):
        value = next(value[key] for key in [*TEXT_KEYS, *QUESTION_KEYS] if isinstance(value.get(key), str))
    if transcripts and isinstance(value, str) and _waits(value):
        found = transcript(value)
        return found[:-1] if found[-1] == ("assistant", "", {}) else found
    if isinstance(value, list) and value and not any(isinstance(each, dict) for each in value):
        return in_turn(value)
    found = prompt(value)
    beside = given.get("input", "")
    if name in ("instruction", "prompt") and beside and beside.strip() and len(found) == 1:
        found = [("user", "\n\n".join(each for each in (found[0][1], beside) if each.strip()), {})]
    past = talk(given.get("history")) if name != "history" else None
    return [*turns(past), *found] if isinstance(past, list) and past else found


def prompt_name(given: Columns) -> str | None:
    """The name of the column with the prompt; a blank one counts where no other is filled."""
    others = [name for name in PROMPTS if name != "prompt" and name in given]
    filled = [name for name in others if not _is_blank(given[name])]
    if "prompt" in given and not (_is_blank(given["prompt"]) and filled):
        return "prompt"
    demand(len(others) < 2, "two prompts", others)
    if others:
        return others[0]
    lesser, about = first(given, LESSER_PROMPTS), first(given, CONTENTS)
    texts = [name for name in (lesser, about) if name is not None and isinstance(given[name], str)]
    demand(len(texts) < 2, "two that may be the prompt", texts)
    return lesser


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _repeats(given: Columns, whole: str) -> bool:
    """Whether a text ``prompt`` is what the user last said in the messages beside it."""
    if not isinstance(given["prompt"], str):
        return False
    try:
        said = [text for role, text, _ in turns(given[whole]) if role == "user"]
    except Exception:
        return False
    return bool(said) and all(isinstance(text, str) for text in said) and said[-1].strip() == given["prompt"].strip()


def in_turn(texts: list[Any]) -> list[Turn]:
    """Texts, or pairs of them, that the user and the assistant say in turn."""
    said = [each for pair in texts for each in pair] if all(isinstance(each, list) for each in texts) else texts
    return [("assistant" if place % 2 else "user", each, {}) for place, each in enumerate(said)]


def talk_column(given: Columns) -> str | None:
    """The column with a conversation."""
    return first({name: value for name, value in given.items() if isinstance(talk(value), list)}, TALKS)


def head(given: Columns, after: list[Turn]) -> list[Turn]:
    """The tools and the system turn that a row lists beside its prompt."""
    tools = given[name] if (name := first(given, TOOLS)) else []
    if isinstance(tools, str):
        tools = json.loads(tools) if tools.strip() else []
    tools = [tools] if isinstance(tools, dict) and tools else tools
    tools = [json.loads(tool) if isinstance(tool, str) else tool for tool in tools]
    found: list[Turn] = [("tools", without_nulls(tools), {})] if tools else []
    said = given[name] if (name := first(given, SYSTEMS)) else ""
    if all(role != "system" for role, *_ in after) and said.strip():
        found.append(("system", said, {}))
    return found


# ---------------------------------------------------------------------- transcripts


def _waits(text: str) -> bool:
    return text.lstrip().startswith(("Human:", "Assistant:")) and text.rstrip().endswith("\n\nAssistant:")


def transcript(text: str) -> list[Turn]:
    """Turns of an HH transcript: a scan for the marks, where the reader splits by an expression."""
    found: list[Turn] = []
    rest = "\n\n" + text.lstrip()
    while rest:
        role = "user" if rest.startswith("\n\nHuman:") else "assistant"
        rest = rest[rest.index(":") + 1 :]
        ends = [place for mark in ("\n\nHuman:", "\n\nAssistant:") if (place := rest.find(mark)) >= 0]
        end = min(ends, default=len(rest))
        said, rest = rest[:end].strip(), rest[end:]
        if found and found[-1][0] == role:
            said = "\n\n".join(part for part in (found.pop()[1], said) if part)
        found.append((role, said, {}))
    return found
