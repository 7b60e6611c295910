"""The scalar reward model as a reward."""

import os
from typing import Literal, Self

from torch import Tensor

from lit_rlhf.data.batches import Completions, Sequences
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import fingerprint
from lit_rlhf.rewards.model import RewardModel
from lit_rlhf.rewards.reward import SequenceReward, through_text, unit_scale


class ScalarReward(SequenceReward):
    """The score of a scalar reward model.

    A model with another tokenizer or template than the policy's is asked through text.

    Args:
        model: The reward model's Hugging Face directory.
        scale: Factor on its scores. None divides them by the standard deviation that was measured on its
            validation pairs and is stored with the model; the mean is left where it is.
        batch_size: Rows scored at a time.
        attributes: Which of its numbers is the score, where its head gives several: one by its name or position, or a
            weighted sum such as ``{helpfulness: 0.7, verbosity: -0.3}``.
        dtype: What its body computes in: ``float32``, ``bfloat16`` or ``float16``.
        tokenizer: Directory or Hub id of its tokenizer, where the model brings none.
    """

    def __init__(
        self,
        model: str,
        scale: float | None = None,
        batch_size: int = 64,
        attributes: int | dict[str, float] | str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        tokenizer: str | None = None,
    ) -> None:
        super().__init__()
        self.path, self.batch_size = model, batch_size
        self.attributes, self.dtype, self.tokenizer = attributes, dtype, tokenizer
        self._scale = scale

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Load the model and find out how it can be asked."""
        self.model = RewardModel.load(self.path, self.batch_size, self.attributes, self.dtype, self.tokenizer)
        self.renderer = renderer
        # A policy that thinks samples its reasoning, which the template writes in its own way, or not at all.
        alike = self.model.renderer.fingerprint == renderer.fingerprint
        self.shares_ids = alike and not renderer.reasons(())
        self.scale = unit_scale(self.model.calibration, self.path) if self._scale is None else self._scale
        self.fingerprint = f"scalar {fingerprint(self.model.network)} x {self.scale:.6g}"
        return self

    def critic_scale(self, path: str) -> float:
        """The scale, if the critic starts from this reward's model."""
        alike = os.path.abspath(path) == os.path.abspath(self.path) and self.attributes is None
        return self.scale if alike else 0.0

    def scores(self, completions: Completions) -> Tensor:
        """Scaled scores ``(N,)``; asked again about the same completions (as the proxy), it answers from memory."""
        return self.remembered(completions, self._score)

    def closed(self, completions: Completions) -> Sequences:
        """The policy's ids, with what the template writes after an answer: the model reads them there."""
        return self.renderer.closed(completions.sequences, completions.truncated)

    def _score(self, completions: Completions) -> Tensor:
        sequences = self.closed(completions) if self.shares_ids else through_text(completions, self.model.renderer)
        return self.scale * self.model.score_sequences(sequences)
