"""Token-level rewards from a model that rewrites responses."""

from bisect import bisect_left
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_rlhf.data.batches import Completions, Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer, cut_into_tokens
from lit_rlhf.functional import seq2seq_token_rewards
from lit_rlhf.networks.backbone import fingerprint
from lit_rlhf.networks.rewriter import Rewriter, Rewriting
from lit_rlhf.rewards.reward import Reward, through_text, unit_scale


class Seq2SeqReward(Reward):
    """Rewards tokens up to the first that the rewriter would change, and punishes those it would change.

    One teacher-forced pass over (prompt, response, response) gives the rewriter's likeliest token in the place of each;
    nothing is generated. The end-of-sequence is a token like any other, so stopping at the right place is rewarded and
    stopping too early punished.

    Source: Zhou et al. 2024, "Sequence to Sequence Reward Modeling" (arXiv 2409.00162); the normalisation and the
    treatment of the end-of-sequence are this project's choice.

    Args:
        model: Directory that `Seq2SeqRewardModule` exported.
        positive: Reward of a token before the first disagreement.
        negative: Reward of a disagreeing token.
        normalize: Divide by the response's length, or else length itself is rewarded.
        scale: Factor on the rewards. None divides them by the standard deviation of whole responses' scores that was
            measured on the model's validation pairs, with rewards of 1 and −1 per token, divided by length.
        batch_size: Rows scored at a time.
        retokenise: Ask a rewriter with another tokenizer or template through text; each of its tokens' rewards then
            goes to the policy's token in which it ends.

    Raises:
        DataError: On loading, if the model's tokenizer or template is not the policy's, unless ``retokenise`` is set.
    """

    def __init__(
        self,
        model: str,
        positive: float = 1.0,
        negative: float = -1.0,
        normalize: bool = True,
        scale: float | None = None,
        batch_size: int = 64,
        retokenise: bool = False,
    ) -> None:
        super().__init__()
        self.path, self.positive, self.negative, self.normalize = model, positive, negative, normalize
        self._scale, self.batch_size, self.retokenise = scale, batch_size, retokenise

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Load the rewriter, and check that it reads the policy's tokens."""
        own, self.renderer = Renderer.load(self.path), renderer
        self.translation = (own, renderer) if own.fingerprint != renderer.fingerprint else None
        if self.translation and not self.retokenise:
            hint = "Train the rewriter from the policy's own model, with the same template, or set retokenise."
            raise DataError("its tokenizer or chat template is not the policy's: tokens do not match", self.path, hint)
        self.network = load_rewriter(self.path, own)
        calibration = getattr(self.network.model.config, "calibration", None)
        self.scale = unit_scale(calibration, self.path) if self._scale is None else self._scale
        how = f"{self.positive:g}/{self.negative:g}{' per token' if self.normalize else ''} x {self.scale:.6g}"
        self.fingerprint = f"seq2seq {fingerprint(self.network)} {how}"
        return self

    def forward(self, completions: Completions) -> Tensor:
        """Rewards of the response tokens ``(N, T)``, zero at padding."""
        return self.remembered(completions, self._rewards)

    def _rewards(self, completions: Completions) -> Tensor:
        if self.translation is None:
            closed = self.renderer.closed(completions.sequences, completions.truncated)
            return self._token_rewards(closed, completions.sequences)
        own, policy = self.translation
        sequences = through_text(completions, own)
        rewards = self._token_rewards(sequences, sequences)
        width = int(completions.sequences.response_length.max())
        rows = zip(completions.sequences.response_lists(), sequences.response_lists(), rewards.tolist(), strict=True)
        handed_on = [hand_on(theirs, policy, ids, own, values) for theirs, ids, values in rows]
        padded = [row + [0.0] * (width - len(row)) for row in handed_on]
        return torch.tensor(padded, device=rewards.device)

    @torch.no_grad()
    def _token_rewards(self, asked: Sequences, sequences: Sequences) -> Tensor:
        """Rewards of the rewriter's own tokens ``(N, T)``.

        Args:
            asked: What it reads: the responses as the template ends them.
            sequences: The responses whose tokens are rewarded.
        """
        width = int(sequences.response_length.max())
        parts = []
        for i in range(0, len(sequences), self.batch_size):
            rows = slice(i, i + self.batch_size)
            kept: Rewriting = self.network(asked[rows], sequences[rows].response_lists())
            rewards = seq2seq_token_rewards(
                kept.target, kept.predicted, kept.mask, self.positive, self.negative, self.normalize
            )
            parts.append(F.pad(rewards, (0, width - rewards.shape[1])))
        return self.scale * torch.cat(parts)


def hand_on(
    tokens: list[int], renderer: Renderer, other_tokens: list[int], other: Renderer, values: list[float]
) -> list[float]:
    """Values of one tokenisation's tokens, summed up for the tokens of another in which each of them ends.

    Args:
        tokens: The tokenisation that gets the values.
        renderer: Of those tokens.
        other_tokens: The tokenisation that has the values, of the same text.
        other: Of those tokens.
        values: One per other token; further ones are padding.

    Returns:
        One value per token. What ends a response goes to the last token.
    """
    ends = list(accumulate(map(len, cut_into_tokens(tokens, renderer))))
    found = [0.0] * len(tokens)
    stops = accumulate(map(len, cut_into_tokens(other_tokens, other)))
    for place, (stop, value) in enumerate(zip(stops, values, strict=False), 1):
        last = place == len(other_tokens)
        found[-1 if last else min(bisect_left(ends, stop), len(tokens) - 1)] += value
    return found


def load_rewriter(path: str, renderer: Renderer) -> Rewriter:
    """Load an exported rewriter, frozen, with the marker that it was trained with.

    Raises:
        DataError: If the directory holds a model that was not trained to rewrite.
    """
    network = Rewriter(path, [], renderer.pad_id).requires_grad_(False).eval()
    rewriting: Any = getattr(network.model.config, "rewriting", None)
    if not rewriting:
        raise DataError("was not trained to correct responses", path, "Train it with Seq2SeqRewardModule.")
    network.marker = list(rewriting["marker"])
    return network
