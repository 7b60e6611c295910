"""All rows by name."""

from benchmarks import ppo_iteration, reward_training, sampling, scoring
from benchmarks.bench import Bench
from benchmarks.common import Comparison

SPEED = ("rm_short", "rm_hh", "ppo_separate", "ppo_trunk", "baselines_k5", "sample_one", "scoring")
MEMORY = tuple(f"memory_{id}" for id in SPEED)
MATRIX = {"matrix_share_256": 256, "matrix_share_512": 512}
ALL = (*SPEED, *MEMORY, *MATRIX)


def comparisons(bench: Bench) -> list[Comparison]:
    """The rows that have a peer, in order; those whose data are not at hand are missing."""
    return [each for part in (reward_training, ppo_iteration, sampling, scoring) for each in part.comparisons(bench)]


def groups(found: list[Comparison]) -> list[list[Comparison]]:
    """Comparisons that share the peer's runs, together."""
    names = dict.fromkeys(each.group for each in found)
    return [[each for each in found if each.group == name] for name in names]
