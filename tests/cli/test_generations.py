"""The responses that a run writes down for people, whenever and however it ends."""

import json
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import WandbLogger

from lit_rlhf.cli.generations import Generations
from lit_rlhf.policy import PPOModule


def fake_trainer(folder, step: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        default_root_dir=str(folder), global_step=step, is_global_zero=True, sanity_checking=False, loggers=[]
    )


def examples(step: int) -> list[dict]:
    return [{"prompt": "Why?", "response": f"Because {step}.", "proxy_reward": step, "baseline_mean": None}] * 2


def generate(folder, first: int, last: int) -> list[dict]:
    callback = Generations(every_n_steps=3)
    callback.on_train_start(fake_trainer(folder, first - 1), None)  # type: ignore[arg-type]
    for step in range(first, last + 1):
        callback.on_train_batch_end(fake_trainer(folder, step), None, {"examples": examples(step)})  # type: ignore[arg-type]
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


def test_generations_come_at_the_first_and_then_every_nth_iteration(tmp_path):
    rows = generate(tmp_path, 1, 8)
    assert [row["step"] for row in rows] == [1, 1, 4, 4, 7, 7]
    assert rows[2] == {"step": 4, **examples(4)[0]}


def test_generations_of_a_resumed_run_stand_there_once(tmp_path):
    whole = generate(tmp_path / "whole", 1, 8)
    generate(tmp_path / "killed", 1, 7)
    assert generate(tmp_path / "killed", 6, 8) == whole
    assert generate(tmp_path / "killed", 1, 1) == whole[:2]  # a new run does not keep another run's


def logged_to_wandb(folder, rows: list[dict]) -> list[dict]:
    """What one iteration's examples send to W&B."""
    logged: list[dict] = []
    experiment = SimpleNamespace(log=lambda values, commit: logged.append(values))
    trainer = fake_trainer(folder, 1)
    trainer.loggers = [object.__new__(type("Logger", (WandbLogger,), {"experiment": experiment}))]
    Generations().on_train_batch_end(trainer, None, {"examples": rows})  # type: ignore[arg-type]
    return logged


def test_what_is_known_of_every_token_is_a_list_in_the_file_and_a_picture_elsewhere(tmp_path):
    tokens = {"tokens": ["Be", "cause", ""], "token_rewards": [0.0, -2.0, 1.0], "token_advantages": [0.5, 0.0, 4.0]}
    rows = [example | tokens for example in examples(1)]
    (values,) = logged_to_wandb(tmp_path, rows)
    written = [json.loads(line) for line in (tmp_path / "generations.jsonl").read_text().splitlines()]
    assert written == [{"step": 1, **row} for row in rows]
    assert values["generations"].columns == ["step", "prompt", "response", "proxy_reward", "baseline_mean"]
    assert len(values["generations"].data) == 2
    rewards, advantages = (values[f"generations/{name}"].html for name in ("token_rewards", "token_advantages"))
    assert rewards.count('title="-2"') == advantages.count('title="+4"') == 2
    assert "token rewards, iteration 1" in rewards


def test_the_last_heatmaps_lie_in_the_runs_folder(tmp_path):
    tokens = {"tokens": ["Be", "cause", ""], "token_rewards": [0.0, -2.0, 1.0], "token_advantages": [0.5, 0.0, 4.0]}
    callback = Generations(every_n_steps=1)
    for step in (1, 2):
        rows = [example | tokens for example in examples(step)]
        callback.on_train_batch_end(fake_trainer(tmp_path, step), None, {"examples": rows})  # type: ignore[arg-type]
    callback.on_train_end(fake_trainer(tmp_path, 2), None)  # type: ignore[arg-type]
    assert "token advantages, iteration 2" in (tmp_path / "token_advantages.html").read_text()
    assert (tmp_path / "token_rewards.png").read_bytes().startswith(b"\x89PNG")


def test_examples_without_tokens_bring_no_heatmaps(tmp_path):
    (values,) = logged_to_wandb(tmp_path, examples(1))
    assert list(values) == ["generations"]
    callback = Generations()
    callback.on_train_batch_end(fake_trainer(tmp_path, 1), None, {"examples": examples(1)})  # type: ignore[arg-type]
    callback.on_train_end(fake_trainer(tmp_path, 1), None)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("token_*"))


def test_modules_without_examples_write_no_generations(tmp_path):
    Generations().on_train_batch_end(fake_trainer(tmp_path, 1), None, {"loss": 1.0})  # type: ignore[arg-type]
    assert not (tmp_path / "generations.jsonl").exists()


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


def steps(folder) -> list[int]:
    return sorted({row["step"] for row in rows(folder)})


def finish(folder, first: int, last: int) -> None:
    """Iterations to the end of training."""
    callback = Generations(every_n_steps=3)
    callback.on_train_start(fake_trainer(folder, first - 1), None)  # type: ignore[arg-type]
    for step in range(first, last + 1):
        callback.on_train_batch_end(fake_trainer(folder, step), None, {"examples": examples(step)})  # type: ignore[arg-type]
    callback.on_train_end(fake_trainer(folder, last), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("last", "expected"), [(1, [1]), (2, [1, 2]), (4, [1, 4]), (6, [1, 4, 6])])
def test_the_last_iteration_is_always_there_and_once(tmp_path, last, expected):
    finish(tmp_path, 1, last)
    assert [row["step"] for row in rows(tmp_path)] == [step for step in expected for _ in range(2)]


@pytest.mark.parametrize("stopped_at", [1, 2, 4, 5])
def test_a_run_that_is_prolonged_has_the_rows_of_one_that_never_stopped(tmp_path, stopped_at):
    finish(tmp_path / "whole", 1, 8)
    finish(tmp_path / "parts", 1, stopped_at)
    finish(tmp_path / "parts", stopped_at + 1, 8)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_finished_run_that_is_started_again_keeps_its_last_iteration(tmp_path):
    finish(tmp_path, 1, 8)
    before = rows(tmp_path)
    finish(tmp_path, 9, 8)  # nothing is left to do
    assert rows(tmp_path) == before


@pytest.fixture
def ppo(tiny_model) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    model = {"policy": tiny_model, "sampling": {"max_new_tokens": 4}, "reward": {"class_path": "GoldReward"}}
    return {
        "model": {"class_path": "PPOModule", "init_args": model},
        "data": {"sources": source, "batch_size": 4, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"max_steps": 3, "max_epochs": -1},
    }


def pages(folder) -> str:
    return (folder / "token_rewards.html").read_text()


@pytest.mark.parametrize("last", [1, 3])
def test_short_runs_show_their_last_iteration(lit, ppo, tmp_path, last):
    lit("fit", tmp_path, ppo, "--trainer.max_steps", str(last))
    assert steps(tmp_path) == sorted({1, last})
    assert f"token rewards, iteration {last}" in pages(tmp_path)
    row = rows(tmp_path)[-1]
    assert isinstance(row["truncated"], bool)
    assert "".join(row["tokens"]) == row["response"]
    assert row["truncated"] != row["special"][-1], "one that was not cut off ends with a special token"


@pytest.mark.parametrize("ends_by", ["early stopping", "time"])
def test_a_run_that_stops_early_shows_its_last_iteration(lit, ppo, tmp_path, ends_by):
    stopping = {"monitor": "train/reward", "stopping_threshold": -1e9, "check_on_train_epoch_end": True, "mode": "max"}
    if ends_by == "time":
        ppo["trainer"] |= {"max_steps": -1, "max_time": {"seconds": 1}}
    else:
        ppo["trainer"]["max_steps"] = 50
        ppo["trainer"]["callbacks"] = [{"class_path": "EarlyStopping", "init_args": stopping}]
    last = lit("fit", tmp_path, ppo, "--generations.every_n_steps", "1000").trainer.global_step
    assert 1 < last < 50 or ends_by == "time"
    assert steps(tmp_path) == [1, last]
    assert f"token rewards, iteration {last}" in pages(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_stopped_shows_its_last_iteration_and_goes_on_without_gap(lit, ppo, tmp_path, monkeypatch, error):
    lit("fit", tmp_path / "whole", ppo)

    def stop(self, batch, batch_idx):
        if self.trainer.global_step == 2:
            raise error

    monkeypatch.setattr(PPOModule, "on_train_batch_start", stop)
    words = ("--checkpoint.every_n_train_steps", "1")
    with pytest.raises(error):
        lit("fit", tmp_path / "parts", ppo, *words)
    monkeypatch.undo()
    assert steps(tmp_path / "parts") == [1, 2]
    assert (tmp_path / "parts" / "token_rewards.html").exists() == (error is KeyboardInterrupt)
    lit("fit", tmp_path / "parts", ppo, *words, "--ckpt_path", "last")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert "iteration 3" in pages(tmp_path / "parts")
