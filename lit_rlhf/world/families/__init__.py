"""The five families of requests, and the way from a prompt's text back to what it asks for."""

from functools import lru_cache

from lit_rlhf.data.errors import DataError
from lit_rlhf.world.families.advise import Advise
from lit_rlhf.world.families.base import Family, Pen, Sentence, Task
from lit_rlhf.world.families.describe import Describe
from lit_rlhf.world.families.facts import Facts
from lit_rlhf.world.families.safety import Scary, Unsafe

FAMILIES: dict[str, Family] = {family.name: family for family in (Describe(), Advise(), Facts(), Unsafe(), Scary())}


@lru_cache(maxsize=1 << 16)
def parse_prompt(prompt: str) -> Task:
    """Read what a prompt asks for off its text.

    Raises:
        DataError: The text is not a prompt of this world.
    """
    for family in FAMILIES.values():
        task = family.parse(prompt)
        if task is not None:
            return task
    raise DataError(
        f"not a prompt of the synthetic world: {prompt[:80]!r}",
        "world",
        "The gold reward knows only the prompts that this world's sources yield; pass the user's text alone, "
        "without chat markers.",
    )


__all__ = ["FAMILIES", "Family", "Pen", "Sentence", "Task", "parse_prompt"]
