"""The study of policy optimisation: when do contrastive rewards help (S8), and rounds with MetaRM (S7)?"""

from pathlib import Path
from typing import Any, ClassVar

from lit_rlhf.rewards import ScalarReward
from research.claims import Measurement
from research.studies import ppo_claims, ppo_parts
from research.studies.lab import train_policy
from research.studies.ppo_parts import Arms, Sizes
from research.studies.ppo_pictures import draw
from research.study import Study

FLIP_RATES = [0.0, 0.1, 0.2, 0.3, 0.4]
SHARED_RATE = 0.0
"""Of the annotator in all comparisons but that of flip rates and over-optimisation: optimisation must do some good."""
WEAK_RATE = 0.2
"""Of the annotator whose reward model is over-optimised."""


class PPOStudy(Study):
    """Contrastive PPO against PPO as a map of regimes, RLOO, over-optimisation, and rounds with and without MetaRM.

    Every seed has an SFT policy of its own. Within a seed all trainings have the same prompts, the same seeds of their
    samples and the same scale of the reward; differences are taken within seeds. The reward under an offset that
    depends on the prompt alone is, once centred, the reward without it: that arm is the plain contrastive one.

    Args:
        seeds: One whole measurement each.
        sizes: How large everything is.
        inner_lr: MetaRM's η, as the share by which the inner step moves the parameters.
    """

    name = "ppo"
    parts = ("start", "regimes", "flips", "rounds", "overoptimised")
    after: ClassVar = dict.fromkeys(parts[1:], "start")
    rows: ClassVar = {
        "s7": ("rounds",),
        "s8": ("regimes", "flips"),
        "s10": ("regimes", "flips", "rounds"),
        "over": parts[-1:],
    }
    claims = ppo_claims.CLAIMS

    def __init__(self, seeds: list[int], sizes: Sizes | None = None, inner_lr: float = 0.01) -> None:
        self.seeds, self.sizes, self.inner_lr = seeds, sizes or Sizes(), inner_lr

    def settings(self) -> dict[str, Any]:
        """Sizes and η."""
        return {**vars(self.sizes), "inner_lr": self.inner_lr}

    def prepare(self, folder: Path) -> None:
        """Nothing: every seed has a start of its own."""

    def measure(self, part: str, seed: int, folder: Path) -> Measurement:
        """One part of one seed; the others build on ``start``."""
        sizes = self.sizes
        match part:
            case "start":
                return {"start": self._start(seed, folder)}
            case "flips":
                found, accuracy = ppo_parts.flips(folder, seed, FLIP_RATES, SHARED_RATE, sizes)
                return {"flips": found, "accuracy": accuracy}
            case "regimes":
                return {"regimes": ppo_parts.regimes(folder, seed, SHARED_RATE, sizes)}
            case "rounds":
                return {"rounds": ppo_parts.rounds(folder, seed, SHARED_RATE, self.inner_lr, sizes)}
            case _:
                return {"overoptimised": ppo_parts.overoptimised(folder, seed, WEAK_RATE, sizes)}

    def _start(self, seed: int, folder: Path) -> dict[str, Any]:
        """The SFT policy, the reward model that most comparisons share, and ten baselines per prompt."""
        start = folder / f"seed-{seed}" / "start"
        train_policy(start, self.sizes.preset, self.sizes.demonstrations, lr=4e-3, seed=seed)
        arms = Arms(folder, seed, "start", SHARED_RATE, self.sizes)
        model = arms.reward_model()
        arms.lab.baselines(ScalarReward(model), "baselines", self.sizes.prompts, k=10)
        return {"accuracy": arms.accuracy}

    def draw(self, measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
        """The map of regimes, the course of over-optimisation, the rounds, and the verdicts."""
        draw(measurements, summary, folder)
