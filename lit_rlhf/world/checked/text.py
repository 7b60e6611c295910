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
_ABBREVIATION = re.compile(
    r"\b(?:(?:Mr|Mrs|Ms|Dr|Prof|St|e\.g|i\.e|[A-Z])\.(?=\s)|(?:vs|etc|approx|a\.m|p\.m)\.(?=\s+[^A-Z\s])|No\.(?=\s+\d))"
)
_MARK_ALONE = re.compile(r"[-–—*•]|\(?\d{1,3} ?[.):\-]?")
_END = re.compile(r"""[.!?…]+["'”’»)\]*_]*(?=\s|$)|[。！？]+|\n+""")
_CLOSERS = "\"'”’»)]}*_`"
_FINAL = ".!?…。！？"

_FREQUENT = {
    "English": (
        "the a an and or but of in on at to for with from by is are was were be been it its this that these those i "
        "you we they he she his her their our my your not no can will would have has had do does as if so which who "
        "what there when where how all some more most than about into also"
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
    "Portuguese": (
        "o a os as um uma uns umas de do da dos das e ou em no na nos nas é são era foi que se seu sua por para com "
        "sem não como mais muito mas lhe me eu ele ela eles também quando onde sobre tudo ao à está isso"
    ),
    "Italian": (
        "il lo la i gli le un una uno di del della dei delle dello da dal e o in nel nella è sono era che si suo sua "
        "per con senza non come più molto ma su al alla ai questo questa ci anche quando dove tra tutto io noi"
    ),
}

LANGUAGES: dict[str, frozenset[str]] = {name: frozenset(listed.split()) for name, listed in _FREQUENT.items()}
"""Frequent short words of each language that can be told apart."""

_SPEAKS_FOR = {
    word: 1 / sum(word in other for other in LANGUAGES.values()) for known in LANGUAGES.values() for word in known
}


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
    if not lines or _MARK_ALONE.fullmatch(lines[-1].strip()):  # a new item that says nothing
        return False
    if _MARKED.fullmatch(lines[-1]) and len(items(stripped)) > 1:
        return True
    return stripped.rstrip(_CLOSERS).endswith(tuple(_FINAL))


def language(text: str) -> str | None:
    """The language that a text's frequent words speak for; None where there are too few, or it is a draw.

    One such word is enough for up to six words; a longer text takes two, and an eighth of its words.

    A word that is frequent in several languages counts for each of them, and by so much less.

    Examples:
        >>> language("La miel es muy dulce."), language("Honey is sweet and it is old."), language("Brot!")
        ('Spanish', 'English', None)
    """
    said = [part for word in words(text) for part in re.split("['’]", word)]
    weights = {name: [_SPEAKS_FOR[word] for word in said if word in known] for name, known in LANGUAGES.items()}
    best, second = sorted(weights, key=lambda name: -sum(weights[name]))[:2]
    enough = len(weights[best]) >= (1 if len(said) <= 6 else max(2, len(said) / 8))
    return best if enough and sum(weights[best]) > sum(weights[second]) + 1e-6 else None


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
