"""A writer of mixed quality: answers with the flaws that people and small models have."""

from random import Random

from lit_rlhf.world.families import FAMILIES, Pen, Task
from lit_rlhf.world.text import split_words

MAX_TOKENS = 47  # words and punctuation marks; with the end-of-text token 48


def write_response(task: Task, rng: Random, quality: float | None = None) -> str:
    """Write an answer to a request.

    Args:
        task: The request.
        rng: Source of chance.
        quality: 1 writes an ideal answer, 0 slips wherever it can. None draws it for each answer, 1/3 on average.
    """
    pen = Pen(rng, rng.random() ** 2 if quality is None else quality)
    sentences = FAMILIES[task.family].write(task, pen)
    if pen.slips(0.15):
        sentences.insert(rng.randint(0, len(sentences)), _stray_sentence(rng))
    if pen.slips(0.12):
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(sentences))
    if pen.slips(0.2):
        spot = rng.randrange(len(sentences))
        sentences[spot] = _clumsy(sentences[spot], rng)
    while len(sentences) > 1 and sum(len(split_words(sentence)) for sentence in sentences) > MAX_TOKENS:
        sentences.pop()
    if pen.slips(0.06):
        sentences[-1] = _unfinished(sentences[-1], rng)
    return " ".join(sentences)


def _stray_sentence(rng: Random) -> str:
    """A good sentence that answers something else."""
    family = FAMILIES[rng.choice(tuple(FAMILIES))]
    task = family.draw(rng, family.topics, range(len(family.wordings)))
    return rng.choice(family.write(task, Pen(rng, 1.0)))


def _clumsy(sentence: str, rng: Random) -> str:
    """Swap, drop or double a word inside a sentence; its first word and its end stay."""
    words = sentence.split(" ")
    if len(words) < 4:
        return sentence
    spot = rng.randrange(1, len(words) - 2)
    kind = rng.choice(("swap", "drop", "double"))
    if kind == "swap":
        words[spot], words[spot + 1] = words[spot + 1], words[spot]
        if words[spot].endswith("."):
            words[spot], words[spot + 1] = words[spot][:-1], words[spot + 1] + "."
    elif kind == "drop":
        words.pop(spot)
    else:
        words.insert(spot, words[spot])
    return " ".join(words)


def _unfinished(sentence: str, rng: Random) -> str:
    """Stop in the middle of a sentence."""
    words = sentence.split(" ")
    return " ".join(words[: rng.randint(1, max(1, len(words) - 1))]).rstrip(",.")
