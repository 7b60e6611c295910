"""The numbers of a record in plain words: scores, grades, strength, and whether it is a tie."""

from typing import Any

from lit_rlhf.data.records import Record
from reliability.fuzz_plain import Columns, asked, demand, first, is_talk, response, sides
from reliability.fuzz_verdicts import as_number, named_best, numbered, numbered_scores, steps
from reliability.fuzz_words import (
    ANSWERS,
    FILLERS,
    GRADES,
    INDICES,
    KINDS_OF_SCORES,
    LISTS,
    MARGINS,
    NOUNS_OF_SIDES,
    RANKS,
    STRENGTHS,
    TEXT_KEYS,
    VERDICTS,
    WORDS_OF_SIDES,
)

_FILLERS = {*KINDS_OF_SCORES, *FILLERS, *NOUNS_OF_SIDES}
_OF_MARGINS = {*MARGINS, *_FILLERS}


def check_numbers(name: str, row: dict[str, Any], given: Columns, record: Record) -> None:
    """Compare the numbers of a record with those of its row."""
    scores = _own_scores(name, row, given)
    if name in ("graded", "ranked"):
        demand([[*record.responses], [*record.grades]] == [*graded_list(name, given)], "other grades", record, row)
    pair = record.chosen is not None and record.rejected is not None
    kept = [list(record.chosen_scores or ()), list(record.rejected_scores or ())]
    if pair and scores is None and not record.grades:
        scores = _side_scores(given)
    demand(repr(kept) == repr(list(scores or ([], []))), f"{name}: other scores", kept, row)
    strength = _strength(name, row, given, scores) if pair else None
    demand(record.strength == strength, f"{name}: strength", record.strength, row)
    even = pair and scores is not None and scores[0] == scores[1] and sides(given) is not None
    said = first(given, ["tie", "is_tie", "tied"])
    tie = _even(name, given, record) or (pair and said is not None and _is_true(given[said])) or even
    demand(record.tie is tie, f"{name}: tie", record.tie, row)


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "true")


def _own_scores(name: str, row: dict[str, Any], given: Columns) -> list[list[float]] | None:
    """Scores that belong to a format, of the better and the worse response."""
    if name == "hh-strength":
        return [list(map(float, given[f"{which}_score_list"])) for which in ("chosen", "rejected")]
    if name != "compared" or (scores := numbered_scores(given)) is None:
        return None
    return [[score] for score in (scores if steps(given) >= 0 else scores[::-1])]


def _strength(name: str, row: dict[str, Any], given: Columns, scores: Any) -> float | None:
    if name == "hh-strength":
        mean = {key.replace("_", " "): value for key, value in row.items()}.get("mean preference difference")
        return (sum(scores[0]) - sum(scores[1])) / len(scores[0]) if mean is None else float(mean)
    if name == "compared" and abs(steps(given)) not in (0, 0.5):
        return abs(steps(given))
    able = [name for name in given if (words := set(name.split("_"))) & set(MARGINS) and words <= _OF_MARGINS]
    margin = first(given, [*able, "mean_preference_difference", "preference_strength"])
    worded = isinstance(given.get(margin), str) and given[margin].strip().lower().removesuffix(" better") in STRENGTHS
    return None if margin is None or worded else as_number(given[margin])


def _even(name: str, given: Columns, record: Record) -> bool:
    if name == "compared":
        return steps(given) == 0
    return len(record.grades) > 1 and len(set(record.grades)) == 1


def _side_scores(given: Columns) -> list[list[float]] | None:
    """Scores in columns such as ``score_chosen`` and ``rejected-avg-rating``, if there are any."""
    pair = sides(given)
    if pair is None:
        return None
    known = {name: side for name in given if (side := _side_of(name)) is not None}
    wanted = [_stem(name) for name in pair]
    for name, (word, rest) in known.items():
        other = next((each for each, side in known.items() if side == (wanted[1], rest)), None)
        if word == wanted[0] and other is not None:
            found = [[as_number(each) for each in listed(given[column])] for column in (name, other)]
            return None if any(not each or None in each for each in found) else found  # type: ignore[return-value]
    return None


def _side_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    tokens = name.split("_")
    words = [token for token in tokens if token not in _FILLERS]
    if len(words) != 1 or not set(KINDS_OF_SCORES) & set(tokens):
        return None
    return words[0], tuple(token for token in tokens if token != words[0])


def _stem(name: str) -> str:
    words = {word for pair in WORDS_OF_SIDES for word in pair}
    return next((token for token in name.split("_") if token in words), name.split("_")[-1])


def graded_list(name: str, given: Columns) -> tuple[list[str], list[float]]:
    """The responses, and a number for each, more of which is better."""
    before, pair = asked(given, transcripts=True), sides(given)
    if name == "graded" and pair is not None and any(isinstance(given[each], list) for each in pair):
        groups = [listed(given[each]) if not is_talk(given[each]) else [given[each]] for each in pair]
        texts = [response(text, before) for group in groups for text in group]
        return texts, [float(place == 0) for place, group in enumerate(groups) for _ in group]
    if names := numbered(given):
        texts = [response(given[each], before) for each in names]
        grades: list[Any] | None = numbered_scores(given) or named_best(given)
    else:
        column = next(each for each in [*LISTS, *ANSWERS] if each in given and _is_list(given[each]))
        items = given[column]
        texts = [response(item if _is_answer(item) else _text(item), before) for item in items]
        grades = _listed_grades(given, items) if name == "graded" else None
    if name == "ranked":
        return texts, [-float(place) for place in range(len(texts))]
    demand(grades is not None and len(grades) == len(texts), "nothing grades these", given)
    known = [(text, grade) for text, grade in zip(texts, grades or [], strict=True) if grade is not None]
    return [text for text, _ in known], [grade for _, grade in known]


def _is_list(value: Any) -> bool:
    if not isinstance(value, list) or not value or is_talk(value):
        return False
    return all(_is_answer(each) or (isinstance(each, dict) and _text(each) is not None) for each in value)


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) or is_talk([value]) or is_talk(value)


def _text(item: dict[str, Any]) -> Any:
    return next((item[key] for key in TEXT_KEYS if isinstance(item.get(key), str)), None)


def _listed_grades(given: Columns, items: list[Any]) -> list[float | None] | None:
    for names, sign in ((["overall_score", *GRADES, "fine-grained_score", "pm_score"], 1), (RANKS, -1)):
        inside = [n for n in names if all(isinstance(item, dict) and item.get(n) is not None for item in items)]
        beside = first(given, names)
        values = [item[inside[0]] for item in items] if inside else given[beside] if beside is not None else None
        if values is not None:
            found = [as_number(value) for value in values]
            return [None if grade is None else sign * grade for grade in found]
    best = _named_best(given, items)
    return None if best is None else [float(place == best) for place in range(len(items))]


def _named_best(given: Columns, items: list[Any]) -> int | None:
    """Which of several a column names, by its number from 0 or by its text."""
    index = first(given, INDICES)
    if index is not None and type(given[index]) is int and given[index] in range(len(items)):
        return given[index]
    said = [given[name] for name in VERDICTS if isinstance(given.get(name), str) and items.count(given[name]) == 1]
    return items.index(said[0]) if said else None


def listed(value: Any) -> list[Any]:
    """A list, or the only value of one."""
    return value if isinstance(value, list) else [value]
