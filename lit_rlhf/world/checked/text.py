"""What can be read off any text by rule: words, sentences, list items, script, language."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from lit_rlhf.functional import ngram_repetition

_WORD = re.compile(r"[^\W_]+(?:['’\-‑][^\W_]+)*")
_MARKED = re.compile(
    r"^[ \t]*(?:(?P<dash>[-–—*•])|\(?(?P<number>\d{1,3}) ?[.):\-])[ \t]+(?P<said>.*\S.*)$", re.MULTILINE
)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|approx|No|[A-Z])\.(?=\s)")
_END = re.compile(r"""[.!?…]+["'”’»)\]*_]*(?=\s|$)|[。！？]+|\n+""")
_CLOSERS = "\"'”’»)]}*_`"
_FINAL = ".!?…。！？"

_FREQUENT = {
    "English": (
        "the a an and or but of in on at to for with from by is are was were be been it its this that these those i "
        "you we they he she his her their our my your not can will would have has had do does as if so which who what "
        "there when where how all some more most than about into also"
    ),
    "Spanish": (
        "el la los las un una unos unas de del al y o en es son era fue que se su sus por para con sin no como más muy "
        "pero lo le me te mi tu este esta esto ese esa hay está están ser puede también cuando donde entre sobre todo "
        "yo ella ellos nos muchos"
    ),
    "French": (
        "le la les l un une des de du d et ou en est sont était que qui se sa son ses pour par avec sans ne pas comme "
        "plus très mais dans sur au aux ce cette ces il elle ils elles je tu nous vous on mon ma leur leurs peut être "
        "a ont c y tout tous quand où j n qu s"
    ),
    "German": (
        "der die das den dem des ein eine einen einem einer eines und oder aber in im ist sind war waren zu zum zur "
        "von vom mit für auf an am aus bei nach nicht auch als wie es er sie ich du wir ihr man sich so sehr viel "
        "viele haben hat wird werden kann können dass wenn über um nur noch mehr"
    ),
    "Italian": (
        "il lo la i gli le un una uno di del della dei delle dello da dal e o in nel nella è sono era che si suo sua "
        "per con senza non come più molto ma su al alla ai questo questa ci anche quando dove tra tutto io noi"
    ),
}

LANGUAGES: dict[str, frozenset[str]] = {name: frozenset(listed.split()) for name, listed in _FREQUENT.items()}
"""Frequent short words of each language that can be told apart."""


class Item(NamedTuple):
    """An item of a list.

    Attributes:
        number: Its number; None for one that begins with a dash.
        said: Its text.
    """

    number: int | None
    said: str


def words(text: str) -> list[str]:
    """Words and numbers of a text in lower case; apostrophes and hyphens do not part them, marks of lists do not count.

    Examples:
        >>> words("1. It's a well-known fact!")
        ["it's", 'a', 'well-known', 'fact']
    """
    return _WORD.findall(_MARKED.sub(lambda found: found["said"], text).lower())


@lru_cache(maxsize=4096)
def plain(word: str) -> str:
    """A word without accents and in lower case."""
    return "".join(c for c in unicodedata.normalize("NFD", word.lower()) if not unicodedata.combining(c))


def sentences(text: str) -> list[str]:
    """The sentences of a text; one that does not end is one, too, and so is a line that ends without a mark.

    Examples:
        >>> sentences("Dr. Ito pays $3.50. Why? So it")
        ['Dr. Ito pays $3.50.', 'Why?', 'So it']
    """
    protected = _ABBREVIATION.sub(lambda found: found[0].replace(".", "\0"), _MARKED.sub(lambda m: m["said"], text))
    cut = _END.sub(lambda found: found[0] + "\1", protected)
    return [piece.replace("\0", ".").strip() for piece in cut.split("\1") if _WORD.search(piece)]


def items(text: str) -> list[Item]:
    """The items of lists in a text, line by line: with dashes (or stars, or dots), or with numbers.

    Examples:
        >>> items("Two facts:\\n- It is old.\\n- It is round.")
        [Item(number=None, said='It is old.'), Item(number=None, said='It is round.')]
    """
    found = _MARKED.finditer(text)
    return [Item(int(each["number"]) if each["number"] else None, each["said"].strip()) for each in found]


def ends(text: str) -> bool:
    """Whether a text comes to an end: with the mark of a sentence, whatever closes behind it, or in a list's item.

    An item needs no mark. Whether it was cut off at a limit of length cannot be seen here.
    """
    stripped = text.rstrip()
    lines = stripped.splitlines()
    if lines and _MARKED.fullmatch(lines[-1]) and len(items(stripped)) > 1:
        return True
    return stripped.rstrip(_CLOSERS).endswith(tuple(_FINAL))


def language(text: str) -> str | None:
    """The language whose frequent words a text has most of; None where two or more of them do not decide it.

    Examples:
        >>> language("La miel es muy dulce."), language("Honey is sweet and it is old."), language("Brot!")
        ('Spanish', 'English', None)
    """
    said = [part for word in words(text) for part in re.split("['’]", word)]
    counts = {name: sum(word in known for word in said) for name, known in LANGUAGES.items()}
    best = max(counts, key=lambda name: counts[name])
    rivals = [count for name, count in counts.items() if name != best]
    enough = counts[best] >= 2 and counts[best] >= len(said) / 8
    return best if enough and counts[best] > max(rivals) else None


def foreign_share(text: str) -> float:
    """Share of a text's letters that are not of the Latin script; characters that were torn apart count, too."""
    letters = [c for c in text if c.isalpha() or c == "\ufffd"]
    return sum(not _is_latin(c) for c in letters) / len(letters) if letters else 0.0


@lru_cache(maxsize=4096)
def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(("LATIN", "FEMININE ORDINAL", "MASCULINE ORDINAL", "MODIFIER"))


def repetition(said: Sequence[str]) -> float:
    """Share of pairs of neighbouring words that have come before, from 0 to below 1.

    Examples:
        >>> repetition("so it is and so it is and so it is".split())
        0.6
    """
    numbers: dict[str, int] = {}
    ids = torch.tensor([[numbers.setdefault(word, len(numbers)) for word in said]], dtype=torch.long)
    return round(ngram_repetition(ids, torch.ones_like(ids, dtype=torch.bool), n=2).item(), 6)
