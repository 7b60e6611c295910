"""What policy optimisation refuses, because it would train on wrong numbers."""

from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.optimizer import check_precision
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy.advantages import Advantages
from lit_rlhf.policy.settings import PPOSettings


def check_options(lora: LoRA | None, critic: str | None, settings: PPOSettings, advantages: Advantages) -> None:
    """Refuse options that contradict each other.

    Raises:
        DataError: Names them.
    """
    if lora is not None and critic is not None:
        hint = "Leave critic out, or lora."
        raise DataError("the critic shares the policy's weights where it has adapters", "lora", hint)
    if lora is not None and settings.refresh_reference:
        hint = "Leave lora out, or refresh_reference at 0."
        raise DataError("the reference is the model below the adapters", "settings, refresh_reference", hint)
    if lora is not None and lora.dropout:
        raise DataError(f"is {lora.dropout}", "lora, dropout", "Leave it at 0: it would make the ratio noisy.")
    if not advantages.needs_critic and (critic is not None or settings.critic_warmup):
        hint = "Leave critic and settings.critic_warmup out."
        raise DataError(f"{type(advantages).__name__} needs no critic", "critic", hint)


def check_vocabulary(renderer: Renderer, path: str, what: str) -> None:
    """Reference and critic read the policy's token ids; only rewards can be asked through text.

    Args:
        renderer: The policy's way from text to ids.
        path: The other model's directory; one without a tokenizer is believed.
        what: Which option it was given as.

    Raises:
        DataError: If a token of the policy has another id there.
    """
    try:
        theirs = Renderer.load(path).tokenizer.get_vocab()
    except DataError:
        return
    if any(theirs.get(token) != number for token, number in renderer.tokenizer.get_vocab().items()):
        hint = "Give one with the policy's tokenizer; a critic may be left out, and starts from the policy then."
        raise DataError(f"{path} has another vocabulary than the policy", f"option {what}", hint)


def check_training(sampling: Sampling, trainer: Trainer) -> None:
    """Refuse ways of sampling, strategies and precisions that policy optimisation does not stand.

    Raises:
        DataError: For sampling from another distribution than the one whose log-probabilities are used, for a strategy
            that shares networks out in another way than is known here, and for a precision that scales the loss.
    """
    if sampling.temperature == 0 or sampling.top_p < 1 or sampling.top_k:
        hint = "Train at a temperature above 0, with top_p 1 and top_k 0: log-probabilities are those of all tokens."
        raise DataError(f"is {sampling}", "sampling", hint)
    check_strategy(trainer)
    check_averaging(trainer)
    check_precision(trainer)


def check_averaging(trainer: Trainer) -> None:
    """Refuse callbacks that average weights where these are split.

    Raises:
        DataError: Names the callback.
    """
    averaging = [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
    if averaging and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        hint = "Leave it out, or take configs/trainer/ddp.yaml."
        raise DataError("copies whole networks, and these are split", f"callback {type(averaging[0]).__name__}", hint)


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies under which a policy cannot be sampled.

    Raises:
        DataError: For any but one device, DDP, FSDP and FSDP2.
    """
    known = (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, ModelParallelStrategy)
    if not isinstance(trainer.strategy, known):
        hint = "Take a file of configs/trainer: ddp.yaml, or fsdp2.yaml or fsdp.yaml, which split every network."
        raise DataError(
            f"{type(trainer.strategy).__name__} cannot give the whole policy for a rollout",
            "option trainer.strategy",
            hint,
        )
