"""What each token adds to a scalar reward model's score, as a reward per token."""

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional.masked import keep_real
from lit_rlhf.rewards.scalar import ScalarReward


class TokenIncrementReward(ScalarReward):
    """A scalar model's score, handed out token by token: r_t = s(x, y_≤t) − s(x, y_<t), and s of no token at all is 0.

    The head is read at every response token, in one pass. The rewards of a response add up to its score, so the whole
    of it pays as much as under `ScalarReward`; only credit is assigned earlier. The model was trained on whole
    responses, so its scores of unfinished ones are an extrapolation.

    Source: Zhou et al. 2024, "Sequence to Sequence Reward Modeling" (arXiv 2409.00162), whose baseline it is: PPO-T.

    Args:
        model: The reward model's Hugging Face directory: a decoder with the policy's tokenizer and template.
        scale: Factor on its scores. None divides them by the standard deviation that was measured on its
            validation pairs and is stored with the model.
        batch_size: Rows scored at a time.
    """

    def __init__(self, model: str, scale: float | None = None, batch_size: int = 64) -> None:
        super().__init__(model, scale, batch_size)

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Load the model.

        Raises:
            DataError: If the model is an encoder, or reads other tokens than the policy writes.
        """
        super().load(renderer, policy_fingerprint)
        if self.model.network.looks_ahead:
            hint = "Give a decoder, such as Llama, or take ScalarReward, which rewards the whole response."
            raise DataError("is an encoder, which cannot score a response token by token", self.path, hint)
        if not self.shares_ids:
            hint = "Start it from the policy's model, or take ScalarReward, which asks it through text."
            raise DataError(
                "has another tokenizer or template than the policy, whose tokens it is to reward", self.path, hint
            )
        self.fingerprint = f"token increments of {self.fingerprint}"
        return self

    def critic_scale(self, path: str) -> float:
        """None: what is still to come of a score is not the score so far."""
        return 0.0

    def scores(self, completions: Completions) -> Tensor:
        """Scaled scores of whole responses ``(N,)``: what the increments add up to."""
        return self(completions).sum(1)

    def forward(self, completions: Completions) -> Tensor:
        """Scaled increments of the response tokens ``(N, T)``, zero at padding."""
        return self.remembered(completions, self._increments)

    @torch.no_grad()
    def _increments(self, completions: Completions) -> Tensor:
        sequences, network = self.closed(completions), self.model.network
        device, mask = network.head.weight.device, completions.sequences.response_mask
        rows = torch.arange(len(sequences), device=sequences.length.device).split(self.batch_size)
        width = int(sequences.response_length.max())
        parts = [network.token_scores(sequences[part].to(device)) for part in rows]
        scores = torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts])  # (N, ≥ T)
        # What the template writes after the end belongs to the token that ends the response.
        whole = scores.gather(1, sequences.response_length[:, None].to(device) - 1)
        last = completions.sequences.response_length[:, None].to(device) - 1
        scores = scores.scatter(1, last, whole)[:, : mask.shape[1]]  # (N, T)
        before = F.pad(scores, (1, -1))  # the score before the first token is 0
        return keep_real(self.scale * (scores - before), mask.to(device))
