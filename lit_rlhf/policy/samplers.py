"""Where the responses of offline baselines come from: the policy in this process, unless something else is named."""

from abc import ABC, abstractmethod

from torch import nn

from lit_rlhf.data.batches import Completions, PromptBatch
from lit_rlhf.data.options import Configurable
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Key
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy.rollout import complete, seeded_generator


class Sampler(Configurable, nn.Module, ABC):
    """Draws k responses per prompt from a policy.

    Attributes:
        key: What a store must remember of the sampler, beside policy, template and sampling options.
    """

    key: Key

    @abstractmethod
    def load(self, policy: PolicyNetwork) -> None:
        """Take the policy that is to be sampled."""

    @abstractmethod
    def complete(self, batch: PromptBatch, renderer: Renderer, sampling: Sampling, k: int, stream: str) -> Completions:
        """Draw ``k`` responses per prompt; row ``b * k + j`` is response j of prompt b.

        Args:
            batch: The prompts.
            renderer: How they became ids.
            sampling: How tokens are drawn.
            k: Responses per prompt.
            stream: Names the random numbers: equal names give equal responses.
        """


class OwnSampler(Sampler):
    """Samples in this process, on the trainer's device."""

    def __init__(self) -> None:
        super().__init__()
        self.key = {}

    def load(self, policy: PolicyNetwork) -> None:
        """Keep the policy."""
        self.policy = policy

    def complete(self, batch: PromptBatch, renderer: Renderer, sampling: Sampling, k: int, stream: str) -> Completions:
        """Draw ``k`` responses per prompt."""
        generator = seeded_generator(batch.ids.device, stream)
        return complete(self.policy, batch, renderer, sampling, generator, k)
