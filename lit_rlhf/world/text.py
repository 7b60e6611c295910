"""Small tools on text: sentences, templates with slots, and hashes that are the same on every machine."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist

SLOT = re.compile(r"\{(\w+)\}")
_CHUNK = re.compile(r"[^.!?]*[.!?]+|[^.!?]+$")
_TOKEN = re.compile(r"[A-Za-z]+|[^A-Za-z\s]")
_NORMAL = NormalDist()

Slots = Mapping[str, Sequence[str]]


def stable_unit(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the given parts."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@lru_cache(maxsize=4096)
def stable_normal(*parts: object) -> float:
    """A standard normal number that depends on nothing but the given parts."""
    return _NORMAL.inv_cdf(min(max(stable_unit(*parts), 1e-9), 1 - 1e-9))


def split_words(text: str) -> tuple[str, ...]:
    """Words and punctuation marks of a text, without spaces."""
    return tuple(_TOKEN.findall(text))


def split_sentences(text: str) -> list[str]:
    """Cut a text after each full stop, question or exclamation mark; leading spaces stay with their sentence."""
    return _CHUNK.findall(text.strip())


def capitalize(phrase: str) -> str:
    """The phrase with a capital first letter; the rest stays as it is."""
    return phrase[:1].upper() + phrase[1:]


def template_pattern(template: str, slots: Mapping[str, str]) -> re.Pattern[str]:
    """Regular expression that matches a filled template and names its slots.

    Args:
        template: Text with ``{slot}`` gaps; a slot that occurs twice must be filled alike.
        slots: The regular expression of each slot.
    """
    seen: set[str] = set()
    pieces: list[str] = []
    for index, piece in enumerate(SLOT.split(template)):
        if index % 2 == 0:
            pieces.append(re.escape(piece))
        elif piece in seen:
            pieces.append(f"(?P={piece})")
        else:
            seen.add(piece)
            pieces.append(f"(?P<{piece}>{slots[piece]})")
    return re.compile("".join(pieces))


def alternatives(phrases: Iterable[str]) -> str:
    """Regular expression for one of the phrases, the longest first."""
    return "|".join(re.escape(phrase) for phrase in sorted(phrases, key=lambda phrase: (-len(phrase), phrase)))


def template_trigrams(template: str, slots: Slots) -> set[tuple[str, str, str]]:
    """Every triple of neighbouring words that some filling of the template contains, with empty edge words."""
    trigrams: set[tuple[str, str, str]] = set()
    contexts = {("", "")}
    for index, piece in enumerate(SLOT.split(template)):
        phrases = (piece,) if index % 2 == 0 else slots[piece]
        following: set[tuple[str, str]] = set()
        for words in map(split_words, phrases):
            for before, last in contexts:
                for word in words:
                    trigrams.add((before, last, word))
                    before, last = last, word
                following.add((before, last))
        contexts = following
    return trigrams | {(before, last, "") for before, last in contexts}
