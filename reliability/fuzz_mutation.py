"""Mutations of fuzzed input: of its bytes, and of the values in it where it is JSON."""

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

TOKENS = [
    b"\n\nHuman:", b"\n\nAssistant:", b"Human:", b"Assistant: a", b"\n", b"\r\n", b" ", b"\0", b"\x1b[2J", b"\xff",
    b"\xc3", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\ud800", b"\\u0000", b"null", b"NaN",
    b"-Infinity", b"1e999", b"<|im_end|>", b"<|im_start|>user\n", b"<|endoftext|>", b"<eos>", b"<assistant>", b"<user>",
    b"</s>", b"[INST]", b"../", "é\u2028北🙂".encode(), b"\r", b'""', b";", b"\t", b"{{", b"**",
]  # fmt: skip
_Q, _A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 1.5, 1e308, 10**30, 10**400, math.nan, math.inf, "", " ", "a", "b", "A>B", "tie",
    "b c d e f g h i j", "\ud800", "\x1b[2J", "{{}}", "[", "1", "nan", "1e999", "user", "system", "x" * 300,
    "Human: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant:",
    [], {}, [[]], [{}], [None], ["a"], ["a", "b"], [["q", "a"]], [0.5], [1, 2], [1, None], [True, False],
    [_Q], _A, [_Q, _A], [_A], json.dumps([_Q]), str([_Q, _A]), json.dumps(_A), {"from": "gpt", "value": "a"}, '["a"]',
    [{"text": "a", "score": 1}, {"text": "b", "rank": 1}], [{"type": "text", "text": "a"}], {"parts": ["a"]},
    {"full_text": "q"}, [{"type": "image_url", "image_url": {"url": "x"}}], [{"function": {"name": "f"}}],
    [{"name": ["f"]}],
    [_Q, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}],
    [_Q, {"from": "function_call", "value": '{"name": "f", "arguments": "{}"}'}],
]  # fmt: skip
_NAMES = """
prompt chosen rejected response completion messages conversations role content from value tie info post article
summaries text choice score_chosen score_rejected response_0 response_1 better_response_id pair_hash differences id
Prompt question instruction input history system tools answer output responses answers scores rank label labels tie
margin is_good is_tie response_a response_b winner model_a model_b score_a score_b response_2 conversation_a good bad
rejected_response chosen_rating rejected-rating tool_calls function_call reasoning_content name arguments parts type
data rows columns
"""
_STRENGTH_NAMES = ["chosen score list", "rejected score list", "mean preference difference", "GPT4 label"]
NAMES = [*_NAMES.split(), *_STRENGTH_NAMES]
Place = tuple[Any, Any]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A changed copy: one to four changes, of values where it is JSON (or of one line of it), or else of bytes."""
    if rng.random() < 0.6:
        changed = _mutate_json(data, rng)
        if changed is not None:
            return changed
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTES)(data, rng)
    return data


def _mutate_json(data: bytes, rng: random.Random) -> bytes | None:
    lines = data.split(b"\n")
    whole = len(lines) < 2 or not lines[0].startswith(b"{")
    number = 0 if whole else rng.randrange(len(lines))
    try:
        value = json.loads(data if whole else lines[number])
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _change(value, rng)
    try:
        changed = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return None
    return changed if whole else b"\n".join([*lines[:number], changed, *lines[number + 1 :]])


def _change(value: Any, rng: random.Random) -> Any:
    places = list(_places(value))
    if not places or rng.random() < 0.03:
        return copy.deepcopy(rng.choice(VALUES))
    holder, key = rng.choice(places)
    rng.choice(_VALUES)(holder, key, rng)
    return value


def _places(value: Any) -> list[Place]:
    found: list[Place] = []
    queue = [value]
    while queue and len(found) < 200:
        holder = queue.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            queue.append(holder[key])
    return found


def _replace(holder: Any, key: Any, rng: random.Random) -> None:
    holder[key] = copy.deepcopy(rng.choice(VALUES))


def _drop(holder: Any, key: Any, rng: random.Random) -> None:
    del holder[key]


def _double(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[rng.choice(NAMES)] = copy.deepcopy(holder[key])


def _write(holder: Any, key: Any, rng: random.Random) -> None:
    """Put a token into a text, or a number beside a number."""
    old = holder[key]
    if isinstance(old, str):
        place = rng.randint(0, len(old))
        holder[key] = old[:place] + rng.choice(TOKENS).decode("utf-8", "replace") + old[place:]
    elif isinstance(old, int | float):
        holder[key] = old + rng.choice((-1, 1, 0.5 if abs(old) < 2**53 else 2))
    else:
        holder[key] = [old] if rng.random() < 0.5 else {rng.choice(NAMES): old}


def _exchange(holder: Any, key: Any, rng: random.Random) -> None:
    other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


_VALUES: list[Callable[[Any, Any, random.Random], None]] = [_replace, _drop, _double, _write, _write, _exchange]


def _cut(data: bytes, rng: random.Random) -> bytes:
    begin, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:begin] + data[end:] if rng.random() < 0.5 else data[:begin] + data[begin + rng.randint(1, 4) :]


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\0"
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(data))
    new = rng.choice(TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.randint(1, 8))
    return data[:place] + new + data[place:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randint(0, len(data))
    end = min(len(data), begin + rng.randint(1, 64))
    return data[:end] + data[begin:end] * rng.choice((1, 2, 20)) + data[end:]


_BYTES: list[Callable[[bytes, random.Random], bytes]] = [_cut, _flip, _flip, _insert, _insert, _repeat]
