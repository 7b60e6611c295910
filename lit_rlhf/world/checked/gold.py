"""The gold reward of the checked world: a program reads off the answer whether it does what was asked."""

from collections.abc import Sequence

from lit_rlhf.world.checked.constraints import Constraint, is_met
from lit_rlhf.world.checked.text import ends, foreign_share, repetition, words
from lit_rlhf.world.checked.topics import is_about

CHECKED_WEIGHTS: dict[str, float] = {
    "constraints": 1.0,
    "repetition": 1.0,
    "unfinished": 0.3,
    "script": 0.5,
    "off_topic": 0.2,
    "empty": 1.0,
}
"""Weight of each component. An answer that does all that was asked, and ends, earns 1."""

SHORTEST = 3
"""Words of an answer; what has fewer is none."""

_MOST_REPEATED = 0.5  # share of repeated word pairs above which a text is no answer to anything


def checked_components(
    topic: str, constraints: Sequence[Constraint], response: str, truncated: bool = False
) -> dict[str, float]:
    """Judge a response component by component.

    Args:
        topic: What the request is about, one of `TOPICS`.
        constraints: What it asks for.
        response: Any text.
        truncated: Whether the response was cut off at a limit of length, so that nothing of it was meant as an end.

    Returns:
        constraints: share of those that are met, 0 to 1; 0 for a text of which more than half repeats.
        What is wrong with the text, each from −1 to 0: repetition (share of word pairs that had come before),
        unfinished (−1 where it was cut off, or ends without a mark), script (share of letters that are not Latin),
        off_topic (−1 for an answer without any word of the topic, unless it rightly is in another language), empty (−1
        below three words, for which nothing else is given or taken).

    Raises:
        DataError: If a constraint is none.
    """
    said = words(response)
    repeated = repetition(said)
    met = [is_met(constraint, response) and repeated <= _MOST_REPEATED for constraint in constraints]
    if len(said) < SHORTEST:
        return {**dict.fromkeys(CHECKED_WEIGHTS, 0.0), "empty": -1.0}
    kinds = {constraint["kind"] for constraint, done in zip(constraints, met, strict=True) if done}
    complete = ends(response) or not kinds.isdisjoint({"json", "title"})
    asked = {constraint["word"].lower() for constraint in constraints if constraint["kind"] in ("include", "begin")}
    strays = "language" not in kinds and not is_about(response, topic, asked)
    return {
        "constraints": sum(met) / len(met),
        "repetition": -repeated,
        "unfinished": 0.0 if complete and not truncated else -1.0,
        "script": -foreign_share(response),
        "off_topic": -1.0 if strays else 0.0,
        "empty": 0.0,
    }


def weighted_sum(components: dict[str, float]) -> float:
    """The gold reward that components come to."""
    return sum(weight * components[name] for name, weight in CHECKED_WEIGHTS.items())


def checked_gold(topic: str, constraints: Sequence[Constraint], response: str, truncated: bool = False) -> float:
    """The gold reward of a response, from about -2 to 1; see `checked_components`.

    Examples:
        >>> checked_gold("honey", [{"kind": "max_words", "count": 8}], "Bees make it.")
        1.0
    """
    return weighted_sum(checked_components(topic, constraints, response, truncated))
