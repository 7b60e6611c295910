"""The model card: what an exported directory holds, how it came to be, and how it is loaded."""

import inspect
import json
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule, Trainer

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import replace_directory

Facts = dict[str, Any]
"""What is known of a training, as plain values: `facts` tells which."""

_TRAINER = (
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "max_epochs", "max_steps"),
    *("gradient_clip_val", "accumulate_grad_batches"),
)
_SOURCES = ("sources", "val_sources")
_VERSIONS = ("lit-rlhf", "torch", "transformers", "lightning")
_LOADING = {
    "reward model": """\
from lit_rlhf.rewards import RewardModel

model = RewardModel.load("{name}")
model.score(["What is the capital of France?"], ["Paris."])  # one number per response
```

or with transformers alone; both give the same score:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
question = {{"role": "user", "content": "What is the capital of France?"}}
answer = {{"role": "assistant", "content": "Paris."}}
ids = tokenizer.apply_chat_template([question, answer], return_tensors="pt", return_dict=False)
score = float(model(ids).logits[0, 0])""",
    "policy": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
question = [{{"role": "user", "content": "What is the capital of France?"}}]
ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)""",
    "rewriter": """\
from lit_rlhf.rewards import Seq2SeqReward

reward = Seq2SeqReward("{name}")  # in a config: class_path Seq2SeqReward, init_args.model""",
}


def facts(trainer: Trainer, options: dict[str, Any]) -> Facts:
    """What a card tells of a training, as it stands now.

    Args:
        trainer: The one that trains.
        options: The run's options, as plain values.

    Returns:
        ``model``, ``data`` and ``trainer``: options; ``counts`` of the rows; ``step``; ``metrics`` as they were logged
        last; ``date`` and ``versions``.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    kept = {name: options.get("trainer", {}).get(name) for name in _TRAINER}
    metrics = trainer.callback_metrics.items()
    return {
        **{name: options[name] for name in ("model", "data") if name in options},
        "trainer": {name: value for name, value in kept.items() if value is not None},
        "counts": {part: str(counts) for part, counts in getattr(datamodule, "counts", {}).items()},
        "step": trainer.global_step,
        "metrics": {name: float(value) for name, value in metrics if name.startswith(("train/", "val/"))},
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
    }


def export_with_card(module: LightningModule, directory: Path, known: Facts) -> Path:
    """Let a module write its Hugging Face directory, and put the card into it; both appear together.

    Args:
        module: Has ``export``. Where it is split over processes, all of them call this.
        directory: Where to.
        known: Facts for the card.
    """
    unnamed = directory.with_name(f".{directory.name}.new")
    module.export(unnamed)  # type: ignore[operator]
    if module.global_rank == 0:
        text = model_card(unnamed, directory.name, type(module), known)
        (unnamed / "README.md").write_text(text, "utf-8")
        replace_directory(unnamed, directory)
    return directory


def check_place(directory: Path, *needed: Path) -> None:
    """Refuse to export to where something else than a model would be lost: an export replaces the whole directory.

    Args:
        directory: Where to.
        needed: Folders that must stay.

    Raises:
        DataError: If one of these lies in the directory, or the directory holds files and no model.
    """
    hint = "Name a directory of its own, such as one called `model` in the run's folder."
    for folder in needed:
        if folder.resolve().is_relative_to(directory.resolve()):
            raise DataError(f"an export would replace {folder}", f"export to {directory}", hint)
    if directory.exists() and not (directory.is_dir() and ((directory / "config.json").exists() or _empty(directory))):
        raise DataError("holds something else than a model, which would be lost", f"export to {directory}", hint)


def _empty(directory: Path) -> bool:
    return next(directory.iterdir(), None) is None


def model_card(directory: Path, name: str, module: type, known: Facts) -> str:
    """The text of a card, in Markdown, with a head that the Hugging Face Hub understands.

    Args:
        directory: What was exported.
        name: What the card calls the model.
        module: The module that trained it; the first line of its docstring says what the model is.
        known: Facts of the training; those that are missing are left out.
    """
    config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    kind = _kind(config)
    base = _base(known)
    parts = [
        _head(kind, base),
        f"# {name}\n\n{_purpose(module)}\n\nA {kind}, trained by `{module.__name__}` of "
        f"lit-rlhf{f' from `{base}`' if base else ''}.",
        f"## How to load it\n\n```python\n{_LOADING[kind].format(name=name)}\n```",
        _data(known),
        _metrics(known, config.get("calibration")),
        _options(known),
        "## Licence\n\nNot stated yet: whoever passes the model on says so here and in the head of this file. The base "
        "model and the data have terms of their own.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _kind(config: dict[str, Any]) -> str:
    architecture = (config.get("architectures") or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "reward model"
    return "rewriter" if "rewriting" in config else "policy"


def _base(known: Facts) -> str | None:
    options = known.get("model", {}).get("init_args", {})
    return options.get("model") or options.get("policy")


def _head(kind: str, base: str | None) -> str:
    task = {"reward model": "text-classification", "policy": "text-generation"}.get(kind)
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task, "tags": ["lit-rlhf", "rlhf"]}
    if base is not None and not Path(base).exists() and not base.startswith((".", "/", "~")):
        head["base_model"] = base  # on the Hub
    listed = yaml.safe_dump({name: value for name, value in head.items() if value}, sort_keys=False)
    return f"---\n{listed}# license:   yours to fill in\n---"


def _purpose(module: type) -> str:
    return (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def _data(known: Facts) -> str:
    data = known.get("data")
    if not data:
        return ""
    counts = "\n".join(f"- {part}: {text}" for part, text in known.get("counts", {}).items())
    sources = {name: data[name] for name in _SOURCES if data.get(name)}
    return f"## Data\n\n{_yaml(sources)}" + (f"\n\n{counts}" if counts else "")


def _metrics(known: Facts, calibration: dict[str, Any] | None) -> str:
    metrics = known.get("metrics", {})
    if not metrics and not calibration:
        return ""
    rows = "".join(f"\n| {name} | {value:.4g} |" for name, value in sorted(metrics.items()))
    when = f"As they were logged last, by step {known.get('step')}, on {known.get('date')}.\n\n" if metrics else ""
    table = f"{when}| metric | value |\n|---|---|{rows}" if metrics else ""
    scores = ""
    if calibration:
        scores = "Scores on the responses of the validation pairs: mean {mean:.4g}, standard deviation {std:.4g}, "
        scores = (scores + "n = {n}.").format(**calibration)
    return "\n\n".join(filter(None, ["## Metrics", table, scores]))


def _options(known: Facts) -> str:
    options = {name: dict(known[name]) for name in ("model", "data", "trainer") if known.get(name)}
    for name in _SOURCES:
        options.get("data", {}).pop(name, None)  # told above
    if not options:
        return ""
    versions = ", ".join(f"{name} {number}" for name, number in known.get("versions", {}).items())
    told = f"Written with {versions}. Paths are those of the machine that it was trained on.\n\n"
    return f"## Training options\n\n{told}{_yaml(options)}"


def _yaml(values: dict[str, Any]) -> str:
    return f"```yaml\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}```"
