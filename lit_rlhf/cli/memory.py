"""``lit-rlhf plan``: whether a stage fits on the GPUs that one means to rent, and what would make it fit."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import write_json
from lit_rlhf.evaluation.activations import Shape
from lit_rlhf.evaluation.memory_plan import (
    GIB,
    Moment,
    Precision,
    Stage,
    Work,
    alternatives,
    moments,
    peak,
    usable,
)

STAGES: dict[str, Stage] = {
    "SFTModule": "sft",
    "ScalarRewardModule": "reward",
    "Seq2SeqRewardModule": "seq2seq",
    "PPOModule": "ppo",
    "BaselineModule": "baselines",
}
MOST_GPUS = 4096


def plan(
    model: str | None = None,
    stage: Stage | None = None,
    gpus: int | None = None,
    gpu_memory: float = 80.0,
    precision: Precision | None = None,
    sharding: Literal["none", "fsdp"] | None = None,
    lora: int | None = None,
    checkpointing: bool | None = None,
    batch_size: int | None = None,
    prompt: int | None = None,
    response: int | None = None,
    k: int | None = None,
    minibatch: int | None = None,
    configs: list[str] | None = None,
    report: str | None = None,
) -> dict[str, Any]:
    """Memory per GPU of a stage by part, whether it fits, and which of LoRA, checkpointing and sharding makes it fit.

    Nothing is loaded but the model's configuration. All rows are taken to have the lengths that are given, so give the
    longest. The command ends with status 0 if the stage fits, and 1 if it does not.

    Args:
        model: Hub id, Hugging Face directory or ``config.json`` of a decoder.
        stage: What is run; ``ppo`` with ``lora`` is policy, reference, critic and reward model on one trunk.
        gpus: Over all nodes; 0 plans a CPU.
        gpu_memory: GiB of each. 1 GiB and 5 % are left to CUDA and to gaps between tensors.
        precision: The Trainer's, ``bf16-mixed`` unless told otherwise.
        sharding: ``fsdp`` splits every network over all GPUs; ``none`` is one copy on each.
        lora: Rank of adapters on all linear layers.
        checkpointing: Compute layers again on the way back instead of keeping what they need.
        batch_size: Rows per step and process: pairs, demonstrations or prompts.
        prompt: Tokens of a prompt.
        response: Tokens of a response.
        k: Responses per prompt, of ``ppo`` and ``baselines``.
        minibatch: Responses computed at a time in an update of ``ppo``.
        configs: Files of a stage, as ``lit-rlhf fit -c`` takes them; they say what the options leave open.
        report: JSON file to write.

    Returns:
        ``fits``, ``parameters``, the settled options as ``work``, ``peak`` with its parts in GiB, the other ``moments``
        and the ``alternatives`` with their totals.

    Raises:
        DataError: If the model cannot be planned, or an option is missing or out of range.
    """
    names = [field.name for field in fields(Work)]
    given = {name: value for name, value in locals().items() if name in (*names, "model") and value is not None}
    settled = {**_configured(configs or []), **given}
    for name in ("model", "stage"):
        if name not in settled:
            raise DataError("is missing", f"option {name}", "Give it, or the configs of a stage.")
    shape = Shape.load(settled.pop("model"))
    work = Work(**settled)
    room = usable(gpu_memory, work.gpus)
    worst, others = peak(shape, work), alternatives(work)
    fits = worst.total <= room
    found: dict[str, Any] = {
        "fits": fits,
        "parameters": shape.parameters,
        "usable": room / GIB,
        "work": asdict(work),
        "peak": _gibibytes(worst),
        "moments": {each.name: each.total / GIB for each in moments(shape, work)},
        "alternatives": [_alternative(shape, each, room) for each in others],
        "fewest_gpus": None if fits else _fewest_gpus(shape, [work, *others], gpu_memory),
    }
    _show(found, work)
    if report is not None:
        Path(report).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(report), found)
    return found


def _gibibytes(moment: Moment) -> dict[str, Any]:
    parts = {name: size / GIB for name, size in moment.parts.items() if size}
    return {"moment": moment.name, "parts": parts, "total": moment.total / GIB}


def _alternative(shape: Shape, work: Work, room: float) -> dict[str, Any]:
    total = peak(shape, work).total
    settings = {"lora": work.lora, "checkpointing": work.checkpointing, "sharding": work.sharding}
    return {**settings, "total": total / GIB, "fits": total <= room}


def _fewest_gpus(shape: Shape, works: list[Work], gpu_memory: float) -> dict[str, Any] | None:
    """The fewest GPUs, doubled again and again, on which some setting fits with all networks split."""
    gpus = 2 * max(1, works[0].gpus)
    while gpus <= MOST_GPUS:
        for work in works:
            more = replace(work, gpus=gpus, sharding="fsdp")
            found = _alternative(shape, more, usable(gpu_memory, gpus))
            if found["fits"]:
                return {"gpus": gpus, **found}
        gpus *= 2
    return None


# ---------------------------------------------------------------------- what a stage's configs say


def _configured(files: list[str]) -> dict[str, Any]:
    """Options that the configs of a stage settle, merged from left to right."""
    merged: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"cannot be read: {error}", file, "Give a YAML file of a stage.") from None
        _merge(merged, content if isinstance(content, dict) else {})
    if not files:
        return {}
    model, data, trainer = (merged.get(name) or {} for name in ("model", "data", "trainer"))
    kind = str(model.get("class_path", "")).rpartition(".")[2]
    if kind and kind not in STAGES:
        raise DataError(f"{kind} cannot be planned", ", ".join(files), f"Known are {', '.join(STAGES)}.")
    init = model.get("init_args") or {}
    settings = init.get("settings") or {}
    found = {
        "stage": STAGES.get(kind),
        "model": init.get("model", init.get("policy")),
        "lora": ({"r": 8} | init["lora"])["r"] if init.get("lora") is not None else None,
        "k": init.get("k", 5 if kind == "BaselineModule" else _samples(init)),
        "minibatch": settings.get("micro_batch_size") or settings.get("minibatch_size"),
        "batch_size": data.get("val_batch_size", 2 * data.get("batch_size", 32)) if kind == "BaselineModule" else None,
        **_lengths(kind, data.get("max_length", 512), (init.get("sampling") or {}).get("max_new_tokens", 64)),
        **_machine(trainer),
    }
    if found["stage"] in ("ppo", "baselines"):
        found["checkpointing"] = None
    found["batch_size"] = found["batch_size"] or data.get("batch_size")
    if init.get("micro_batch_size") is not None:  # the memory of a step is that of a part of it
        found["batch_size"] = min(init["micro_batch_size"], found["batch_size"] or init["micro_batch_size"])
    return {name: value for name, value in found.items() if value is not None}


def _samples(init: dict[str, Any]) -> int | None:
    advantages = init.get("advantages")
    return (advantages.get("init_args") or {}).get("samples") if isinstance(advantages, dict) else None


def _lengths(kind: str, longest: int, new: int) -> dict[str, int]:
    """Prompts may fill ``max_length`` where responses are sampled; else both are taken to have half of it."""
    if STAGES.get(kind) in ("ppo", "baselines"):
        return {"prompt": longest, "response": new}
    return {"prompt": longest - longest // 2, "response": longest // 2}


def _machine(trainer: dict[str, Any]) -> dict[str, Any]:
    """Precision, number of GPUs and sharding that a Trainer's options mean."""
    strategy = trainer.get("strategy") or "auto"
    name = strategy.get("class_path", "") if isinstance(strategy, dict) else str(strategy)
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    count = len(devices) if isinstance(devices, list) else int(str(devices)) if str(devices).isdecimal() else None
    callbacks = [each.get("class_path", "") for each in trainer.get("callbacks") or [] if isinstance(each, dict)]
    again = any(each.endswith("LayerCheckpointing") for each in callbacks)
    sharded = "fsdp" in name.lower() or name.endswith("ModelParallelStrategy")
    return {
        "precision": trainer.get("precision"),
        "gpus": 0 if trainer.get("accelerator") == "cpu" else count * nodes if count else None,
        "sharding": "fsdp" if sharded else None,
        "checkpointing": again or None,
    }


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


# ---------------------------------------------------------------------- the screen


def _show(found: dict[str, Any], work: Work) -> None:
    from rich.console import Console
    from rich.table import Table

    console, worst = Console(), found["peak"]
    where = "a CPU" if work.gpus == 0 else f"{work.gpus} GPU{'s' * (work.gpus > 1)}"
    title = f"{work.stage}, {found['parameters'] / 1e9:,.2f}B parameters, {where}, {_settings(asdict(work))}"
    console.print(title, style="bold", highlight=False)
    table = Table()
    table.add_column(f"at the {worst['moment']}")
    table.add_column("GiB per GPU" if work.gpus else "GiB", justify="right")
    for name, size in worst["parts"].items():
        table.add_row(name, f"{size:,.2f}")
    table.add_section()
    table.add_row("all", f"{worst['total']:,.2f}")
    table.add_row("can be used", f"{found['usable']:,.2f}")
    console.print(table)
    console.print("It fits." if found["fits"] else "It does not fit.", style="bold")
    if found["alternatives"]:
        other = Table(title="other settings")
        for column in ("settings", "GiB", "fits"):
            other.add_column(column, justify="left" if column == "settings" else "right")
        for each in found["alternatives"]:
            other.add_row(_settings(each), f"{each['total']:,.2f}", "yes" if each["fits"] else "no")
        console.print(other)
    if not found["fits"] and not any(each["fits"] for each in found["alternatives"]):
        fewest = found["fewest_gpus"]
        hint = f"From {fewest['gpus']} GPUs on: {_settings(fewest)}." if fewest else "More GPUs alone do not help."
        console.print(f"{hint} A smaller batch, or shorter rows, may do as well.", highlight=False)


def _settings(values: dict[str, Any]) -> str:
    """What saves memory, in words."""
    rank = f"LoRA {values['lora']}" if values["lora"] else "all weights"
    more = ["checkpointing"] if values["checkpointing"] else []
    return ", ".join([rank, *more, *([values["sharding"].upper()] if values["sharding"] != "none" else [])])
