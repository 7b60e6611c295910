import json
import os
import sys
import time

import pytest

from lit_rlhf.cli import tracking
from lit_rlhf.cli.commands import call
from lit_rlhf.cli.stage import run_stage
from lit_rlhf.cli.tracking import Wandb, finish, log_media, log_report, logged_in, untracked

NETRC = "machine {host}\n  login user\n  password 0123456789\n"


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A machine on which nobody has logged in, and no one is there to answer a prompt."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asked"))
    return tmp_path


def test_without_a_key_nobody_is_logged_in(nobody):
    assert not logged_in()


def test_a_key_in_the_environment_is_enough_unless_the_mode_says_otherwise(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert logged_in()
    monkeypatch.setenv("WANDB_MODE", "online")
    assert logged_in()
    for mode in ("offline", "disabled", "dryrun"):
        monkeypatch.setenv("WANDB_MODE", mode)
        assert not logged_in()


@pytest.mark.parametrize("where", ["home", "NETRC"])
def test_the_netrc_file_counts_for_its_own_host(nobody, monkeypatch, where):
    file = nobody / (".netrc" if where == "home" else "elsewhere")
    file.write_text(NETRC.format(host="api.wandb.ai"))
    file.chmod(0o600)
    if where == "NETRC":
        assert not logged_in()
        monkeypatch.setenv("NETRC", str(file))
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert not logged_in()
    file.write_text(NETRC.format(host="wandb.example.org"))
    assert logged_in()


def test_a_damaged_netrc_file_is_nobody(nobody):
    (nobody / ".netrc").write_text("machine\n\x00 nonsense {")
    (nobody / ".netrc").chmod(0o600)
    assert not logged_in()


@pytest.mark.parametrize(
    ("key", "offline", "expected"), [("", None, True), ("0123", None, False), ("0123", True, True)]
)
def test_offline_unless_logged_in(nobody, monkeypatch, key, offline, expected):
    monkeypatch.setenv("WANDB_API_KEY", key)
    logger = Wandb(save_dir=str(nobody / "logs"), offline=offline)
    assert logger._offline is expected
    assert (nobody / "logs").is_dir()


def test_a_folder_that_was_named_stays(nobody):
    logger = Wandb(save_dir=str(nobody / "logs"))
    logger.settle(str(nobody / "run"))
    assert logger.save_dir == str(nobody / "logs")
    assert not (nobody / "run").exists()
    unnamed = Wandb()
    assert unnamed.save_dir is None
    unnamed.settle(str(nobody / "run"))
    assert unnamed.save_dir == unnamed._wandb_init["dir"] == str(nobody / "run")


def test_to_finish_what_never_began_is_nothing(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    finish()


@pytest.fixture
def fresh_wandb():
    """W&B reads the environment once per process."""
    import wandb

    wandb.teardown()
    yield wandb
    wandb.teardown()


@pytest.mark.slow
def test_by_default_a_run_is_logged_offline_with_its_generations(
    nobody, fresh_wandb, monkeypatch, tiny_model, tmp_path
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    prompts = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    ppo = {"policy": tiny_model, "reward": {"class_path": "lit_rlhf.rewards.GoldReward"}}
    options = {
        "model": {"class_path": "PPOModule", "init_args": ppo | {"sampling": {"max_new_tokens": 4}}},
        "data": {"sources": prompts, "batch_size": 3, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"max_steps": 4, "default_root_dir": str(folder), "enable_progress_bar": False},
        "generations": {"every_n_steps": 2},
    }
    (tmp_path / "options.yaml").write_text(json.dumps(options))
    run_stage(["fit", "-c", "options.yaml"])
    assert fresh_wandb.run is None  # finished: the next stage of this process gets a run of its own
    assert not (tmp_path / "runs").exists()
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert next(run.glob("*.wandb")).stat().st_size > 0
    assert (folder / "checkpoints" / "last.ckpt").exists()  # in the run's folder, not in the logger's
    rows = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 1, 1, 3, 3, 3, 4, 4, 4]  # every second one, and the last
    logged = []
    for file in sorted((run / "files" / "media" / "table").glob("generations*.json")):
        table = json.loads(file.read_text())
        logged += [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    columns = ("step", "prompt", "response", "truncated", "proxy_reward", "baseline_mean")
    assert sorted(logged, key=json.dumps) == sorted(
        ({name: row[name] for name in columns} for row in rows), key=json.dumps
    )
    for name in ("token_rewards", "token_advantages"):
        pages = (run / "files" / "media" / "html" / "generations").glob(f"{name}_*.html")
        assert sorted(
            iteration for page in pages for iteration in (1, 3, 4) if f"iteration {iteration}" in page.read_text()
        ) == [1, 3, 4]


def test_without_logger_nothing_is_written_for_one(lit, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 20}}
    options = {
        "model": {"class_path": "SFTModule", "init_args": {"model": tiny_model}},
        "data": {"sources": source, "batch_size": 8},
        "trainer": {"max_steps": 1},
    }
    trainer = lit("fit", tmp_path / "run", options, "--trainer.logger", "false").trainer
    assert trainer.loggers == []
    assert not list(tmp_path.rglob("*wandb*"))


@pytest.mark.slow
def test_a_command_logs_its_figures_and_its_own_pictures(nobody, fresh_wandb, tmp_path):
    from matplotlib import pyplot as plt

    for name in ("old", "new"):
        figure = plt.figure()
        figure.savefig(tmp_path / f"{name}.png")
        plt.close(figure)
    os.utime(tmp_path / "old.png", (0, 0))
    log_report("strength", tmp_path, {"pairs": 7, "true_label": {"share_wrong": 0.25}, "bins": [1, 2]}, "group", 1.0)
    assert fresh_wandb.run is None
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    pictures = [file.name for file in (run / "files" / "media" / "images").glob("*.png")]
    assert len(pictures) == 1
    assert pictures[0].startswith("new_")
    content = b""
    for _ in range(100):  # W&B's own process writes it
        content = next(run.glob("*.wandb")).read_bytes()
        if b"true_label/share_wrong" in content:
            break
        time.sleep(0.1)
    assert b"true_label/share_wrong" in content
    assert b"bins" not in content


def test_an_empty_group_keeps_a_command_out_of_wandb_and_a_name_replaces_its_own(monkeypatch, tmp_path):
    logged = []
    monkeypatch.setattr("lit_rlhf.cli.tracking.log_report", lambda *args: logged.append(args[0]))
    monkeypatch.setattr("lit_rlhf.cli.commands._function", lambda command: echo)
    for group in (None, "experiment", ""):
        call("compare", options={"out": str(tmp_path)}, group=group)
    call("compare", options={"out": str(tmp_path)}, name="judged_1")
    assert logged == ["compare", "compare", "judged_1"]


def echo(out: str) -> dict[str, float]:
    """Give a figure.

    Args:
        out: A folder.
    """
    return {"figure": 1.0}


class Run:
    """A W&B run whose service fails after so many calls."""

    def __init__(self, calls: int) -> None:
        self.left, self.logged, self.step = calls, [], 0

    def log(self, metrics, **options) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConnectionResetError("Connection lost")
        self.logged.append(dict(metrics))


def test_training_goes_on_without_a_service_that_fails(nobody, capsys):
    logger = Wandb(save_dir=str(nobody))
    logger._experiment = run = Run(2)
    for step in range(4):
        logger.log_metrics({"train/loss": 1.0}, step)
    log_media(logger, {"panel": 1.0})
    assert len(run.logged) == 2
    told = untracked()
    assert len(told) == 1
    assert "its service has failed" in told[0]
    assert "Connection lost" in told[0]


def test_an_error_that_is_not_wandbs_is_raised(nobody):
    logger = Wandb(save_dir=str(nobody))
    logger._experiment = run = Run(2)
    run.log = lambda metrics, **options: {}["no"]
    with pytest.raises(KeyError):
        logger.log_metrics({"train/loss": 1.0}, 1)
    assert untracked() == []


def test_a_server_that_cannot_be_reached_makes_the_run_an_offline_one(nobody, monkeypatch):
    import wandb

    modes = []

    def init(**options):
        modes.append(options.get("mode"))
        if options.get("mode") != "offline":
            raise wandb.errors.CommError("Timed out while retrying")
        return Run(9)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "run", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = Wandb(save_dir=str(nobody), offline=False)
    logger.log_metrics({"train/loss": 1.0}, 1)
    assert modes == [None, "offline"]
    told = untracked()
    assert len(told) == 1
    assert "wandb sync" in told[0]


def test_a_run_that_does_not_end_is_left_after_a_while(monkeypatch):
    import wandb

    monkeypatch.setattr(tracking, "SECONDS_TO_END", 0.1)
    monkeypatch.setattr(wandb, "run", Run(0))
    monkeypatch.setattr(wandb, "finish", lambda: time.sleep(2))
    begin = time.monotonic()
    finish()
    assert time.monotonic() - begin < 1.5
    assert wandb.run is None
    assert "wandb sync" in untracked()[0]
