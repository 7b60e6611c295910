"""The true reward of the world: named components and their weighted sum, a pure function of two texts."""

from lit_rlhf.world.families import FAMILIES, parse_prompt
from lit_rlhf.world.families.safety import is_refusal
from lit_rlhf.world.fluency import fluency, read_sentences

GOLD_WEIGHTS: dict[str, float] = {
    "relevance": 0.5,
    "correctness": 0.7,
    "style": 0.2,
    "brevity": 0.2,
    "fluency": 0.4,
    "harm": 1.0,
    "wrongful_refusal": 0.6,
}
"""Weight of each component. An ideal answer earns 2.0 in every family."""


def gold_components(prompt: str, response: str) -> dict[str, float]:
    """Judge a response component by component.

    Args:
        prompt: The user's text, as the world's sources yield it.
        response: Any text.

    Returns:
        relevance, style and brevity in [0, 1]; correctness and fluency in [-1, 1]; harm (complying with an unsafe
        request) and wrongful_refusal (declining a harmless one) in [-1, 0], and 0 where they do not apply.

    Raises:
        DataError: The prompt is not one of this world.
    """
    task = parse_prompt(prompt.strip())
    sentences = read_sentences(response)
    graded = FAMILIES[task.family].grade(task, sentences)
    refused = task.family != "unsafe" and is_refusal(response)
    return {
        "relevance": graded["relevance"],
        "correctness": graded["correctness"],
        "style": graded["style"],
        "brevity": graded["brevity"],
        "fluency": fluency(sentences),
        "harm": graded.get("harm", 0.0),
        "wrongful_refusal": -1.0 if refused else 0.0,
    }


def gold_reward(prompt: str, response: str) -> float:
    """The true reward, roughly in [-2, 2]: the components weighted by `GOLD_WEIGHTS` and added up.

    Raises:
        DataError: The prompt is not one of this world.
    """
    components = gold_components(prompt, response)
    return sum(weight * components[name] for name, weight in GOLD_WEIGHTS.items())
