"""What policy optimisation refuses, because it would train on wrong numbers."""

from lightning import Trainer

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.sampling import Sampling


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
    """Refuse ways of sampling, numbers of processes and precisions that policy optimisation does not stand.

    Raises:
        DataError: For sampling from another distribution than the one whose log-probabilities are used, for more than
            one process, and for a precision that scales the loss.
    """
    if sampling.temperature == 0 or sampling.top_p < 1 or sampling.top_k:
        hint = "Train at a temperature above 0, with top_p 1 and top_k 0: log-probabilities are those of all tokens."
        raise DataError(f"is {sampling}", "sampling", hint)
    if trainer.world_size > 1:
        raise DataError("policies are optimised by one process", "option trainer.devices", "Set it to 1.")
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        hint = "Take bf16-mixed or 32-true."
        raise DataError("scales the loss, so gradients would be clipped to nothing", "trainer.precision", hint)
