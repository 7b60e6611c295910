"""What a request can ask for so that a program can tell whether an answer does it."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from lit_rlhf.data.errors import DataError
from lit_rlhf.world.checked.text import items, language, sentences, words

Constraint = dict[str, Any]
"""``kind`` and the kind's parameters: plain values, so that it is the same behind JSON."""


class Kind(NamedTuple):
    """A kind of constraint.

    Attributes:
        group: Of two constraints in one request no two are of the same group.
        check: Whether a text meets a constraint of this kind.
        draw: The parameters of a new one, for a topic.
        types: Name and type of each parameter.
    """

    group: str
    check: Callable[[str, Mapping[str, Any]], bool]
    draw: Callable[[Random, str], Constraint]
    types: Mapping[str, type] = MappingProxyType({})


NUMBERS = ("no", "one", "two", "three", "four")
"""Small numbers as requests write them."""

_LANGUAGES = ("Spanish", "French", "German", "Italian")
_INCLUDED = (
    "because",
    "people",
    "world",
    "time",
    "often",
    "small",
    "water",
    "color",
    "make",
    "different",
    "good",
    "new",
)
_EXCLUDED = ("and", "the", "is", "of", "in", "to", "with", "are")
_FIRST = ("Imagine", "Perhaps", "Well", "People", "Yes", "Today", "Sometimes", "Did", "In", "There", "When", "Most")
_MARKS = "\"'“”‘’«»*_`#( "


def _no_parameters(rng: Random, topic: str) -> Constraint:
    return {}


def _one_of(name: str, values: tuple[Any, ...]) -> Callable[[Random, str], Constraint]:
    return lambda rng, topic: {name: rng.choice(values)}


def _excluded(rng: Random, topic: str) -> Constraint:
    own = words(topic)[-1]
    return {"word": rng.choice((*_EXCLUDED, own, own))}


def _is_list(text: str, count: int, numbered: bool) -> bool:
    numbers = [item.number for item in items(text)]
    return numbers == (list(range(1, count + 1)) if numbered else [None] * count)


def _begins(text: str, word: str) -> bool:
    return words(text.lstrip(_MARKS))[:1] == [word.lower()]


def _ends_with(text: str, mark: str) -> bool:
    return text.rstrip(_MARKS + ")\n").endswith(mark)


def _asks(text: str) -> bool:
    """Whether a text ends in a question, its only one; others may lead up to it."""
    return _ends_with(text, "?") and text.count("?") == 1 and bool(words(text))


def _is_object(text: str, key: str) -> bool:
    said = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    with suppress(ValueError, RecursionError):
        found = json.loads(said)
        return isinstance(found, dict) and list(found) == [key] and isinstance(found[key], str) and bool(found[key])
    return False


def _is_title(text: str) -> bool:
    """One line in quotes and nothing else, without the mark of a sentence behind its last word."""
    said = text.strip()
    quoted = len(said) > 2 and (said[0], said[-1]) in (('"', '"'), ("“", "”"), ("«", "»"))
    return quoted and "\n" not in said and not set(said[1:-1]) & set('"“”') and 2 <= len(words(said)) <= 12


def _repeats_no_word(text: str) -> bool:
    said = words(text)
    return len(set(said)) == len(said)


KINDS: dict[str, Kind] = {
    "max_words": Kind(
        "length", lambda text, at: len(words(text)) <= at["count"], _one_of("count", (8, 10, 12, 15)), {"count": int}
    ),
    "about_words": Kind(
        "length",
        lambda text, at: abs(len(words(text)) - at["count"]) <= 0.25 * at["count"],
        _one_of("count", (8, 10, 12, 15, 20)),
        {"count": int},
    ),
    "sentences": Kind(
        "length", lambda text, at: len(sentences(text)) == at["count"], _one_of("count", (1, 1, 2, 3)), {"count": int}
    ),
    "dashes": Kind(
        "format", lambda text, at: _is_list(text, at["count"], False), _one_of("count", (2, 3)), {"count": int}
    ),
    "numbers": Kind(
        "format", lambda text, at: _is_list(text, at["count"], True), _one_of("count", (2, 3)), {"count": int}
    ),
    "include": Kind("word", lambda text, at: at["word"] in words(text), _one_of("word", _INCLUDED), {"word": str}),
    "exclude": Kind("word", lambda text, at: at["word"] not in words(text), _excluded, {"word": str}),
    "begin": Kind("edge", lambda text, at: _begins(text, at["word"]), _one_of("word", _FIRST), {"word": str}),
    "question": Kind("act", lambda text, at: _asks(text), _no_parameters),
    "end_question": Kind("edge", lambda text, at: _ends_with(text, "?"), _no_parameters),
    "language": Kind(
        "language",
        lambda text, at: language(text) == at["language"],
        _one_of("language", _LANGUAGES),
        {"language": str},
    ),
    "lower": Kind("case", lambda text, at: text == text.lower() and text != text.upper(), _no_parameters),
    "json": Kind(
        "format", lambda text, at: _is_object(text, at["key"]), _one_of("key", ("answer", "text", "fact")), {"key": str}
    ),
    "min_words": Kind(
        "length", lambda text, at: len(words(text)) >= at["count"], _one_of("count", (10, 12, 15)), {"count": int}
    ),
    "upper": Kind("case", lambda text, at: text == text.upper() and text != text.lower(), _no_parameters),
    "title": Kind("format", lambda text, at: _is_title(text), _no_parameters),
    "end_exclamation": Kind("edge", lambda text, at: _ends_with(text, "!"), _no_parameters),
    "distinct": Kind("word", lambda text, at: _repeats_no_word(text), _no_parameters),
}
"""Every kind that can be checked, by name."""


def is_met(constraint: Constraint, text: str) -> bool:
    """Whether a text does what a constraint asks for.

    Args:
        constraint: As a record's ``meta["constraints"]`` lists them.
        text: Any text.

    Raises:
        DataError: If it is no constraint.

    Examples:
        >>> is_met({"kind": "max_words", "count": 3}, "Bees make honey.")
        True
    """
    kind = KINDS.get(str(constraint.get("kind")))
    if kind is None:
        hint = f"Known are: {', '.join(KINDS)}."
        raise DataError(f"no kind is called {constraint.get('kind')!r}", "checked world, constraint", hint)
    wrong = [name for name, of in kind.types.items() if type(constraint.get(name)) is not of]
    if wrong:
        message = f"{constraint} has no {wrong[0]!r} that is {kind.types[wrong[0]].__name__}"
        raise DataError(message, "checked world, constraint", "Take the record's meta as the source gave it.")
    return kind.check(text, constraint)


def can_stand_together(one: Constraint, other: Constraint) -> bool:
    """Whether a request may ask for two things at once: they do not contradict each other, or ask for English words."""
    kinds = {str(one["kind"]), str(other["kind"])}
    groups = {KINDS[kind].group for kind in kinds}
    same_word = str(one.get("word")).lower() == str(other.get("word")).lower() and "word" in one
    return len(groups) == 2 and not same_word and groups not in _GROUPS_APART and kinds not in _KINDS_APART


_GROUPS_APART = (
    {"language", "word"}, {"language", "edge"}, {"language", "case"}, {"act", "edge"}, {"act", "format"},
    {"format", "edge"}, {"format", "length"}, {"format", "case"},
)  # fmt: skip
_KINDS_APART = (
    {"question", "sentences"},
    {"begin", "lower"},
    {"begin", "upper"},
    {"json", "language"},
    {"json", "distinct"},
)
