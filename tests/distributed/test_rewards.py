"""SFT and reward modules on two processes: the numbers of one process whose batches are twice as large."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_rlhf.cli.throughput import without_throughput
from tests.distributed.strategies import STRATEGIES

LORA = {"r": 2, "alpha": 4.0}


def options(module: str, folder: Path, batch_size: int, **init) -> dict:
    kind = "policy" if module == "SFTModule" else "rewards"
    optimizer = {"lr": 1e-3, "warmup": 0.0, "schedule": "constant"}
    return {
        "model": {"class_path": f"lit_rlhf.{kind}.{module}", "init_args": {"optimizer": optimizer, **init}},
        "data": {
            "sources": [{"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 17, "seed": 1}}],
            "val_sources": [{"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 9, "seed": 2}}],
            "batch_size": batch_size,
            "val_batch_size": batch_size,
            "max_length": 256,
        },
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1, "gradient_clip_val": 0.5},
        "export": {"directory": str(folder / "export")},
    }


def fit(folder: Path, settings: dict, strategy: str | dict | None = None, devices: int = 2) -> list[dict]:
    """Run a stage in this process, alone or as one of two; returns the lines of its history."""
    from lit_rlhf.cli.stage import run_stage

    quiet = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    known = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    several = {} if strategy is None else {"devices": devices, "strategy": known}
    trainer = {**settings["trainer"], "default_root_dir": str(folder), **quiet, **several}
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "options.yaml" if strategy is None else folder / f"options-{os.getpid()}.yaml"
    config.write_text(json.dumps({**settings, "trainer": trainer}))
    run_stage(["fit", "-c", str(config)])
    return without_throughput((folder / "metrics.jsonl").read_text())


CASES = {
    "sft": ("SFTModule", {}),
    "sft_lora": ("SFTModule", {"lora": LORA}),
    "sft_few_at_a_time": ("SFTModule", {"micro_batch_size": 3}),
    "scalar": ("ScalarRewardModule", {}),
    "scalar_lora": ("ScalarRewardModule", {"lora": LORA}),
    "scalar_few_at_a_time": ("ScalarRewardModule", {"lora": LORA, "micro_batch_size": 3}),
    "simcse": ("ContrastiveRewardModule", {"dropout": 1e-9}),
    "swav": ("ContrastiveRewardModule", {"dropout": 1e-9, "objective": "swav", "contrast": "differences"}),
    "meta": ("MetaRewardModule", {"inner_lr": 0.01, "inner_step": "relative"}),
    "seq2seq": ("Seq2SeqRewardModule", {"examples": 1}),
}


@pytest.fixture(scope="session")
def alone(tiny_model, samples, tmp_path_factory):
    """History and exported weights of one process whose batches are twice as large, for each case."""
    known = {}

    def run(case: str) -> tuple[list[dict], dict, Path]:
        if case not in known:
            folder = tmp_path_factory.mktemp(case)
            known[case] = fit(folder, settings(case, folder, 8, tiny_model, samples)), weights(folder), folder
        return known[case]

    return run


def settings(case: str, folder: Path, batch_size: int, model: str, samples: str) -> dict:
    module, init = CASES[case]
    init = {"model": model, **init}
    given = options(module, folder, batch_size, **init)
    if case == "meta":
        given["model"]["init_args"] |= {"samples": samples, "inner_batch_size": batch_size // 4, "max_grad_norm": 0.5}
        del given["trainer"]["gradient_clip_val"]
    return given


def weights(folder: Path) -> dict:
    return load_file(folder / "export" / "model.safetensors")


RUNS = [
    *(("ddp", case) for case in ("sft", "scalar", "simcse", "meta", "seq2seq")),
    *(("ddp", case) for case in ("sft_lora", "sft_few_at_a_time", "scalar_few_at_a_time")),
    *(("fsdp", case) for case in ("sft", "sft_lora", "scalar_lora", "swav", "meta", "seq2seq")),
    *(("fsdp2", case) for case in ("sft", "sft_lora", "scalar_lora", "swav", "meta", "seq2seq")),
]


@pytest.mark.parametrize(("strategy", "case"), RUNS)
def test_two_processes_train_as_one_with_larger_batches(case, strategy, pair, alone, tiny_model, samples, tmp_path):
    """Seventeen rows in steps of eight, eight and one: in the last one a process is idle."""
    expected, trained, one = alone(case)
    lines, _ = pair.run(fit, tmp_path, settings(case, tmp_path, 4, tiny_model, samples), strategy)
    assert len(lines) == len(expected) == 4
    for ours, theirs in zip(lines, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    if "lora" in case:
        files = [Path(folder) / "export/adapters/adapter_model.safetensors" for folder in (tmp_path, one)]
        ours, theirs = map(load_file, files)
        assert [*map(torch.Tensor.size, ours.values())] == [*map(torch.Tensor.size, theirs.values())]
        assert all(torch.allclose(value, theirs[name], atol=2e-4) for name, value in ours.items())
    for name, weight in weights(tmp_path).items():
        difference = (weight - trained[name]).abs()  # AdamW makes much of the sign of gradients near zero
        assert difference.mean() < 1e-6
        assert difference.max() < 2e-4


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_layers_of_split_networks_are_computed_twice_with_the_same_numbers(
    strategy, pair, alone, tiny_model, samples, tmp_path
):
    given = settings("scalar", tmp_path, 4, tiny_model, samples)
    given["trainer"]["callbacks"] = [{"class_path": "lit_rlhf.networks.checkpointing.LayerCheckpointing"}]
    lines, _ = pair.run(fit, tmp_path, given, strategy)
    for ours, theirs in zip(lines, alone("scalar")[0], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_two_processes_train_in_bf16_much_as_one_in_fp32(strategy, pair, alone, tiny_model, samples, tmp_path):
    given = settings("scalar", tmp_path, 4, tiny_model, samples)
    given["trainer"]["precision"] = "bf16-mixed"
    ours, _ = pair.run(fit, tmp_path, given, strategy)
    losses = [line["train/loss"] for line in ours if "train/loss" in line]
    assert losses == pytest.approx(
        [line["train/loss"] for line in alone("scalar")[0] if "train/loss" in line], rel=0.05
    )
    assert {each.dtype for each in weights(tmp_path).values()} == {torch.float32}


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_rows_a_few_at_a_time_are_refused_where_networks_are_split(strategy, pair, tiny_model, samples, tmp_path):
    given = settings("sft_few_at_a_time", tmp_path, 4, tiny_model, samples)
    with pytest.raises(Exception, match=r"micro_batch_size.*split over processes"):
        pair.run(fit, tmp_path, given, strategy)
