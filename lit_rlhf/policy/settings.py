"""The numbers of policy optimisation."""

from dataclasses import dataclass

from lit_rlhf.data.errors import DataError


@dataclass
class PPOSettings:
    """The numbers of policy optimisation that are neither advantages nor KL penalty.

    Attributes:
        epochs: Passes over each rollout.
        minibatch_size: Responses per optimiser step and process.
        micro_batch_size: Responses computed at a time, whose gradients are added up: the same step takes less memory.
            None computes a minibatch at once.
        clip: Of the probability ratio.
        value_clip: Of the critic's move, in units of value.
        value_coefficient: Weight of the critic's loss; it matters where policy and critic share a trunk.
        entropy_bonus: Weight of the mean entropy per token, in nats, which is taken off the loss.
        whiten: Whether advantages get standard deviation 1 over the rollout, and with `GAE` mean 0.
        max_grad_norm: Gradient clipping, of policy and critic separately; 0 turns it off.
        critic_warmup: Iterations at the start in which the critic alone learns.
        refresh_reference: Iterations after which the reference becomes the policy; 0 keeps it.
    """

    epochs: int = 1
    minibatch_size: int = 16
    micro_batch_size: int | None = None
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 1.0
    entropy_bonus: float = 0.0
    whiten: bool = True
    max_grad_norm: float = 1.0
    critic_warmup: int = 0
    refresh_reference: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("epochs", "minibatch_size", "micro_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise DataError(f"is {getattr(self, name)}", f"settings, {name}", "Give 1 or more.")
        for name in ("value_coefficient", "entropy_bonus", "max_grad_norm", "critic_warmup", "refresh_reference"):
            if getattr(self, name) < 0:
                raise DataError(f"is {getattr(self, name)}", f"settings, {name}", "Give 0 or more.")
        if not 0 < self.clip < 1:
            raise DataError(f"is {self.clip}", "settings, clip", "Give a number above 0 and below 1.")
        if not self.value_clip > 0:
            raise DataError(
                f"is {self.value_clip}", "settings, value_clip", "Give a number above 0; .inf turns it off."
            )
