"""The checked world: requests to real chat models whose gold reward a program reads off the answer.

Prompts come from `CheckedPrompts`, pairs among a model's own samples from `SampledPairs`; `checked_gold` knows how good
an answer is, and the same `Annotator` as in the embedded world labels it.
"""

from lit_rlhf.world.checked.constraints import KINDS, Constraint, is_met
from lit_rlhf.world.checked.gold import CHECKED_WEIGHTS, checked_components, checked_gold
from lit_rlhf.world.checked.requests import (
    CHECKED_SPLITS,
    SEEN_KINDS,
    UNSEEN_KINDS,
    CheckedSplit,
    Request,
    draw_request,
)
from lit_rlhf.world.checked.sources import CheckedPrompts, SampledPairs, StubPairs, met_by_kind
from lit_rlhf.world.checked.topics import TOPICS

__all__ = [
    "CHECKED_SPLITS",
    "CHECKED_WEIGHTS",
    "KINDS",
    "SEEN_KINDS",
    "TOPICS",
    "UNSEEN_KINDS",
    "CheckedPrompts",
    "CheckedSplit",
    "Constraint",
    "Request",
    "SampledPairs",
    "StubPairs",
    "checked_components",
    "checked_gold",
    "draw_request",
    "is_met",
    "met_by_kind",
]
