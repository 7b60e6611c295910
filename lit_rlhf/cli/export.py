"""``lit-rlhf export``: from a checkpoint, a file or a folder, to a Hugging Face directory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf import policy, rewards  # noqa: F401  # pyright: ignore[reportUnusedImport]  makes classes known by name
from lit_rlhf.cli.card import check_place, export_with_card
from lit_rlhf.cli.shards import check_bytes, read_checkpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer

_NOT_EXPORTED: dict[str, Any] = {
    "reward": {"class_path": "lit_rlhf.rewards.GoldReward"},  # one that loads nothing
    "advantages": {"class_path": "lit_rlhf.policy.advantages.NoBaseline"},  # needs no critic
    **dict.fromkeys(("critic", "judge", "settings", "demonstrations")),
}
"""Options of policy optimisation that its policy does not depend on, and what stands there while it is exported."""


def export(
    checkpoint: str, directory: str, model: str | None = None, tokenizer: str | None = None, own_code: bool = False
) -> Path:
    """Write the network of a checkpoint as a Hugging Face directory: weights, tokenizer, template, calibration, card.

    Checkpoints of all modules will do, of any strategy and number of processes, full or in parts (a folder). Adapters
    are added to the weights that they were trained on. It needs the memory of the model in fp32, twice for a policy.

    Args:
        checkpoint: File or folder, such as ``runs/latest/checkpoints/last.ckpt``.
        directory: Where to; a model that is there is replaced, and anything else refused.
        model: Where the model is that training started from, if it has moved.
        tokenizer: Directory or Hub id of the tokenizer; None takes the one that was trained with.
        own_code: Whether classes of one's own, which the checkpoint names, may be imported and called. Only for
            checkpoints from people whom you trust.

    Returns:
        The directory.

    Raises:
        DataError: If the checkpoint cannot be read, names no module that can be exported, or lacks trained weights; if
            the directory holds something else than a model, or the checkpoint.
    """
    check_place(Path(directory), Path(checkpoint))
    content = read_checkpoint(checkpoint)
    check_bytes(checkpoint)
    options = _module_options(content, checkpoint, model)
    if not own_code:
        _refuse_other_code(options, checkpoint)
    module = _instantiated(options)
    if not callable(getattr(module, "export", None)):
        raise DataError(f"{type(module).__name__} trains nothing that could be exported", f"checkpoint {checkpoint}")
    run = content.get("run", {})
    data = run.get("data", {})
    renderer = Renderer.load(tokenizer or data.get("tokenizer") or module.tokenizer, data.get("template"))
    module.renderer = renderer
    module.configure_model()
    fill(module, content, checkpoint)
    target = export_with_card(module, Path(directory), run)
    rank_zero_info(f"model written to {target}: step {content.get('global_step')} of {checkpoint}")
    return target


def _module_options(content: dict[str, Any], checkpoint: str, model: str | None) -> dict[str, Any]:
    """Class and arguments of the module, as far as its export depends on them."""
    saved = content.get("callbacks", {}).get("SaveConfig", {}).get("model")
    if saved is None:
        hint = "It was not written by lit-rlhf: call export() of the module that you trained."
        raise DataError("does not say which module it belongs to", f"checkpoint {checkpoint}", hint)
    arguments = dict(saved.get("init_args") or {})
    if "policy" in arguments:
        arguments |= {name: value for name, value in _NOT_EXPORTED.items() if name in arguments}
    if model is not None:
        arguments["policy" if "policy" in arguments else "model"] = os.path.expanduser(model)
    return {"class_path": saved["class_path"], "init_args": arguments}


def _refuse_other_code(options: dict[str, Any], checkpoint: str) -> None:
    for name in _classes(options):
        if not name.startswith("lit_rlhf."):
            hint = "If you trust where it comes from: --own_code true."
            raise DataError(f"names {name}, which is none of this project's", f"checkpoint {checkpoint}", hint)


def _classes(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        for each in value.values():
            yield from _classes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _classes(each)


def _instantiated(options: dict[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    return parser.instantiate(parser.parse_object({"model": options})).model


def fill(module: LightningModule, content: dict[str, Any], checkpoint: str) -> None:
    """Put the trained weights and what was remembered of them into the module.

    Args:
        module: Has its networks already.
        content: Of the checkpoint, see `read_checkpoint`.
        checkpoint: Where it lies, for messages.

    Raises:
        DataError: If it does not fit, or lacks trained weights.
    """
    module.on_load_checkpoint(content)
    try:
        missing, _ = module.load_state_dict(content["state_dict"], strict=False)
    except RuntimeError as error:  # shapes
        lines = str(error).strip().splitlines()
        hint = "Name the model that training started from: --model."
        raise DataError(f"does not fit its model: {lines[-1].strip()}", f"checkpoint {checkpoint}", hint) from None
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    lacking = sorted(trained.intersection(missing))
    if lacking:
        raise DataError(f"lacks {len(lacking)} trained weights, such as {lacking[0]}", f"checkpoint {checkpoint}")
