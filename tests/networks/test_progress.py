"""What is seen of a run's progress where there is no terminal, and where there is one."""

import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from lit_rlhf.cli.commands import dispatch
from lit_rlhf.data import progress as lines
from lit_rlhf.networks.progress import ProgressLines, TerminalBar, progress_bar


def test_the_bar_counts_epochs_only_where_they_end_the_run():
    bar = TerminalBar()
    for most, expected in ((3, "Epoch 1/2"), (-1, "Epoch 1"), (None, "Epoch 1")):
        bar._trainer = SimpleNamespace(max_epochs=most, sanity_checking=False)  # type: ignore[assignment]
        assert bar._get_train_description(1).strip() == expected


@pytest.mark.parametrize(("terminal", "expected"), [(True, TerminalBar), (False, ProgressLines)])
def test_a_terminal_has_a_bar_and_a_file_has_lines(monkeypatch, terminal, expected):
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: terminal))
    assert type(progress_bar()) is expected


@pytest.fixture
def given(tiny_model, tmp_path) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    return {
        "data": {"sources": source, "batch_size": 4, "val_batch_size": 4, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path), "logger": False},
    }


def ran(command: str, folder, given: dict, capfd, caplog) -> str:
    """What a command writes to its two streams, and says."""
    caplog.clear()
    (folder / f"{command}.yaml").write_text(json.dumps(given))
    assert dispatch([command, "-c", str(folder / f"{command}.yaml")]) == 0
    said = [record.getMessage() for record in caplog.records]
    return "\n".join([*capfd.readouterr(), *said, ""])


def test_a_log_file_shows_what_matters(tiny_model, given, tmp_path, capfd, caplog, recwarn, monkeypatch):
    monkeypatch.setattr(lines, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    model = {"policy": tiny_model, "sampling": {"max_new_tokens": 4}, "reward": {"class_path": "GoldReward"}}
    baseline = {"class_path": "BaselineModule", "init_args": {**model, "store": str(tmp_path / "store")}}
    shown = ran("predict", tmp_path, given | {"model": baseline}, capfd, caplog)
    assert [line.split(",")[0] for line in shown.splitlines() if line.startswith("predict: ")] == [
        f"predict: batch {number}/3 ({share}%)" for number, share in ((1, 33), (2, 67), (3, 100))
    ]
    assert re.search(r"12 prompts x 5 responses in .*, [\d.,]+ responses/s", shown)
    given["trainer"]["max_steps"] = 2
    shown += ran("fit", tmp_path, given | {"model": {"class_path": "PPOModule", "init_args": model}}, capfd, caplog)
    assert re.search(
        r"^fit: iteration 1/2 \(50%\), reward -?[\d.e-]+, kl [\d.e-]+, \d s, about \d s left$", shown, re.M
    )
    assert re.search(r"^fit: iteration 2/2 \(100%\), reward [-\d.e]+, kl [-\d.e]+, \d s$", shown, re.M)
    shown += "".join(str(warning.message) for warning in recwarn)
    for noise in ("/-2", "batch sampler", "logging interval", "set_vital", "anonymous", "\r", "\x1b[", "Epoch 0"):
        assert noise not in shown, noise


def test_training_says_how_far_it_is_and_what_validation_found(lit, tiny_model, given, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(lines, "SECONDS_BETWEEN_LINES", 0.0)
    given["data"] |= {"sources": {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 20}}}
    given["data"]["val_fraction"] = 0.2
    given |= {"model": {"class_path": "SFTModule", "init_args": {"model": tiny_model}}}
    given["trainer"] |= {"max_epochs": 2, "enable_progress_bar": True}
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    trainer = lit("fit", tmp_path, given).trainer
    steps = trainer.global_step
    said = [record.getMessage() for record in caplog.records]
    fit = [line for line in said if line.startswith("fit: ")]
    assert fit[-1].split(", val/loss")[0] == fit[-2].split(", val/loss")[0]  # the last validation comes behind it
    found = float(trainer.callback_metrics["val/loss"])
    assert f"val/loss {found:.4g}, " in fit.pop()
    assert [line.split(" (")[0] for line in fit] == [f"fit: step {step}/{steps}" for step in range(1, steps + 1)]
    assert all("loss" in line for line in fit)
    assert "val/loss" in fit[-1]
    assert any(line.startswith("validate: batch 1") for line in said)
    caplog.clear()
    lit("validate", tmp_path, given)
    assert [record.getMessage() for record in caplog.records][-1].startswith("validate: batch")


def test_without_a_progress_bar_there_are_no_lines(lit, tiny_model, given, tmp_path, caplog):
    given["data"] |= {"sources": {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 8}}}
    given |= {"model": {"class_path": "SFTModule", "init_args": {"model": tiny_model}}}
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    lit("fit", tmp_path, given | {"trainer": {"max_steps": 1}})
    assert "fit: step" not in caplog.text
