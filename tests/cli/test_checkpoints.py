"""Which checkpoints a run may go on from, and what Ctrl-C leaves behind."""

import json
import os
import shutil
import signal
import threading

import pytest
import torch
import torch.distributed.checkpoint as parts
from lightning.pytorch.loggers.logger import DummyLogger

from lit_rlhf.cli.checkpoints import put_back
from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.throughput import PREFIX, without_throughput
from lit_rlhf.data.errors import DataError
from lit_rlhf.policy import PPOModule, SFTModule


def demonstrations(model: str, lr: float = 1e-3, **more) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 40}}
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": model, "optimizer": {"lr": lr}}},
        "data": {"sources": source, "batch_size": 8, "val_fraction": 0.0},
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1},
    } | more


def prompts(policy: str, kl: float = 0.1) -> dict:
    reward = {"class_path": "lit_rlhf.rewards.GoldReward"}
    model = {"policy": policy, "reward": reward, "sampling": {"max_new_tokens": 4}, "kl": {"coefficient": kl}}
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    return {
        "model": {"class_path": "PPOModule", "init_args": model},
        "data": {"sources": source, "batch_size": 4, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"max_steps": 2, "log_every_n_steps": 1},
    }


def last(folder) -> tuple[str, str]:
    return "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")


def test_resuming_with_other_model_options_is_refused_and_all_are_named(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, demonstrations(tiny_model))
    changed = demonstrations(tiny_model, lr=7e-3, trainer={"max_epochs": 2})
    changed["model"]["init_args"]["optimizer"]["schedule"] = "constant"
    with pytest.raises(DataError) as raised:
        lit("fit", tmp_path, changed, *last(tmp_path))
    for part in ("last.ckpt", "model.init_args.optimizer.lr: 0.001", "0.007 now", "schedule: ", "constant now"):
        assert part in str(raised.value)
    assert "warmup" not in str(raised.value)
    assert "max_epochs" not in str(raised.value)


def test_options_of_ppo_and_of_its_reward_count_as_well(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, prompts(tiny_model))
    with pytest.raises(DataError, match=r"kl\.coefficient: 0\.1 in the checkpoint, 0\.3 now"):
        lit("fit", tmp_path, prompts(tiny_model, kl=0.3), *last(tmp_path))
    changed = prompts(tiny_model)
    changed["model"]["init_args"]["reward"] = {
        "class_path": "lit_rlhf.rewards.PythonReward",
        "init_args": {"function": "lit_rlhf.world.gold_reward"},
    }
    with pytest.raises(DataError, match=r"GoldReward in the checkpoint, lit_rlhf\.rewards\.[\w.]*PythonReward now"):
        lit("fit", tmp_path, changed, *last(tmp_path))


def test_a_model_that_has_moved_and_other_trainer_options_are_no_reason(lit, write_model, tmp_path):
    lit("fit", tmp_path, demonstrations(write_model("llama")))
    moved = shutil.copytree(write_model("llama"), tmp_path / "elsewhere")
    cli = lit("fit", tmp_path, demonstrations(str(moved), trainer={"max_epochs": 2}), *last(tmp_path))
    assert cli.trainer.global_step == 10


def test_for_measuring_only_the_kind_of_module_counts(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, halved(tiny_model))
    other_rate = halved(tiny_model)
    other_rate["model"]["init_args"]["optimizer"]["lr"] = 3e-3
    assert lit("validate", tmp_path, other_rate, *last(tmp_path)).trainer.callback_metrics["val/perplexity"] > 1


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_of_another_module_is_refused(lit, tiny_model, tmp_path, command):
    lit("fit", tmp_path, demonstrations(tiny_model))
    with pytest.raises(DataError, match="written by SFTModule, this run trains PPOModule"):
        lit(command, tmp_path, prompts(tiny_model), *last(tmp_path))


def test_a_missing_checkpoint_and_one_that_is_none_are_messages(lit, tiny_model, tmp_path):
    for missing in (tmp_path / "last.ckpt", "last"):
        with pytest.raises(DataError, match=r"last\.ckpt: cannot be read[\s\S]*checkpoints/last\.ckpt"):
            lit("fit", tmp_path, demonstrations(tiny_model), "--ckpt_path", str(missing))
    (tmp_path / "text.ckpt").write_text("text")
    torch.save([1], tmp_path / "other.ckpt")
    for name in ("text.ckpt", "other.ckpt"):
        with pytest.raises(DataError, match="is no checkpoint"):
            lit("fit", tmp_path, demonstrations(tiny_model), "--ckpt_path", str(tmp_path / name))


def test_the_word_last_is_the_last_checkpoint_of_the_folder(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, demonstrations(tiny_model))
    with pytest.raises(DataError, match="other model options"):
        lit("fit", tmp_path, demonstrations(tiny_model, lr=7e-3), "--ckpt_path", "last")
    more = demonstrations(tiny_model, trainer={"max_epochs": 2, "log_every_n_steps": 1})
    assert lit("fit", tmp_path, more, "--ckpt_path", "last").trainer.global_step == 10
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 11))


def history(folder) -> list[dict]:
    return without_throughput((folder / "metrics.jsonl").read_text())


class Recorder(DummyLogger):
    """A logger whose ``log_metrics`` a test puts in place."""


@pytest.fixture
def ctrl_c_at(monkeypatch):
    """Send this process a real SIGINT before the steps after so many of a module's steps."""

    def install(module: type, *steps: int) -> None:
        def hook(self, batch, batch_idx):
            for step in steps:
                if self.trainer.global_step == step:
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(module, "on_train_batch_start", hook)

    return install


def halved(model: str, **trainer) -> dict:
    """Two epochs of demonstrations, with validation behind each."""
    given = demonstrations(model, trainer={"max_epochs": 2, "log_every_n_steps": 1, **trainer})
    given["data"]["val_fraction"] = 0.2
    return given


@pytest.mark.parametrize("options", [demonstrations, halved, prompts])
@pytest.mark.parametrize("step", [0, 1])
def test_ctrl_c_keeps_the_step_and_the_run_goes_on_from_it(
    lit, tiny_model, tmp_path, monkeypatch, ctrl_c_at, options, step
):
    module = PPOModule if options is prompts else SFTModule
    given = options(tiny_model)
    lit("fit", tmp_path / "whole", given)
    whole = history(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    ctrl_c_at(module, step)
    with pytest.raises(KeyboardInterrupt) as stopped:
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    assert stopped.value.args == (last(tmp_path)[1],)
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.load(last(tmp_path)[1], weights_only=True)["global_step"] == step + 1
    lit("fit", tmp_path, given, *last(tmp_path))
    assert history(tmp_path) == whole
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("step", [0, 2])
def test_loggers_are_told_of_the_step_that_a_run_ends_behind(lit, tiny_model, tmp_path, monkeypatch, ctrl_c_at, step):
    told = []
    logger = {"class_path": f"{__name__}.Recorder"}
    given = halved(tiny_model, max_epochs=1, val_check_interval=3, logger=logger)

    def tell(self, metrics, step=None) -> None:
        told.append((step, {name: value for name, value in metrics.items() if not name.startswith(PREFIX)}))

    monkeypatch.setattr(Recorder, "log_metrics", tell)
    lit("fit", tmp_path / "whole", given)
    whole, told[:] = list(told), []
    ctrl_c_at(SFTModule, step)
    with pytest.raises(KeyboardInterrupt):
        lit("fit", tmp_path, given)
    ctrl_c_at(SFTModule)
    lit("fit", tmp_path, given, *last(tmp_path))
    assert told == whole
    assert {each for each, metrics in told if "train/loss" in metrics} == set(range(5))


@pytest.mark.parametrize("validates", [False, True])
def test_a_step_of_several_batches_is_kept_whole(lit, tiny_model, tmp_path, monkeypatch, validates):
    """Between batches whose gradients are added up nothing is written: it would be resumed without the first ones."""
    given = halved(tiny_model) if validates else demonstrations(tiny_model)
    given["trainer"] |= {"accumulate_grad_batches": 2, **({"val_check_interval": 3} if validates else {})}
    given |= {"checkpoint": {"every_n_train_steps": 1}}
    given["data"]["sources"]["init_args"]["size"] = 60
    whole = lit("fit", tmp_path / "whole", given)

    def hook(self, batch, batch_idx):
        if batch_idx == 2 and self.trainer.global_step == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SFTModule, "on_train_batch_start", hook)
    with pytest.raises(KeyboardInterrupt):
        lit("fit", tmp_path, given)
    assert torch.load(last(tmp_path)[1], weights_only=True)["global_step"] == 2
    written = (tmp_path / "checkpoints" / "last.ckpt").stat().st_mtime_ns

    def dies(self, batch, batch_idx):
        if self.trainer.global_step == 2 and batch_idx == 5:
            raise RuntimeError("the machine went down")

    monkeypatch.setattr(SFTModule, "on_train_batch_start", dies)
    with pytest.raises(RuntimeError, match="went down"):
        lit("fit", tmp_path, given, *last(tmp_path))
    assert (tmp_path / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written
    monkeypatch.undo()
    resumed = lit("fit", tmp_path, given, *last(tmp_path))
    assert history(tmp_path) == history(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == list(range(1, whole.trainer.global_step + 1)), "one line for each"
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))


def test_ctrl_c_before_a_validation_keeps_its_figures(lit, tiny_model, tmp_path, monkeypatch, ctrl_c_at):
    given = halved(tiny_model)
    steps = lit("fit", tmp_path / "whole", given).trainer.global_step // 2
    ctrl_c_at(SFTModule, steps - 1)
    with pytest.raises(KeyboardInterrupt):
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "val/perplexity" in rows[-1]
    lit("fit", tmp_path, given, *last(tmp_path))
    assert history(tmp_path) == history(tmp_path / "whole")


def test_ctrl_c_at_the_last_step_stops_before_the_hand_over(lit, tiny_model, tmp_path, monkeypatch, ctrl_c_at):
    given = demonstrations(tiny_model, export={"directory": str(tmp_path / "model")})
    ctrl_c_at(SFTModule, 4)
    with pytest.raises(KeyboardInterrupt):
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    assert not (tmp_path / "model").exists()
    lit("fit", tmp_path, given, *last(tmp_path))
    assert (tmp_path / "model" / "config.json").exists()


def _flipped(path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


def _truncated(path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("damaged", [_flipped, _truncated])
def test_a_damaged_checkpoint_is_refused(lit, tiny_model, tmp_path, damaged, command):
    given = halved(tiny_model, max_epochs=1)
    lit("fit", tmp_path, given)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(damaged(checkpoint))
    with pytest.raises(DataError, match=r"last\.ckpt: is (damaged|no checkpoint)[\s\S]*anew"):
        lit(command, tmp_path, given, *last(tmp_path))


def test_a_folder_that_was_about_to_be_replaced_comes_back(tmp_path):
    outdated = tmp_path / ".last.ckpt.outdated"
    outdated.mkdir()
    put_back(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").is_dir()
    outdated.mkdir()
    put_back(tmp_path / "last.ckpt")
    assert outdated.exists(), "the new one was there"


def test_what_a_killed_run_left_of_a_checkpoint_is_in_nobodys_way(lit, tiny_model, tmp_path):
    (tmp_path / "checkpoints" / ".last.ckpt.partial").mkdir(parents=True)
    lit("fit", tmp_path, demonstrations(tiny_model))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_folder_of_an_earlier_run_makes_room_for_a_file(lit, tiny_model, tmp_path):
    parts = tmp_path / "checkpoints" / "last.ckpt"
    parts.mkdir(parents=True)
    (parts / "meta.pt").touch()
    lit("fit", tmp_path, demonstrations(tiny_model))
    assert parts.is_file()
    assert [path.name for path in parts.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_whole(lit, tiny_model, tmp_path, monkeypatch):
    given = demonstrations(tiny_model, checkpoint={"every_n_train_steps": 2})
    replace = os.replace

    def full(source, target):
        if str(target).endswith(".ckpt") and os.path.exists(target):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr("lit_rlhf.cli.checkpoints.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        lit("fit", tmp_path, given)
    monkeypatch.undo()
    assert torch.load(last(tmp_path)[1], weights_only=True)["global_step"] == 2
    assert lit("fit", tmp_path, given, *last(tmp_path)).trainer.global_step == 5


@pytest.mark.parametrize("options", [demonstrations, prompts])
def test_sigterm_keeps_the_step_and_has_an_exit_code_of_its_own(lit, tiny_model, tmp_path, monkeypatch, capfd, options):
    module = PPOModule if options is prompts else SFTModule
    given = options(tiny_model)
    lit("fit", tmp_path / "whole", given)
    handler = signal.getsignal(signal.SIGTERM)

    def hook(self, batch, batch_idx):
        if self.trainer.global_step == 1:
            for _ in range(2):  # schedulers send it more than once
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(module, "on_train_batch_start", hook)
    quiet = {"logger": False, "enable_progress_bar": False, "default_root_dir": str(tmp_path), "accelerator": "cpu"}
    given["trainer"] |= quiet
    (tmp_path / "options.yaml").write_text(json.dumps(given))
    assert dispatch(["fit", "-c", str(tmp_path / "options.yaml")]) == 143
    monkeypatch.undo()
    said = capfd.readouterr().err
    assert "SIGTERM: this step comes to its end" in said
    assert f"ended by SIGTERM; the same command with --ckpt_path {last(tmp_path)[1]} goes on" in said
    assert signal.getsignal(signal.SIGTERM) is handler
    assert torch.load(last(tmp_path)[1], weights_only=True)["global_step"] == 2
    lit("fit", tmp_path, given, *last(tmp_path))
    assert history(tmp_path) == history(tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once(lit, tiny_model, tmp_path, ctrl_c_at):
    ctrl_c_at(SFTModule, 2, 2)
    with pytest.raises(KeyboardInterrupt) as stopped:
        lit("fit", tmp_path, demonstrations(tiny_model))
    assert stopped.value.args == ()
    assert not (tmp_path / "checkpoints").exists()


def test_ctrl_c_outside_the_main_thread_is_left_alone(lit, tiny_model, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    failed: list[BaseException] = []

    def run():
        try:
            lit("fit", tmp_path, demonstrations(tiny_model))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_screen_says_how_to_go_on(lit, tiny_model, tmp_path, ctrl_c_at, capfd):
    ctrl_c_at(SFTModule, 2)
    quiet = {"logger": False, "enable_progress_bar": False, "default_root_dir": str(tmp_path), "accelerator": "cpu"}
    (tmp_path / "options.yaml").write_text(json.dumps(demonstrations(tiny_model, trainer=quiet | {"max_epochs": 1})))
    assert dispatch(["fit", "-c", str(tmp_path / "options.yaml")]) == 130
    error = capfd.readouterr().err
    assert "this step comes to its end" in error
    assert f"the same command with --ckpt_path {last(tmp_path)[1]} goes on" in error
    stage = {"name": "sft", "command": "fit", "config": ["options.yaml"]}
    (tmp_path / "x.json.yaml").write_text(json.dumps({"out": str(tmp_path / "run"), "stages": [stage]}))
    assert dispatch(["run", str(tmp_path / "x.json.yaml"), "--", "--trainer.logger", "false"]) == 130
    assert "interrupted; the same command goes on from here" in capfd.readouterr().err
    assert (tmp_path / "run" / "sft" / "checkpoints" / "last.ckpt").exists()


def test_a_folder_in_parts_is_looked_into_and_needs_a_strategy_that_puts_parts_together(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, demonstrations(tiny_model))
    content = torch.load(last(tmp_path)[1], weights_only=True)
    folder = tmp_path / "parts.ckpt"
    parts.save({"state_dict": content.pop("state_dict")}, checkpoint_id=folder, no_dist=True)
    torch.save(content, folder / "meta.pt")
    with pytest.raises(DataError, match=r"optimizer\.lr: 0\.001 in the checkpoint, 0\.007 now"):
        lit("fit", tmp_path, demonstrations(tiny_model, lr=7e-3), "--ckpt_path", str(folder))
    says = r"in parts by ModelParallelStrategy, and SingleDeviceStrategy cannot[\s\S]*lit-rlhf export"
    with pytest.raises(DataError, match=says):
        lit("fit", tmp_path, demonstrations(tiny_model), "--ckpt_path", str(folder))
