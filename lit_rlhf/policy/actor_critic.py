"""The networks of policy optimisation: policy, reference and critic, separate or on one trunk."""

# Peft's methods would change what is trainable.
# pyright: reportPrivateUsage=false

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.adapter_files import save_adapters
from lit_rlhf.networks.adapter_sharing import add_saved, start_from
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import fingerprint
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sharding import gathered
from lit_rlhf.rewards.scalar import ScalarReward


class ActorCritic(nn.Module):
    """Policy, reference and critic as networks of their own.

    Args:
        policy: Directory that the policy starts from.
        reference: Directory of the frozen reference.

    Attributes:
        reference_fingerprint: Names the reference's weights, as they were in the beginning.
    """

    def __init__(self, policy: str, reference: str) -> None:
        super().__init__()
        # All keep the evaluation mode that loading leaves them in: dropout would make the ratio noisy.
        self.policy = PolicyNetwork(policy)
        self.reference = PolicyNetwork(reference).requires_grad_(False).eval()
        self.critic: RewardNetwork | None = None
        self.reference_fingerprint = fingerprint(self.reference)

    def add_critic(self, path: str, scale: float) -> RewardNetwork:
        """Load a critic, and multiply its head."""
        self.critic = RewardNetwork(path, scale)
        return self.critic

    def logprobs(self, sequences: Sequences, temperature: float) -> Tensor:
        """Log-probabilities of the response tokens under the policy ``(N, T)``."""
        return self.policy(sequences, temperature)

    def reference_logprobs(self, sequences: Sequences, temperature: float) -> Tensor:
        """The same under the reference ``(N, T)``."""
        return self.reference(sequences, temperature)

    def values(self, sequences: Sequences) -> Tensor:
        """The critic's value of the state before each response token ``(N, T)``."""
        assert self.critic is not None
        return self.critic(sequences, values=True)

    def outputs(
        self, sequences: Sequences, temperature: float, values: bool, entropy: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What an update needs: log-probabilities, and where asked for values and entropies, ``(N, T)`` each."""
        entropies = None
        if entropy:
            logprobs, entropies = self.policy.with_entropy(sequences, temperature)
        else:
            logprobs = self.logprobs(sequences, temperature)
        return logprobs, self.values(sequences) if values else None, entropies

    def policy_parameters(self) -> list[nn.Parameter]:
        """What the policy's optimiser moves."""
        return [parameter for parameter in self.policy.parameters() if parameter.requires_grad]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic's rate holds for."""
        return list(self.critic.parameters()) if self.critic is not None else []

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """Let the reference become what the policy is now."""
        self.reference.load_state_dict(self.policy.state_dict())


class SharedTrunk(ActorCritic):
    """One trunk for all: the policy is the model with low-rank adapters, the reference the same without them.

    The critic is a head of one number on the policy's hidden states; it starts at 0. Log-probabilities and values come
    from one pass, and the memory is that of one model, whose weights are frozen. Reward models that were trained with
    ``lora`` from the same weights share them, too.

    Args:
        policy: Directory that the policy starts from: the reference, or one that was trained with the same ``lora`` on
            the reference's weights, and left its adapters there.
        reference: Directory of the frozen weights.
        lora: The adapters.
        with_critic: Whether there is a critic.

    Raises:
        DataError: If the model shows no hidden states to put a head on, or the policy has no fitting adapters.
    """

    def __init__(self, policy: str, reference: str, lora: LoRA, with_critic: bool) -> None:
        nn.Module.__init__(self)
        self.policy, self.lora, self.path = PolicyNetwork(reference), lora, reference
        self.policy.requires_grad_(False)
        self.reference_fingerprint = fingerprint(self.policy)  # without the adapters
        self._base = fingerprint(self.policy.model.base_model, skip="pooler.")  # as reward models name it
        lora.add(self.policy.model)
        if os.path.normpath(policy) != os.path.normpath(reference):
            start_from(self.policy.model, Path(policy), self._base, reference)
        self.critic = None
        self.head = None
        if with_critic:
            width: int | None = getattr(self.policy.model.config.get_text_config(), "hidden_size", None)
            if width is None:
                raise DataError("does not say how wide its hidden states are", policy, "Give no lora, but a critic.")
            self.head = _Head(width, 1, bias=True)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def lend(self, reward: nn.Module) -> None:
        """Let reward models that were trained as adapters on the same weights use these, and let go of their own.

        Args:
            reward: Loaded; the `ScalarReward` objects in it are looked at.
        """
        for number, part in enumerate(each for each in reward.modules() if isinstance(each, ScalarReward)):
            if part.attributes is not None or not part.shares_ids:  # another head than the saved one, or other tokens
                continue
            name = f"reward_{number}"
            head = add_saved(self.policy.model, Path(part.path), self._base, self.path, name)
            if head is not None:
                part.model.network = AdapterScores(self.policy, name, head)

    def save_adapters(self, folder: Path) -> None:
        """Write the policy's adapters into its directory, so that a later training on this trunk can start there."""
        save_adapters(self.policy.model, self.lora, self._base, self.path, folder / "adapters")

    def _score(self, states: Tensor) -> Tensor:
        assert self.head is not None
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float()).squeeze(-1)

    def reference_logprobs(self, sequences: Sequences, temperature: float) -> Tensor:
        """Those of the model without its adapters ``(N, T)``."""
        with without_adapters(self.policy.model):
            return self.policy(sequences, temperature)

    def values(self, sequences: Sequences) -> Tensor:
        """The head's reading of the state before each response token ``(N, T)``."""
        return self.policy.scores(sequences, self._score)

    def outputs(
        self, sequences: Sequences, temperature: float, values: bool, entropy: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """All from one pass."""
        score = self._score if values else None
        if entropy:
            found = self.policy.with_entropy(sequences, temperature, score)
            return found[0], found[2] if values else None, found[1]
        if score is None:
            return self.logprobs(sequences, temperature), None, None
        logprobs, scores = self.policy.with_scores(sequences, temperature, score)
        return logprobs, scores, None

    def critic_parameters(self) -> list[nn.Parameter]:
        """The head's."""
        return list(self.head.parameters()) if self.head is not None else []


class _Head(nn.Linear):
    """A linear layer that is split like any network (see `lit_rlhf.networks.sharding.split`)."""

    computes = ()


class AdapterScores(RewardNetwork):
    """A reward model that consists of adapters and a head, on weights that others use as well.

    Args:
        policy: Its model has the adapters, among others; not a part of this module, which borrows its weights (see
            `lit_rlhf.networks.sharding.gathered`).
        name: Of the adapters.
        head: The head's weight ``(1, H)``.
    """

    computes = None  # not split: of its own, it has a small head only

    def __init__(self, policy: PolicyNetwork, name: str, head: Tensor) -> None:
        nn.Module.__init__(self)
        self.borrows, self.name, self.path, self.looks_ahead = (policy,), name, name, False
        self.head = nn.Linear(head.shape[1], 1, bias=False).requires_grad_(False)
        self.head.weight.copy_(head)

    @property
    def model(self) -> PreTrainedModel:  # type: ignore[override]
        """The shared model."""
        return self.borrows[0].model

    def _states(self, sequences: Sequences, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        with gathered(self.borrows[0]), self._active():
            return super()._states(sequences, positions, mask)

    @contextmanager
    def _active(self) -> Generator[None]:
        """These adapters for a while, then the policy's again."""
        layers = [part for part in self.model.modules() if isinstance(part, LoraLayer)]
        kept = [layer._active_adapter for layer in layers]
        for layer in layers:
            layer._active_adapter = [self.name]  # the method would change what is trainable
        try:
            yield
        finally:
            for layer, names in zip(layers, kept, strict=True):
                layer._active_adapter = names


@contextmanager
def without_adapters(model: Any) -> Generator[None]:
    """Switch the adapters of a model off for a while."""
    layers = [part for part in model.modules() if isinstance(part, LoraLayer) and not part.disable_adapters]
    for layer in layers:
        layer._disable_adapters = True  # the method would change what is trainable
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
