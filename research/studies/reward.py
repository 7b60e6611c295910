"""The study of reward models: claims S1 to S7 of *Secrets of RLHF II*, under known label noise."""

from pathlib import Path
from typing import Any, ClassVar

from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.world import Annotator
from research.claims import Measurement
from research.studies import reward_claims
from research.studies.denoised import denoised
from research.studies.lab import Lab, train_policy
from research.studies.reward_parts import contrastive, meta, slices, strength, treatments
from research.studies.reward_pictures import draw
from research.study import Study


class RewardStudy(Study):
    """Strength, treatments, contrastive reward models and MetaRM in the embedded world.

    Every seed has its own pairs, flips and trainings; the SFT policy is shared. The annotator is right except for the
    flips, so the flip rate is the share of wrong labels. Accuracies are on true labels of new prompts, of the kinds
    that were trained on and of others. All reward models start from the SFT policy with the same optimiser, batch size
    and, where not said otherwise, one epoch.

    Args:
        seeds: One whole measurement each.
        preset: Size of the model.
        demonstrations: For the SFT policy.
        pairs: Training pairs per seed.
        val_pairs: Validation pairs per seed, and a third as many for each way of being out of distribution.
        flip_rate: Share of wrong labels.
        voters: Reward models that vote on the strength.
        epochs: Passes over the pairs in the comparison of treatments.
        slice_epochs: Passes over a single decile.
        lr: Learning rate of every reward model.
        batch_size: Pairs per step.
        inner_lr: MetaRM's η, as the share by which the inner step moves the parameters.
        iterations: Of PPO.
        prompts: Prompts whose samples show the spread of scores, and on which policies are judged.
    """

    name = "reward"
    parts = ("labels", "denoised", "features")
    after: ClassVar = {"denoised": "labels"}
    rows: ClassVar = {
        **dict.fromkeys(("s1", "s2", "s3", "s4"), ("labels",)),
        "s5": ("denoised",),
        **dict.fromkeys(("s6", "s7"), ("features",)),
        "s10": ("labels", "denoised", "features"),
    }
    claims = reward_claims.CLAIMS

    def __init__(
        self,
        seeds: list[int],
        preset: str = "200k",
        demonstrations: int = 26000,
        pairs: int = 3200,
        val_pairs: int = 900,
        flip_rate: float = 0.25,
        voters: int = 10,
        epochs: int = 3,
        slice_epochs: int = 3,
        lr: float = 1e-3,
        batch_size: int = 32,
        inner_lr: float = 0.01,
        iterations: int = 40,
        prompts: int = 256,
    ) -> None:
        self.seeds, self.preset, self.demonstrations = seeds, preset, demonstrations
        self.pairs, self.val_pairs, self.flip_rate, self.voters = pairs, val_pairs, flip_rate, voters
        self.epochs, self.slice_epochs, self.lr, self.batch_size = epochs, slice_epochs, lr, batch_size
        self.inner_lr, self.iterations, self.prompts = inner_lr, iterations, prompts

    def settings(self) -> dict[str, Any]:
        """All arguments but the seeds: more seeds keep those that are measured."""
        return {name: value for name, value in vars(self).items() if name != "seeds"}

    def prepare(self, folder: Path) -> None:
        """Train the SFT policy."""
        train_policy(folder, self.preset, self.demonstrations, lr=4e-3)

    def measure(self, part: str, seed: int, folder: Path) -> Measurement:
        """``labels``: strength, treatments; ``denoised``: PPO with these; ``features``: contrastive models, MetaRM."""
        annotator = Annotator(temperature=0.0, flip_rate=self.flip_rate)
        optimizer = Optimizer(lr=self.lr)
        lab = Lab(seed, folder, self.pairs, self.val_pairs, annotator, optimizer, self.batch_size)
        if part == "features":
            compared = contrastive(lab)
            return {"contrastive": compared, "meta": meta(lab, self.inner_lr, self.iterations, self.prompts)}
        if part == "denoised":
            return {"denoised": denoised(lab, self.iterations, self.prompts)}
        found, differences = strength(lab, self.voters)
        return {
            "flip_rate": self.flip_rate,
            "strength": found,
            "slices": slices(lab, differences, self.slice_epochs),
            "treatments": treatments(lab, differences, self.epochs),
        }

    def draw(self, measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
        """Five panels and the verdicts."""
        draw(measurements, summary, folder)
