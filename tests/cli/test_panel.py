import json
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lit_rlhf.cli import panel
from lit_rlhf.cli.callbacks import History
from lit_rlhf.cli.panel import Panel
from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.evaluation.overoptimisation import Row
from lit_rlhf.policy import PPOModule


class Logger(WandbLogger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.logged: list[dict] = []

    @property
    def experiment(self):
        return SimpleNamespace(log=lambda values, commit: self.logged.append(values))

    def log_metrics(self, metrics, step=None) -> None:
        self.logged.append({"step": step, **metrics})


@pytest.fixture
def drawings(monkeypatch) -> list[SimpleNamespace]:
    """What is to be drawn, instead of pictures."""
    found = []

    def draw(rows: list[Row], path, title, signs) -> None:
        found.append(SimpleNamespace(rows=list(rows), path=path, title=title, signs=list(signs)))
        Image.new("RGB", (1, 1)).save(path)

    monkeypatch.setattr(panel, "draw_panel", draw)
    return found


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Time stands still unless it is moved."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def fake_trainer(folder, callback: Panel, **history) -> SimpleNamespace:
    return SimpleNamespace(
        default_root_dir=str(folder),
        global_step=0,
        is_global_zero=True,
        sanity_checking=False,
        log_every_n_steps=1,
        callback_metrics={},
        loggers=[],
        callbacks=[History(**history), callback],
        fit_loop=SimpleNamespace(_should_accumulate=lambda: False),
    )


def iterate(callback: Panel, trainer, steps, **metrics) -> None:
    """Iterations with these metrics, each written to the history and shown to the panel."""
    history = trainer.callbacks[0]
    history.path = panel._folder(trainer) / "metrics.jsonl"
    for trainer.global_step in steps:
        given = {"kl": 0.1, "reward": 1.0, **metrics}
        trainer.callback_metrics = {f"train/{name}": torch.tensor(value) for name, value in given.items()}
        history.on_train_batch_end(trainer)
        callback.on_train_batch_end(trainer, None)  # type: ignore[arg-type]


def started(folder, **options):
    callback = Panel(**options)
    trainer = fake_trainer(folder, callback)
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    return callback, trainer


def test_the_panel_shows_what_the_history_holds(tmp_path, drawings):
    callback, trainer = started(tmp_path)
    iterate(callback, trainer, range(1, 8), entropy=2.0)
    trainer.callback_metrics |= {"val/kl": torch.tensor(0.2)}
    trainer.callbacks[0].on_validation_end(trainer, None)
    callback.on_validation_end(trainer, None)
    callback.on_train_end(trainer, None)
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert drawings[-1].rows == written
    assert len(written) == 8
    assert drawings[-1].path == tmp_path / "panel.png"
    assert "7 iterations" in drawings[-1].title


@pytest.mark.parametrize(("every", "kept"), [(None, [2, 4, 6]), (3, [3, 6])])
def test_it_lies_beside_the_history_and_has_its_rhythm(tmp_path, drawings, every, kept):
    callback = Panel()
    trainer = fake_trainer(tmp_path / "run", callback, directory=str(tmp_path / "elsewhere"), every_n_steps=every)
    (tmp_path / "elsewhere").mkdir()
    trainer.log_every_n_steps = 2
    callback.on_train_start(trainer, None)
    iterate(callback, trainer, range(1, 7))
    callback.on_train_end(trainer, None)
    assert [row["step"] for row in drawings[-1].rows] == kept
    assert drawings[-1].path == tmp_path / "elsewhere" / "panel.png"


def test_drawing_takes_a_fiftieth_of_the_time_at_most(tmp_path, drawings, clock, monkeypatch):
    draw = panel.draw_panel

    def slow(*args) -> None:
        clock.now += 3.0
        draw(*args)

    monkeypatch.setattr(panel, "draw_panel", slow)
    callback, trainer = started(tmp_path, every_n_steps=1)
    for step in range(1, 101):
        clock.now += 10.0
        iterate(callback, trainer, [step])
        trainer.callback_metrics["val/kl"] = torch.tensor(0.0)
        callback.on_validation_end(trainer, None)
        assert 3.0 * len(drawings) <= 0.02 * clock.now + 2.1
    assert 4 <= len(drawings) <= 7
    callback.on_train_end(trainer, None)  # the last one, whatever it costs
    assert drawings[-1].rows[99]["step"] == 100


def test_it_is_drawn_every_so_many_iterations(tmp_path, drawings, clock):
    callback, trainer = started(tmp_path, every_n_steps=4)
    clock.now = 1e6
    iterate(callback, trainer, range(1, 14))
    assert [len(drawing.rows) for drawing in drawings] == [4, 8, 12]


def test_each_warning_is_said_once_on_the_screen_and_in_the_log(tmp_path, drawings, caplog):
    callback, trainer = started(tmp_path)
    trainer.loggers = [Logger()]
    with caplog.at_level("INFO"):
        iterate(callback, trainer, range(1, 31), explained_variance=-1.0)
    assert caplog.text.count("warning: iteration 10: the critic's explained variance") == 1
    assert trainer.loggers[0].logged == [{"step": 10, "warnings/useless_critic": 1.0}]
    callback.on_train_end(trainer, None)
    assert [(sign.name, sign.step) for sign in drawings[-1].signs] == [("useless_critic", 10)]
    assert "panel" in trainer.loggers[0].logged[-1]


@pytest.mark.parametrize(("resumed_at", "told"), [(14, 0), (6, 1)])
def test_a_resumed_run_goes_on_and_does_not_repeat_itself(tmp_path, drawings, caplog, resumed_at, told):
    iterate(*started(tmp_path), range(1, 16), explained_variance=-1.0)
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 16, "tra')  # it was killed
    caplog.clear()
    callback = Panel()
    trainer = fake_trainer(tmp_path, callback)
    trainer.global_step = resumed_at
    with caplog.at_level("INFO"):
        callback.on_train_start(trainer, None)
        iterate(callback, trainer, range(resumed_at + 1, 21), explained_variance=-1.0)
    assert caplog.text.count("warning:") == told
    callback.on_train_end(trainer, None)
    assert [row["step"] for row in drawings[-1].rows] == list(range(1, 21))
    assert [(sign.name, sign.step) for sign in drawings[-1].signs] == [("useless_critic", 10)]


def test_a_new_run_does_not_take_up_another_ones_history(tmp_path, drawings):
    iterate(*started(tmp_path), range(1, 16))
    callback, trainer = started(tmp_path)
    iterate(callback, trainer, [1, 2])
    callback.on_train_end(trainer, None)
    assert [row["step"] for row in drawings[-1].rows] == [1, 2]


def test_what_trains_no_policy_has_no_panel_and_it_can_be_turned_off(tmp_path, drawings, caplog):
    callback, trainer = started(tmp_path)
    for trainer.global_step in range(1, 4):
        trainer.callback_metrics = {"train/loss": torch.tensor(1.0), "val/loss": torch.tensor(1.0)}
        callback.on_train_batch_end(trainer, None)
        callback.on_validation_end(trainer, None)
    callback.on_train_end(trainer, None)
    with caplog.at_level("INFO"):
        off, trainer = started(tmp_path, enabled=False)
        iterate(off, trainer, range(1, 31), explained_variance=-1.0)
        off.on_train_end(trainer, None)
    assert drawings == []
    assert "warning" not in caplog.text


def test_only_ctrl_c_leaves_a_picture_of_a_run_that_was_stopped(tmp_path, drawings):
    callback, trainer = started(tmp_path)
    iterate(callback, trainer, [1, 2])
    callback.on_exception(trainer, None, RuntimeError("out of memory"))
    assert drawings == []
    callback.on_exception(trainer, None, KeyboardInterrupt())
    assert len(drawings) == 1


@pytest.fixture
def ppo(tiny_model) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 8}}
    model = {"policy": tiny_model, "sampling": {"max_new_tokens": 4}, "reward": {"class_path": "GoldReward"}}
    return {
        "model": {"class_path": "PPOModule", "init_args": model},
        "data": {"sources": source, "batch_size": 4, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"max_steps": 2, "log_every_n_steps": 1},
    }


def test_a_ppo_run_has_its_panel_unless_told_otherwise(lit, ppo, tmp_path):
    lit("fit", tmp_path / "on", ppo)
    assert (tmp_path / "on" / "panel.png").read_bytes().startswith(b"\x89PNG")
    lit("fit", tmp_path / "off", ppo, "--panel.enabled", "false")
    assert not (tmp_path / "off" / "panel.png").exists()
    on, off = (without_throughput((tmp_path / name / "metrics.jsonl").read_text()) for name in ("on", "off"))
    assert on == off  # looking on changes nothing


def test_a_run_stopped_by_ctrl_c_has_its_panel(lit, ppo, tmp_path, monkeypatch):
    def interrupt(self, batch, batch_idx):
        if self.trainer.global_step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(PPOModule, "on_train_batch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lit("fit", tmp_path, ppo)
    assert (tmp_path / "panel.png").read_bytes().startswith(b"\x89PNG")
