"""The study of sequence-to-sequence reward models: claim S9, and what of it holds on unseen kinds of prompts (S10)."""

from pathlib import Path
from typing import Any, ClassVar

from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.world import Annotator
from research.claims import Measurement
from research.studies import seq2seq_claims
from research.studies.lab import Lab, train_policy
from research.studies.seq2seq_parts import Arms
from research.studies.seq2seq_pictures import draw
from research.study import Study

ABLATIONS = ("no_positive", "no_negative", "no_identity", "unnormalised")


class Seq2SeqStudy(Study):
    """PPO with token rewards of a rewriter against PPO with a scalar model, under three annotators.

    One annotator is fair, with 25 % flipped labels; one likes long answers, one likes refusals. In each world a
    scalar reward model and a rewriter are trained on the same pairs, from the same SFT policy. PPO is the same for all:
    prompts, seeds, steps, KL coefficient, critic from the scalar model; every reward is divided by its standard
    deviation over samples of the SFT policy.

    Args:
        seeds: One whole measurement each.
        preset: Size of the models.
        demonstrations: For the SFT policy.
        pairs: Training pairs per world.
        val_pairs: Validation pairs per world, and a third as many for each way of being out of distribution.
        flip_rate: Of the fair annotator.
        length_bias: What the second annotator adds to the score for every word.
        refusal_bias: What the third annotator adds to the score of a refusal.
        epochs: Of the rewriter; the scalar model has one.
        lr: Of scalar models and rewriters.
        batch_size: Pairs per step.
        iterations: Of PPO.
        kl_coefficient: Of PPO.
        prompts: On which policies are judged, and as many of unseen kinds.
    """

    name = "seq2seq"
    parts = ("fair", "length", "refusal")
    rows: ClassVar = {"s9": parts, "s10": parts}
    claims = seq2seq_claims.CLAIMS

    def __init__(
        self,
        seeds: list[int],
        preset: str = "200k",
        demonstrations: int = 26000,
        pairs: int = 3200,
        val_pairs: int = 600,
        flip_rate: float = 0.25,
        length_bias: float = 0.15,
        refusal_bias: float = 4.0,
        epochs: int = 3,
        lr: float = 1e-3,
        batch_size: int = 32,
        iterations: int = 40,
        kl_coefficient: float = 0.1,
        prompts: int = 300,
    ) -> None:
        self.seeds, self.preset, self.demonstrations = seeds, preset, demonstrations
        self.pairs, self.val_pairs, self.flip_rate = pairs, val_pairs, flip_rate
        self.length_bias, self.refusal_bias, self.epochs = length_bias, refusal_bias, epochs
        self.lr, self.batch_size, self.iterations = lr, batch_size, iterations
        self.kl_coefficient, self.prompts = kl_coefficient, prompts

    def settings(self) -> dict[str, Any]:
        """All arguments but the seeds: more seeds keep those that are measured."""
        return {name: value for name, value in vars(self).items() if name != "seeds"}

    def prepare(self, folder: Path) -> None:
        """Train the SFT policy."""
        train_policy(folder, self.preset, self.demonstrations, lr=4e-3)

    def measure(self, part: str, seed: int, folder: Path) -> Measurement:
        """One world: its models, a policy for each kind of reward, and how all of them answer."""
        names = ["scalar", "increments", "seq2seq"]
        names += {"fair": ["contrastive_seq2seq", *ABLATIONS], "length": ["unnormalised"], "refusal": []}[part]
        return {part: self._arms(part, seed, folder).measure(names, self.prompts)}

    def draw(self, measurements: list[Measurement], summary: dict[str, Any], folder: Path) -> None:
        """The worlds side by side, the verdicts, and the token rewards of some answers."""
        draw(measurements, summary, folder)
        self._arms("fair", self.seeds[0], folder).heatmap(folder / "heatmap.png")

    def _arms(self, part: str, seed: int, folder: Path) -> Arms:
        annotators = {
            "fair": Annotator(temperature=0.0, flip_rate=self.flip_rate),
            "length": Annotator(temperature=0.0, length_bias=self.length_bias),
            "refusal": Annotator(temperature=0.0, refusal_bias=self.refusal_bias),
        }
        optimizer = Optimizer(lr=self.lr)
        lab = Lab(seed, folder, self.pairs, self.val_pairs, annotators[part], optimizer, self.batch_size, part)
        return Arms(lab, self.epochs, self.iterations, self.kl_coefficient)
