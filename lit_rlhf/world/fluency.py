"""How near a text is to sentences that the grammar could produce."""

from functools import cache, lru_cache

from lit_rlhf.world.families import FAMILIES
from lit_rlhf.world.families.base import Sentence
from lit_rlhf.world.text import split_sentences, split_words, template_trigrams

STRICTNESS = 1.5  # how fast a sentence loses fluency with its share of word triples that the grammar does not have
UNFINISHED = 0.6  # the most that a sentence without an end can have


@cache
def attested_trigrams() -> frozenset[tuple[str, str, str]]:
    """Every triple of neighbouring words in the grammar, with sentence edges, but for "sad and sad" and the like."""
    forms = [form for family in FAMILIES.values() for form in family.forms]
    trigrams = frozenset().union(*(template_trigrams(template, slots) for template, slots in forms))
    return frozenset(triple for triple in trigrams if triple[1] != "and" or triple[0] != triple[2])


@lru_cache(maxsize=1 << 16)
def _sentence(chunk: str, first: bool) -> Sentence:
    text = chunk.strip()
    words = split_words(text)
    padded = ("", "", *words, "")
    triples = list(zip(padded, padded[1:], padded[2:], strict=False))
    known = attested_trigrams()
    strange = sum(triple not in known for triple in triples) / len(triples)
    fluency = max(0.0, 1.0 - STRICTNESS * strange)
    if not first and not chunk.startswith(" "):
        fluency *= 0.5
    if not text.endswith((".", "!", "?")):
        fluency = min(fluency, UNFINISHED)
    return Sentence(text, words, fluency)


def read_sentences(response: str) -> list[Sentence]:
    """Cut a response into sentences and rate each; a last sentence without an end mark is one of them."""
    return [_sentence(chunk, index == 0) for index, chunk in enumerate(split_sentences(response))]


def fluency(sentences: list[Sentence]) -> float:
    """Fluency of a response in [-1, 1]: its sentences weighted by their words, a repeated sentence counting as 0."""
    total = earned = 0.0
    seen: set[str] = set()
    for sentence in sentences:
        total += len(sentence.words)
        earned += 0.0 if sentence.text in seen else sentence.fluency * len(sentence.words)
        seen.add(sentence.text)
    return 2.0 * earned / total - 1.0 if total else -1.0
