"""What policy optimisation asks for its rewards: one small base class, composed from YAML."""

import weakref
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lit_rlhf.data.batches import Completions, Sequences, stack_sequences
from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.data.options import Configurable
from lit_rlhf.data.rendering import Renderer


class Reward(Configurable, nn.Module):
    """Gives each response token a reward. Wrappers hold an inner reward and change what it gives.

    Construction is cheap and reads nothing; `load` opens models and stores.

    Attributes:
        scale: Factor that the reward puts on its model's scores; a critic that starts from that model follows it.
        fingerprint: Names what is computed: stores keep it, and resumed runs compare it. Known after `load`.
    """

    scale: float = 1.0
    fingerprint: str = ""
    _memory: tuple[weakref.ref[Completions], Tensor] | None = None

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Open what the reward needs.

        Args:
            renderer: How prompts and responses were turned into the ids that will be scored.
            policy_fingerprint: Names the reference policy; stores of its responses are checked against it.
        """
        return self

    @property
    def proxy(self) -> "Reward":
        """The reward without wrappers that need stored data: what is reported on unseen prompts."""
        return self

    def critic_scale(self, path: str) -> float:
        """Factor on the head of a critic that starts from the model in a directory.

        A critic that starts from the very model whose scores are the reward follows their scale. Of any other model
        it takes the body, and a head that says 0: scores that mean something else would be a false start.
        """
        return 0.0

    def baseline_mean(self, completions: Completions) -> Tensor | None:
        """Mean reward of each prompt's stored baselines ``(N,)``, or None where there are none."""
        return None

    def diagnostics(self, completions: Completions) -> dict[str, Tensor]:
        """Figures of the reward's own about these responses, each a scalar; logged as ``reward/NAME``.

        Wrappers pass on those of their inner reward. Nothing is scored for them twice: see `remembered`.
        """
        return {}

    def components(self, completions: Completions) -> dict[str, Tensor]:
        """Named parts of the reward, and other facts that it knows, of each response ``(N,)``.

        Comparisons and policy optimisation report those of their judge. Nothing is judged for them twice.
        """
        return {}

    def forward(self, completions: Completions) -> Tensor:
        """Rewards of the response tokens ``(N, T)``, zero at padding."""
        raise NotImplementedError

    def remembered(self, completions: Completions, compute: Callable[[Completions], Tensor]) -> Tensor:
        """What ``compute`` gives, or gave when it was last asked about the very same completions.

        The same responses are asked about as trained reward, as proxy and for diagnostics.

        Raises:
            NotFiniteError: If some of it is NaN or infinite; it names the first such prompt and response.
        """
        if self._memory is None or self._memory[0]() is not completions:
            values = compute(completions)
            _check_finite(values, completions, f"reward {self.fingerprint or type(self).__name__}")
            self._memory = weakref.ref(completions), values
        return self._memory[1]


def _check_finite(values: Tensor, completions: Completions, reward: str) -> None:
    if bool(values.isfinite().all()):
        return
    bad = ~values.isfinite().reshape(len(values), -1).all(1)
    row = int(bad.nonzero()[0]) if len(values) == len(completions) else None  # an ensemble's begin with its members
    shown = ""
    if row is not None:
        prompt, response = completions.records[row].prompt[-1].content, completions.texts[row]
        shown = f" for prompt {prompt[:80]!r}, response {response[:80]!r}"
    raise NotFiniteError(f"gave no finite number{shown}", reward)


class SequenceReward(Reward):
    """A reward for the response as a whole: subclasses give one score per row."""

    def scores(self, completions: Completions) -> Tensor:
        """Scores ``(N,)``."""
        raise NotImplementedError

    def forward(self, completions: Completions) -> Tensor:
        """The score on the last real token, zero elsewhere ``(N, T)``."""
        return on_last_token(self.scores(completions), completions)


def on_last_token(scores: Tensor, completions: Completions) -> Tensor:
    """Place one score per row ``(N,)`` on its last real response token ``(N, T)``."""
    lengths = completions.sequences.response_length
    placed = torch.zeros(len(lengths), int(lengths.max()), device=scores.device)
    return placed.scatter(1, lengths[:, None] - 1, scores.float()[:, None])


def unit_scale(calibration: dict[str, Any] | None, path: str) -> float:
    """The factor that gives scores of a model's validation pairs a standard deviation of 1.

    Raises:
        DataError: If the model was never measured.
    """
    if not calibration or not calibration["std"] > 0:
        hint = "Train it with validation pairs, or give the reward a scale (1.0 leaves the scores alone)."
        raise DataError("the model brings no spread of scores to divide by", path, hint)
    return 1.0 / calibration["std"]


def through_text(completions: Completions, renderer: Renderer) -> Sequences:
    """The same prompts and responses as another tokenizer and template write them."""
    prompts = [record.prompt for record in completions.records]
    rows = renderer.rows_ids(prompts, completions.texts, completions.truncated.tolist())
    return stack_sequences(*rows, renderer.pad_id).to(completions.sequences.ids.device)
