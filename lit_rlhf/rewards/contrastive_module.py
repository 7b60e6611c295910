"""Contrastive reward models: each response is seen twice under dropout, and must be told apart from the others."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import simcse_loss, swav_loss
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.dropout import add_dropout
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sharding import beside, whole
from lit_rlhf.networks.together import from_all_with_gradients
from lit_rlhf.rewards.scalar_module import ScalarRewardModule

_BETA = {("simcse", "pairs"): 1.0, ("simcse", "differences"): 1.0, ("swav", "pairs"): 0.1, ("swav", "differences"): 0.5}
_PROTOTYPES = {"pairs": 50, "differences": 20}
_TEMPERATURE = {"simcse": 0.05, "swav": 0.1}


class ContrastiveRewardModule(ScalarRewardModule):
    """Bradley–Terry reward model with a contrastive loss on its features: L = L_rm + β L_cl.

    Two views of every response come from two dropout masks; L_rm is the mean over both views. Decoders, which have no
    dropout of their own, are given it.

    Source: Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II: Reward Modeling" (arXiv 2401.06080),
    section 3. Their verdict: gains are small and steady, and SimCSE on pairs is best. On several processes a response
    is told apart from those of all.

    Args:
        model: Hugging Face directory or Hub id to start from: a language model, or a scalar model to go on with.
        optimizer: Learning rate and schedule.
        lora: Train low-rank adapters instead of all weights.
        objective: ``simcse`` finds each feature's second view among those of the batch; ``swav`` predicts one view's
            cluster from the other.
        contrast: The features that are told apart: those of all responses of the batch (``pairs``), or chosen minus
            rejected and rejected minus chosen (``differences``).
        beta: Weight of the contrastive loss. None takes the paper's: 1 for ``simcse``, for ``swav`` 0.1 on pairs and
            0.5 on differences.
        prototypes: Number of clusters; used by ``swav`` only. None takes the paper's: 50 on pairs, 20 on differences.
        temperature: τ of the contrastive loss. None takes 0.05 for ``simcse`` and 0.1 for ``swav``.
        epsilon: Smoothness of the cluster assignments; used by ``swav`` only.
        iterations: Sinkhorn rounds of the assignments; used by ``swav`` only.
        dropout: Share that is dropped, above 0 and below 1; the paper's 0.05.
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.

    Raises:
        DataError: If an option is out of range.
    """

    def __init__(
        self,
        model: str,
        optimizer: Optimizer | None = None,
        lora: LoRA | None = None,
        objective: Literal["simcse", "swav"] = "simcse",
        contrast: Literal["pairs", "differences"] = "pairs",
        beta: float | None = None,
        prototypes: int | None = None,
        temperature: float | None = None,
        epsilon: float = 0.05,
        iterations: int = 3,
        dropout: float = 0.05,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(model, optimizer, lora, renderer=renderer)
        self.objective, self.contrast = objective, contrast
        self.beta = _BETA[objective, contrast] if beta is None else beta
        self.clusters = _PROTOTYPES[contrast] if prototypes is None else prototypes
        self.temperature = _TEMPERATURE[objective] if temperature is None else temperature
        self.epsilon, self.iterations, self.dropout = epsilon, iterations, dropout
        for option, value, fine in (
            ("beta", beta, self.beta >= 0),
            ("prototypes", prototypes, self.clusters >= 2),
            ("temperature", temperature, self.temperature > 0),
            ("epsilon", epsilon, epsilon > 0),
            ("iterations", iterations, iterations >= 1),
            ("dropout", dropout, 0 < dropout < 1),
        ):
            if not fine:
                hint = "Numbers are above 0, beta may be 0, dropout is below 1, and there are at least 2 prototypes."
                raise DataError(f"is {value}", f"ContrastiveRewardModule, {option}", hint)

    def finish(self, network: RewardNetwork) -> None:
        """Add the dropout and the prototypes."""
        add_dropout(network.model, self.dropout)
        super().finish(network)
        if self.objective == "swav":
            # Of length 1, since an optimiser's step changes the direction of a longer one less.
            prototypes = F.normalize(torch.randn(self.clusters, network.head.in_features), dim=1)  # (K, H)
            self.prototypes = beside(network, prototypes)

    def training_loss(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Reward loss plus β times contrastive loss, and the scores, mean of both views, each ``(N,)``."""
        views = [self.features(batch) for _ in range(2)]  # (2 N, H) each, under other masks
        scores = [self.scores(view) for view in views]
        reward_loss = self.shared(torch.stack([self.loss(*each, batch) for each in scores]).mean(), batch)
        contrastive_loss = self.contrastive_loss(*(view[: 2 * batch.counted] for view in views))
        losses = {"train/reward_loss": reward_loss.detach(), "train/contrastive_loss": contrastive_loss.detach()}
        self.log_dict(losses, batch_size=len(batch), sync_dist=True)
        chosen, rejected = (torch.stack(side).mean(0) for side in zip(*scores, strict=True))
        return reward_loss + self.beta * contrastive_loss, chosen, rejected

    def contrastive_loss(self, first: Tensor, second: Tensor) -> Tensor:
        """The contrastive loss of two views ``(2 N, H)``, chosen responses before the rejected ones.

        Of several processes, each gives its own pairs, and the loss compares those of all.
        """
        if self.contrast == "differences":
            first, second = (_differences(view) for view in (first, second))
        first, second = from_all_with_gradients(first), from_all_with_gradients(second)
        if self.objective == "simcse":
            return simcse_loss(first, second, self.temperature)
        return swav_loss(first, second, whole(self.prototypes), self.temperature, self.epsilon, self.iterations)


def _differences(view: Tensor) -> Tensor:
    chosen, rejected = view.chunk(2)
    return torch.cat([chosen - rejected, rejected - chosen])
