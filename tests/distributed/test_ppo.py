"""Policy optimisation on two processes: the numbers of one process that has all rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

DDP = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"process_group_backend": "gloo"}}
FSDP2 = {
    "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
    "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "process_group_backend": "gloo"},
}
SCALED = "lit_rlhf.rewards.ScaledReward"


def world(kind: str, size: int, **options) -> dict:
    return {"class_path": f"lit_rlhf.world.{kind}", "init_args": {"size": size, **options}}


def options(model: str, scorer: str, processes: int, strategy: dict | None = None, **module) -> dict:
    """A run of six prompts per iteration, in minibatches of four; the last iteration of an epoch has one prompt."""
    inner = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": scorer}}
    given = {
        "policy": model,
        "critic": scorer,
        "reward": {"class_path": SCALED, "init_args": {"inner": inner}},
        "judge": {"class_path": "lit_rlhf.rewards.GoldReward"},
        "sampling": {"max_new_tokens": 12},
        "settings": {"minibatch_size": 4 // processes, "epochs": 2},
        "optimizer": {"lr": 1e-3, "schedule": "constant", "warmup": 0.0},
    }
    trainer: dict[str, Any] = {"max_steps": 4, "log_every_n_steps": 1, "val_check_interval": 2}
    if strategy is not None:
        trainer |= {"devices": 2, "strategy": strategy}
    return {
        "model": {"class_path": "PPOModule", "init_args": given | module},
        "data": {
            "sources": world("WorldPrompts", 13),
            "val_sources": world("WorldPrompts", 5, split="val"),
            "batch_size": 6 // processes,
            "max_length": 80,
        },
        "trainer": {**trainer, "check_val_every_n_epoch": None},
        "checkpoint": {"every_n_train_steps": 2, "save_top_k": 1},
    }


def train(folder: str, given: dict, *words: str) -> dict:
    """Run ``fit``, and tell what came out of it."""
    from lit_rlhf.cli.stage import run_stage

    quiet = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    given = {**given, "trainer": {"default_root_dir": folder, **quiet, **given["trainer"]}}
    given["export"] = {"directory": f"{folder}/model"}
    path = Path(folder) / f"options-{given['trainer'].get('devices', 1)}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    module: Any = run_stage(["fit", "-c", str(_written(path, given)), *words]).model
    return {"generator": module.generator.get_state(), "examples": module.examples, "kl": module.kl_coefficient}


def _written(path: Path, given: dict) -> Path:
    partial = path.with_suffix(f".{id(given)}")
    partial.write_text(json.dumps(given))
    return partial.rename(path)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def assert_equal_runs(one: Path, two: Path) -> None:
    for ours, theirs in zip(lines(one), lines(two), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-5, rel=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-5, rtol=1e-4)


def test_two_processes_with_ddp(pair, tiny_model, tiny_reward_model, tmp_path):
    alone = train(str(tmp_path / "one"), options(tiny_model, tiny_reward_model, 1))
    both = pair.run(train, str(tmp_path / "two"), options(tiny_model, tiny_reward_model, 2, DDP))
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    assert all(torch.equal(each["generator"], alone["generator"]) for each in both)
