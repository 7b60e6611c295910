"""Numbered responses in plain words: which columns they are, how they are scored, and which of two is better."""

import json
import re
from contextlib import suppress
from typing import Any

from reliability.fuzz_plain import Columns, first, is_whole, only, prompt_name, response, talk, turns
from reliability.fuzz_words import DENIALS, NOUNS, STEMS, TIES, VERDICTS

_NO_NUMBER = ("", "n/a", "na", "none", "null", "nan")
_FORMS = ["KIND_TAG", "KINDTAG", "STEM_TAG_KIND", "STEMTAG_KIND"]


def as_number(value: Any) -> float | None:
    """A number, or a text that says one; None where it says that there is none."""
    if isinstance(value, str) and value.strip().lower() in _NO_NUMBER:
        return None
    return None if value is None or float(value) != float(value) else float(value)


def numbered(given: Columns) -> list[str]:
    """The names of columns such as ``response_a`` and ``response_b``, in order; none unless there are two."""
    groups: dict[tuple[str, bool], dict[str, str]] = {}
    for name in given:
        for stem in STEMS:
            rest = name.removeprefix(stem).removeprefix("_")
            if name in (f"{stem}_{rest}", stem + rest) and len(rest) == 1 and rest in "0123456789abcdefgh":
                groups.setdefault((stem, rest.isdigit()), {})[rest] = name
    for found in groups.values():
        tags = "".join(sorted(found))
        if len(tags) > 1 and any(order.startswith(tags) for order in ("0123456789", "123456789", "abcdefgh")):
            return [found[tag] for tag in tags]
    return []


def with_turns(given: Columns) -> Columns:
    """The columns with conversations as responses, where texts spell these and the prompt as lists of turns."""
    name = prompt_name(given)
    spelled = [_list_of_texts(given[each]) for each in [*([] if name is None else [name]), *numbered(given)]]
    asked, *answers = spelled
    if name is None or any(not each or len(each) != len(asked) for each in spelled):
        return given
    talks = [[turn for pair in zip(asked, each, strict=True) for turn in pair] for each in answers]
    return given | {
        column: [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(talk)]
        for column, talk in zip(numbered(given), talks, strict=True)
    }


def _list_of_texts(value: Any) -> list[str]:
    try:
        found = json.loads(value) if isinstance(value, str) and value.startswith("[") else None
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []


def _stem_and_tags(given: Columns) -> tuple[str, str]:
    names = numbered(given)
    return names[0][:-1].removesuffix("_"), "".join(name[-1] for name in names)


def _beside(given: Columns, forms: list[str]) -> list[str] | None:
    """The columns of the first form that stands beside each of the numbered responses."""
    stem, tags = _stem_and_tags(given)
    for form in forms:
        names = [form.replace("STEM", stem).replace("TAG", tag) for tag in tags]
        if all(name in given for name in names):
            return names
    return None


def numbered_scores(given: Columns) -> list[float] | None:
    """A number for each numbered response, more of which is better: a score, or minus a rank."""
    for kinds, sign in (("score rating reward grade", 1), ("rank", -1)):
        forms = [form.replace("KIND", kind) for kind in kinds.split() for form in _FORMS]
        if names := _beside(given, forms):
            return [sign * float(as_number(given[name])) for name in names]  # type: ignore[arg-type]
    return None


def named_best(given: Columns) -> list[float] | None:
    """1 for the one of several that a verdict names by its tag, 0 for the others."""
    _, tags = _stem_and_tags(given)
    column = first(given, [name for name in VERDICTS if name not in numbered(given)])
    if column is None:
        return None
    value = given[column]
    said = str(value).strip().lower()
    with suppress(ValueError):
        said = repr(float(said))
    *nouns, last = re.split(r"[\s_-]+", said.strip("[]() ").removesuffix(".0"))
    last = last[-1] if re.fullmatch(r"[a-z]+[0-9]", last) else last
    return [float(tag == last) for tag in tags] if last and last in tags and set(nouns) <= set(NOUNS) else None


def steps(given: Columns) -> float:
    """By how many steps the first of two responses is better; below zero, the second is; 0.5 where nobody counted."""
    names = numbered(given)
    hot = _beside(given, ["winner_model_TAG", "winner_TAG", "wins_TAG", "is_better_TAG", "winner_STEM_TAG"])
    if hot:
        return _half(_flag(given[hot[0]]) - _flag(given[hot[1]]))
    column = first(given, [name for name in VERDICTS if name not in names])
    if column is None:
        scores = numbered_scores(given)
        assert scores is not None, "nothing says which is better"
        return _half(scores[0] - scores[1])
    value = given[column]
    return _said(value, given) if isinstance(value, str) else _counted(value, column, given)


def _flag(value: Any) -> float:
    said = str(value).strip().lower()
    return float(said == "true") if said in ("true", "false") else as_number(value) or 0.0


def _half(difference: float) -> float:
    return 0.5 if difference > 0 else -0.5 if difference < 0 else 0.0


def _said(value: str, given: Columns) -> float:
    """What a word says: the better one's text or model, a tie, ``A>>B``, or its tag behind a noun."""
    _, tags = _stem_and_tags(given)
    for known in (_texts(given), _models(given)):
        if known.count(value.strip()) == 1:
            return 0.5 if known[0] == value.strip() else -0.5
    said = value.strip().lower().strip("[]() ")
    if said in TIES or re.match(r"tied?\b", said):
        return 0.0
    for sign, order in ((1, tags), (-1, tags[::-1])):
        if found := re.fullmatch(rf"{order[0]}\s*(>+|<+|=+)\s*{order[1]}", said):
            many = len(found[1]) if len(found[1]) > 1 else 0.5
            return sign * many * {">": 1, "<": -1, "=": 0}[found[1][0]]
    if (told := _sentence(said, tags)) is not None:
        return told
    *nouns, last = re.split(r"[\s_-]+", said)
    sentence = (len(nouns) > 1 and not set(nouns) <= set(NOUNS)) or set(nouns) & set(DENIALS)
    if not sentence:
        ends = [last, last[-1:] if re.fullmatch(r"[a-z]*[0-9]", last) else last]
        for place, words in enumerate(((tags[0], "first", "left"), (tags[1], "second", "right"))):
            if set(ends) & set(words):
                return 0.5 - place
    column = next(name for name in VERDICTS if name in given and name not in numbered(given))
    return _counted(float(value), column, given)


def _sentence(said: str, tags: str) -> float | None:
    """What ``response a is much better than b`` says."""
    about = re.sub(r" than [\w ]+$", "", said.removesuffix("."))
    found = re.fullmatch(r"(.+) (?:is|was) (?:(?:[a-z]+|a bit|a little) )?(better|worse|preferred)", about)
    adverbs = {"slightly", "much", "clearly", "significantly", "a bit", "a little", "somewhat", "far"}
    if found is None or not any(about.endswith(f"{verb} {how}{found[2]}") for verb in ("is", "was")
                                for how in ("", *(f"{each} " for each in adverbs))):  # fmt: skip
        return None
    for place, words in enumerate(((tags[0], "first", "left"), (tags[1], "second", "right"))):
        for word in words:
            noun = r"[a-z]+" if word.isdigit() else r"[a-z]+[ _-]+"
            if re.fullmatch(rf"(?:the )?(?:[a-z]+[ _-]+|{noun})?{word}(?: [a-z]+)?", found[1]):
                return (0.5 - place) * (-1 if found[2] == "worse" else 1)
    return None


def _texts(given: Columns) -> list[str]:
    values = [given[name] for name in numbered(given)]
    if any(map(is_whole, values)):
        return [response(turns(value)[-1:] and _last(value), []).strip() for value in values]
    return [response(_last(only(value)), []).strip() for value in values]


def _last(value: Any) -> Any:
    """A text, or the last message of several."""
    found = talk(value)
    return found[-1:] if isinstance(found, list) else found


def _models(given: Columns) -> list[Any]:
    stem, tags = _stem_and_tags(given)
    columns = [first(given, [f"model_{tag}", f"model{tag}", f"{stem}_{tag}_model"]) for tag in tags]
    return [None if column is None else given[column] for column in columns]


def _counted(value: float, column: str, given: Columns) -> float:
    """What a number says: the tag of the better one, or steps as HelpSteer counts them, below zero for the first."""
    stem, tags = _stem_and_tags(given)
    if column in ("overall_preference", "preference_strength"):
        return -float(value)
    if stem == "human_ref":
        return {1: 0.5, 0: -0.5}[value]
    return {float(tags[1]): -0.5, float(tags[0]): 0.5, **({0.0: 0.0} if tags[0] != "0" else {})}[value]
