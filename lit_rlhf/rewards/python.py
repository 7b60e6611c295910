"""Rewards computed by a Python function, and the true reward of the synthetic world."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.rewards.reward import SequenceReward


class PythonReward(SequenceReward):
    """Any function of the two texts.

    Args:
        function: ``(prompt, response) -> float``, as an import path such as ``my_package.rewards.politeness``.
            A conversation of several turns comes as its messages joined by blank lines.
        scale: Factor on what the function gives.
    """

    def __init__(self, function: Callable[[str, str], float], scale: float = 1.0) -> None:
        super().__init__()
        self.function, self.scale = function, scale

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Nothing to open."""
        name = f"{self.function.__module__}.{getattr(self.function, '__qualname__', type(self.function).__name__)}"
        self.fingerprint = f"python {name} x {self.scale:.6g}"
        return self

    def scores(self, completions: Completions) -> Tensor:
        """What the function gives, one call per row ``(N,)``."""
        values = []
        for record, text in zip(completions.records, completions.texts, strict=True):
            prompt = "\n\n".join(message.content for message in record.prompt)
            value = float(self.function(prompt, text))
            if value != value or value in (float("inf"), float("-inf")):
                shown = f"prompt {prompt[:80]!r}, response {text[:80]!r}"
                raise DataError(f"gave {value} for {shown}", f"reward function {self.fingerprint.split()[1]}")
            values.append(value)
        return self.scale * torch.tensor(values, device=completions.sequences.ids.device)


class GoldReward(PythonReward):
    """The true reward of the synthetic world: for judging, and for training an upper bound.

    Args:
        scale: Factor on the reward.
    """

    def __init__(self, scale: float = 1.0) -> None:
        from lit_rlhf.world import gold_reward

        super().__init__(gold_reward, scale)
