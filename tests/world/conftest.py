from random import Random

import pytest

from lit_rlhf.world import FAMILIES, parse_prompt
from lit_rlhf.world.families import Task
from lit_rlhf.world.splits import draw_task


@pytest.fixture
def tasks() -> list[Task]:
    """Sixty training requests of each family."""
    rng = Random("tests")
    return [draw_task(rng, family, "train") for family in FAMILIES for _ in range(60)]


@pytest.fixture
def parse():
    """The parser without its cache."""
    return parse_prompt.__wrapped__
