"""Prompts that are too long, cut so that the template's frame and the system turn stay."""

import re
from collections.abc import Sequence
from typing import Any

from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.tool_turns import head

Prompt = tuple[Message, ...]


def cut_prompt(prompt: Prompt, renderer: Renderer, room: int, responses: Sequence[str] = ()) -> list[int] | None:
    """Token ids of a conversation without its beginning: the latest turns that fit, or the end of the last one.

    The system turn, the list of tools, what the template writes and the last message's end are kept.

    Args:
        prompt: The conversation; its last message is the user's.
        renderer: From text to ids.
        room: Most tokens.
        responses: What will answer it; reasoning in them decides where the prompt ends.

    Returns:
        The ids, or None if even the frame with an empty message is too long.
    """
    kept = head(prompt)
    turns = prompt[len(kept) :]
    for place, message in enumerate(turns[1:], 1):
        if message.role == "user":
            ids = renderer.encoded((*kept, *turns[place:]), responses)[0]
            if len(ids) <= room:
                return ids
    if turns[-1].role != "user":  # a tool's result: what it answers cannot be left out
        return None
    return _cut_message((*kept, turns[-1]), renderer, room, responses)


def _cut_message(prompt: Prompt, renderer: Renderer, room: int, responses: Sequence[str]) -> list[int] | None:
    """Ids of a prompt whose last message has lost just so many tokens at its beginning that it fits."""
    content, first = prompt[-1].content, 0
    starts = token_starts(content, renderer.tokenizer)
    ids = renderer.encoded(prompt, responses)[0]
    while len(ids) > room and first < len(starts):
        first += len(ids) - room
        rest = content[starts[first] :] if first < len(starts) else ""
        ids = renderer.encoded((*prompt[:-1], Message("user", rest)), responses)[0]
    return ids if len(ids) <= room and first < len(starts) else None


def token_starts(text: str, tokenizer: Any) -> list[int]:
    """Where each token of a text that no template surrounds begins, counted in characters."""
    if tokenizer.is_fast:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [start for start, _ in offsets]
    return [match.start() for match in re.finditer(r"\S+", text)]  # it tells no places: words
