"""A run that was killed and resumed must equal one that never stopped: every number and weight, bit for bit."""

import json
import signal
import subprocess
import sys
import time

import pytest
from lightning import Callback

from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.data.errors import DataError
from lit_rlhf.policy import PPOModule, SFTModule
from lit_rlhf.rewards import ScalarRewardModule

MODULES = {"SFTModule": SFTModule, "ScalarRewardModule": ScalarRewardModule, "PPOModule": PPOModule}


def world(kind: str, size: int, **options) -> dict:
    return {"class_path": f"lit_rlhf.world.{kind}", "init_args": {"size": size, **options}}


@pytest.fixture(scope="module")
def options(write_model, tiny_reward_model, tmp_path_factory):
    """Options of a run of two epochs, four steps each; the trained models of SFT and reward model have dropout."""
    learner = {"model": write_model("gpt2"), "optimizer": {"lr": 1e-3}}
    scalar = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model}}
    ppo = {
        "policy": write_model("llama"),
        "critic": tiny_reward_model,
        "reward": scalar,
        "sampling": {"max_new_tokens": 6},
        "settings": {"minibatch_size": 4, "epochs": 2},
        "optimizer": {"lr": 1e-3, "schedule": "constant", "warmup": 0.0},
    }
    chosen = {
        "SFTModule": (learner, world("WorldDemonstrations", 32), world("WorldDemonstrations", 6, split="val")),
        "ScalarRewardModule": (learner, world("WorldPairs", 32), world("WorldPairs", 6, split="val")),
        "PPOModule": (ppo, world("WorldPrompts", 32), world("WorldPrompts", 6, split="val")),
    }

    def make(module: str, **checkpoint) -> dict:
        model, sources, val_sources = chosen[module]
        trainer = {"max_epochs": 2, "log_every_n_steps": 1, "gradient_clip_val": None if module == "PPOModule" else 1.0}
        return {
            "model": {"class_path": module, "init_args": model},
            "data": {"sources": sources, "val_sources": val_sources, "batch_size": 8, "max_length": 128},
            "trainer": trainer,
            "checkpoint": checkpoint,
        }

    return make


@pytest.fixture(scope="module")
def uninterrupted(lit, options, tmp_path_factory):
    """Metrics and weights of a whole run of each module."""
    finished: dict[str, tuple] = {}

    def outcome(module: str) -> tuple:
        if module not in finished:
            folder = tmp_path_factory.mktemp(module)
            finished[module] = result(folder, lit("fit", folder, options(module) | hand_over(folder)))
        return finished[module]

    return outcome


def hand_over(folder) -> dict:
    return {"export": {"directory": str(folder / "model")}}


def result(folder, cli) -> tuple:
    assert cli.trainer.global_step == 8
    return without_throughput((folder / "metrics.jsonl").read_text()), (
        folder / "model" / "model.safetensors"
    ).read_bytes()


EVERY_THREE, EVERY_FOUR = {"every_n_train_steps": 3}, {"every_n_train_steps": 4}
EVERY_EPOCH = {"every_n_train_steps": 0, "every_n_epochs": 1, "save_top_k": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "checkpoint", "death"),
    [
        ("SFTModule", EVERY_THREE, 5),  # resumed in the middle of the first epoch
        ("ScalarRewardModule", EVERY_THREE, 5),
        ("PPOModule", EVERY_THREE, 5),
        ("ScalarRewardModule", EVERY_THREE, 7),  # in the middle of the second
        ("SFTModule", EVERY_FOUR, 6),  # between the two
        ("PPOModule", EVERY_FOUR, 6),
        ("SFTModule", EVERY_EPOCH, 6),
    ],
)
def test_killed_and_resumed(lit, options, uninterrupted, dies_at, monkeypatch, tmp_path, module, checkpoint, death):
    given = options(module, **checkpoint) | hand_over(tmp_path)
    dies_at(MODULES[module], death)
    with pytest.raises(RuntimeError, match="went down"):
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    assert not (tmp_path / "model").exists()
    assert resumed(lit, tmp_path, given) == uninterrupted(module)


def resumed(lit, folder, given) -> tuple:
    return result(folder, lit("fit", folder, given, "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["SFTModule", "PPOModule"])
def test_killed_while_validating(lit, options, uninterrupted, monkeypatch, tmp_path, module):
    """The checkpoint of the step that is being validated must not be there yet, or the figures would be lost."""
    given = options(module, every_n_train_steps=2) | hand_over(tmp_path)

    def dies(self, batch, batch_idx):
        raise RuntimeError("the machine went down")

    monkeypatch.setattr(MODULES[module], "validation_step", dies)
    with pytest.raises(RuntimeError, match="went down"):
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    assert resumed(lit, tmp_path, given) == uninterrupted(module)


@pytest.mark.slow
def test_killed_between_the_last_step_and_the_hand_over(lit, options, uninterrupted, monkeypatch, tmp_path):
    module = "ScalarRewardModule"
    given = options(module) | hand_over(tmp_path)

    def dies(self, directory):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(MODULES[module], "export", dies)
    with pytest.raises(RuntimeError, match="disk is full"):
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    assert resumed(lit, tmp_path, given) == uninterrupted(module)
    calibration = json.loads((tmp_path / "model" / "config.json").read_text())["calibration"]
    assert calibration["std"] > 0
    assert calibration["n"] == 12


@pytest.mark.parametrize("module", ["SFTModule", "PPOModule"])
def test_a_finished_run_can_be_prolonged(lit, options, tmp_path, module):
    """Resumed exactly between two epochs, a run goes on; it neither stops at once nor repeats an epoch."""
    given = options(module)
    given["trainer"]["max_epochs"] = 1
    assert lit("fit", tmp_path, given).trainer.global_step == 4
    given["trainer"]["max_epochs"] = 2
    trainer = lit("fit", tmp_path, given, "--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt")).trainer
    assert (trainer.global_step, trainer.current_epoch) == (8, 2)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]  # with validation behind each epoch


LIMITS = {
    "in the middle of an epoch": {"max_steps": 3},
    "with the epoch": {"max_epochs": 1},
    "with the epoch, by steps": {"max_steps": 4},
    "in the second epoch": {"max_steps": 6},
}


@pytest.fixture(scope="module")
def constant(lit, options, tmp_path_factory):
    """Options without a schedule that depends on the number of steps, and the outcome of a whole run with them."""
    finished: dict[str, tuple] = {}

    def outcome(module: str) -> tuple:
        given = options(module)
        given["model"] = json.loads(json.dumps(given["model"]))
        given["model"]["init_args"]["optimizer"] = {"lr": 1e-3, "schedule": "constant", "warmup": 0.0}
        if module not in finished:
            folder = tmp_path_factory.mktemp(module)
            finished[module] = result(folder, lit("fit", folder, given | hand_over(folder)))
        return given, finished[module]

    return outcome


@pytest.mark.parametrize("module", ["SFTModule", "ScalarRewardModule", "PPOModule"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_run_that_ended_and_goes_on_is_the_run_that_never_ended(lit, constant, tmp_path, module, limit):
    given, whole = constant(module)
    ended = given | {"trainer": {**given["trainer"], **LIMITS[limit]}}
    lit("fit", tmp_path, ended)
    assert resumed(lit, tmp_path, given | hand_over(tmp_path)) == whole


@pytest.mark.parametrize("variant", ["gradients are added up", "rows are streamed", "time is over"])
def test_a_run_that_ended_goes_on_exactly_however_it_is_trained(lit, constant, tmp_path, variant):
    given = json.loads(json.dumps(constant("ScalarRewardModule")[0]))
    limit: dict = {"max_steps": 3}
    if variant == "gradients are added up":
        given["trainer"]["accumulate_grad_batches"], limit = 2, {"max_steps": 1}
    if variant == "rows are streamed":
        file = tmp_path / "pairs.jsonl"
        rows = [{"prompt": f"Why {i}?", "chosen": "Because " * (i % 5 + 1), "rejected": "No."} for i in range(32)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given["data"] |= {"sources": str(file), "streaming": {"window": 32}}
    if variant == "time is over":
        stops = {"class_path": "tests.cli.test_resume.StopsAfter", "init_args": {"steps": 3}}
        limit = {"callbacks": [stops]}

    def run(folder, *words, **trainer) -> list:
        cli = lit("fit", folder, given | {"trainer": {**given["trainer"], **trainer}} | hand_over(folder), *words)
        history = without_throughput((folder / "metrics.jsonl").read_text())
        return [cli.trainer.global_step, (folder / "model" / "model.safetensors").read_bytes(), history]

    whole = run(tmp_path / "whole")
    ended = run(tmp_path / "parts", **limit)
    assert 0 < ended[0] < whole[0]
    parts = run(tmp_path / "parts", "--ckpt_path", str(tmp_path / "parts" / "checkpoints" / "last.ckpt"))
    assert parts[:2] == whole[:2]
    assert [row for row in parts[2] if "train/loss" in row] == [row for row in whole[2] if "train/loss" in row]


class StopsAfter(Callback):
    """Tells the Trainer to stop, as a limit of time does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer, *rest) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def test_a_schedule_that_spans_other_steps_than_before_is_said(lit, options, tmp_path, caplog):
    given = options("SFTModule")
    lit("fit", tmp_path, given | {"trainer": {**given["trainer"], "max_steps": 3}})
    with caplog.at_level("INFO"):
        lit("fit", tmp_path, given, "--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt"))
    assert "made for 3 steps, now it spans 8" in caplog.text


def test_resuming_on_other_data_is_refused(lit, options, tmp_path):
    given = options("SFTModule")
    given["trainer"]["max_epochs"] = 1
    lit("fit", tmp_path, given)
    given["data"]["sources"]["init_args"]["seed"] = 1
    with pytest.raises(DataError, match="other data"):
        lit("fit", tmp_path, given, "--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt"))


@pytest.mark.slow
def test_sigkill(lit, options, uninterrupted, tmp_path):
    """A process that is really killed, wherever it happens to be."""
    given = options("PPOModule", every_n_train_steps=1) | hand_over(tmp_path)
    given["trainer"] |= {"default_root_dir": str(tmp_path), "logger": False, "accelerator": "cpu"}
    config = tmp_path / "options.yaml"
    config.write_text(json.dumps(given))
    words = [sys.executable, "-c", "from lit_rlhf.cli import main; main()", "fit", "-c", str(config)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    assert resumed(lit, tmp_path, given) == uninterrupted("PPOModule")
