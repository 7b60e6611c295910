"""Tokens that only a chat template may write, and how text that looks like them is spelled out: `Marks`."""

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from lit_rlhf.data.records import Message

Prompt = tuple[Message, ...]

_SAID_BY_ANSWERS = ("<think>", "</think>")  # a model's own words: a template may write them, and so may its answers
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


class Marks:
    """The tokens that begin and end turns: special ones, and those of the vocabulary that the template writes.

    Args:
        tokenizer: A transformers tokenizer.
        written: Conversations as the template writes them, in which nobody says such a token's text.
    """

    def __init__(self, tokenizer: Any, written: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        used = {token for text in written for token in tokenizer(text, add_special_tokens=False)["input_ids"]}
        texts = {token: text for text, token in tokenizer.get_added_vocab().items() if token in used}
        texts |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id):
            texts.pop(tokenizer.unk_token_id, None)
        texts = {token: text for token, text in texts.items() if text not in _SAID_BY_ANSWERS}
        self.texts: dict[int, str] = texts
        longest_first = sorted(filter(None, texts.values()), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def are_in(self, prompt: Prompt) -> bool:
        """Whether a message contains the text of such a token."""
        return any(self.pattern.search(f"{message.content}\n{message.extra}") for message in prompt)

    def spelled_out(self, ids: list[int]) -> list[int]:
        """Ids of a text that nobody but its author wrote, with what is left of such tokens spelled out."""
        if self.texts.keys().isdisjoint(ids):
            return ids
        return [each for token in ids for each in self._spellings.get(token, [token])]

    def prompt_ids(self, prompt: Prompt, render: Callable[[Prompt], str]) -> list[int]:
        """Token ids of a conversation in which messages contain the text of such tokens.

        Other characters stand for that text while the template writes the conversation, so that what a message says
        is told from what the template does.

        Args:
            prompt: The conversation.
            render: Writes it by the template.
        """
        taken = {char for message in prompt for char in message.content + message.extra}
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in taken)
        said = {text: None for turn in prompt for text in self.pattern.findall(f"{turn.content}\n{turn.extra}")}
        stand_in = dict(zip(said, free, strict=False))

        def hidden(text: str) -> str:
            return self.pattern.sub(lambda found: stand_in[found[0]], text)

        rendered = render(tuple(Message(turn.role, hidden(turn.content), hidden(turn.extra)) for turn in prompt))
        stands_for = {char: text for text, char in stand_in.items()}
        return self._encoded(re.split(f"([{''.join(stands_for)}])", rendered), stands_for)

    def _encoded(self, pieces: list[str], stands_for: dict[str, str]) -> list[int]:
        if not self.tokenizer.is_fast:  # it tells no places; a blank breaks the text
            broken = {char: f"{text[0]} {text[1:]}" for char, text in stands_for.items()}
            text = "".join(broken.get(piece, piece) for piece in pieces)
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        texts = [stands_for.get(piece, piece) for piece in pieces]
        flags = (b"\1" if piece in stands_for else b"\0" for piece in pieces)
        is_said = b"".join(flag * len(text) for flag, text in zip(flags, texts, strict=True))  # per character
        encoded = self.tokenizer("".join(texts), add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = []
        for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            ids += self._spellings.get(token, [token]) if any(is_said[start:stop]) else [token]
        return ids

    @cached_property
    def _spellings(self) -> dict[int, list[int]]:
        return {token: self._spelled(text) for token, text in self.texts.items()}

    def _spelled(self, text: str) -> list[int]:
        def parts(*texts: str) -> list[int]:
            encoded = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return [token for row in encoded for token in row]

        whole = parts(text)
        if self.texts.keys().isdisjoint(whole):
            return whole
        # A word of the vocabulary, or a token that is not declared special: its first letter and the rest are not.
        return [token for token in parts(text[:1], text[1:]) if token not in self.texts]
