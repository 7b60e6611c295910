"""The gold reward of the checked world: what a program reads off a response, by the constraints of its prompt."""

import hashlib
import json
from typing import Self

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.rewards.reward import SequenceReward


class CheckedReward(SequenceReward):
    """The true reward of requests whose constraints a program can verify: for judging, and as an upper bound.

    Each prompt's record brings its constraints: prompts come from `lit_rlhf.world.checked.CheckedPrompts`. A response
    that was cut off at the limit of length counts as unfinished.

    Args:
        scale: Factor on the reward.

    Raises:
        DataError: When asked about a record that brings no constraints.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Nothing to open; what was remembered is forgotten."""
        from lit_rlhf.world.checked import CHECKED_WEIGHTS

        self._memory = None
        weights = hashlib.sha256(json.dumps(CHECKED_WEIGHTS).encode()).hexdigest()[:16]
        self.fingerprint = f"checked {weights} x {self.scale:.6g}"
        return self

    def scores(self, completions: Completions) -> Tensor:
        """The true rewards ``(N,)``."""
        return self.scale * self._column(completions, -1)

    def components(self, completions: Completions) -> dict[str, Tensor]:
        """Each of `lit_rlhf.world.checked.checked_components`, unscaled ``(N,)``; judged together with the scores."""
        from lit_rlhf.world.checked import CHECKED_WEIGHTS

        return {name: self._column(completions, i) for i, name in enumerate(CHECKED_WEIGHTS)}

    def _column(self, completions: Completions, column: int) -> Tensor:
        table = self.remembered(completions, _graded)
        return table[:, column].float().to(completions.sequences.ids.device)


def _graded(completions: Completions) -> Tensor:
    """Components and the reward ``(N, components + 1)``, in double precision on the CPU."""
    from lit_rlhf.world.checked.gold import checked_components, weighted_sum
    from lit_rlhf.world.checked.requests import read_meta

    rows = []
    both = zip(completions.records, completions.texts, completions.truncated.tolist(), strict=True)
    for record, text, truncated in both:
        topic, constraints = read_meta(record.meta, record.location or f"prompt {record.prompt[-1].content[:80]!r}")
        found = checked_components(topic, constraints, text, truncated)
        rows.append([*found.values(), weighted_sum(found)])
    return torch.tensor(rows, dtype=torch.float64)
