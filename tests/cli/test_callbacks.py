import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from lit_rlhf.cli.callbacks import Export, Generations, History, Progress
from lit_rlhf.cli.checkpoints import RandomState
from lit_rlhf.cli.commands import dispatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.policy import SFTModule


def fake_trainer(folder, step: int = 0, **metrics) -> SimpleNamespace:
    return SimpleNamespace(
        default_root_dir=str(folder),
        global_step=step,
        is_global_zero=True,
        sanity_checking=False,
        log_every_n_steps=2,
        callback_metrics=metrics,
        loggers=[],
        fit_loop=SimpleNamespace(_should_accumulate=lambda: False),
    )


def draws() -> tuple:
    """One number from every global generator."""
    return random.random(), random.gauss(0, 1), float(np.random.normal()), torch.rand(3).tolist()


def test_random_state_goes_on_where_it_was_saved(tmp_path):
    draws()
    torch.save(RandomState().state_dict(), tmp_path / "state")
    expected = draws()
    resumed = RandomState()
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert draws() != expected  # time has moved on, and loading alone changes nothing
    resumed.on_train_start(None, None)  # type: ignore[arg-type]
    assert draws() == expected


def test_a_fresh_run_keeps_the_random_numbers_of_its_seed():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    RandomState().on_train_start(None, None)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("devices", [0, 1, 3])
def test_a_run_goes_on_with_another_number_of_gpus(monkeypatch, devices):
    resumed, found = RandomState(), {}
    resumed.load_state_dict({**resumed.state_dict(), "cuda": [torch.zeros(16), torch.ones(16)]})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: found.update({device: float(state[0])}))
    resumed.on_train_start(None, None)  # type: ignore[arg-type]
    assert found == {number: float(number) for number in range(min(devices, 2))}


def history(folder) -> History:
    callback = History()
    callback.setup(fake_trainer(folder), None, "fit")  # type: ignore[arg-type]
    return callback


def steps(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_history_writes_every_nth_step_and_each_validation(tmp_path):
    callback = history(tmp_path / "run")
    for step in range(1, 6):
        trainer = fake_trainer(tmp_path, step, **{"train/loss": torch.tensor(0.5 * step), "val/kl": torch.tensor(2.0)})
        callback.on_train_batch_end(trainer)  # type: ignore[arg-type]
    callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    trainer.sanity_checking = True
    callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 2, "train/loss": 1.0}, {"step": 4, "train/loss": 2.0}, {"step": 5, "val/kl": 2.0}]


@pytest.mark.parametrize(("resumed_at", "kept"), [(0, []), (2, [1, 2, 2]), (3, [1, 2, 2, 3]), (9, [1, 2, 2, 3, 4])])
@pytest.mark.parametrize("last", ["", '{"step": 5, "tra', "null", "[1]"])
def test_history_forgets_what_comes_after_the_resumed_step(tmp_path, resumed_at, kept, last):
    callback = history(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "train/loss": 1.0}}\n' for step in (1, 2, 2, 3, 4)) + last)
    trainer = fake_trainer(tmp_path, resumed_at, **{"train/loss": torch.tensor(1.0)})
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert steps(path) == kept
    trainer.global_step = resumed_at + 2
    trainer.log_every_n_steps = 1
    callback.on_train_batch_end(trainer)  # type: ignore[arg-type]
    assert steps(path) == [*kept, resumed_at + 2]  # on a line of its own


def examples(step: int) -> SimpleNamespace:
    rows = [{"prompt": "Why?", "response": f"Because {step}.", "proxy_reward": step, "baseline_mean": None}] * 2
    return SimpleNamespace(examples=rows)


def generate(folder, first: int, last: int) -> list[dict]:
    callback = Generations(every_n_steps=3)
    callback.on_train_start(fake_trainer(folder, first - 1), None)  # type: ignore[arg-type]
    for step in range(first, last + 1):
        callback.on_train_batch_end(fake_trainer(folder, step), examples(step))  # type: ignore[arg-type]
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


def test_generations_come_at_the_first_and_then_every_nth_iteration(tmp_path):
    rows = generate(tmp_path, 1, 8)
    assert [row["step"] for row in rows] == [1, 1, 4, 4, 7, 7]
    assert rows[2] == {"step": 4, **examples(4).examples[0]}


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
    Generations().on_train_batch_end(trainer, SimpleNamespace(examples=rows))  # type: ignore[arg-type]
    return logged


def test_what_is_known_of_every_token_is_a_list_in_the_file_and_a_picture_elsewhere(tmp_path):
    tokens = {"tokens": ["Be", "cause", ""], "token_rewards": [0.0, -2.0, 1.0], "token_advantages": [0.5, 0.0, 4.0]}
    rows = [example | tokens for example in examples(1).examples]
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
        rows = [example | tokens for example in examples(step).examples]
        callback.on_train_batch_end(fake_trainer(tmp_path, step), SimpleNamespace(examples=rows))  # type: ignore[arg-type]
    callback.on_fit_end(fake_trainer(tmp_path, 2), None)  # type: ignore[arg-type]
    assert "token advantages, iteration 2" in (tmp_path / "token_advantages.html").read_text()
    assert (tmp_path / "token_rewards.png").read_bytes().startswith(b"\x89PNG")


def test_examples_without_tokens_bring_no_heatmaps(tmp_path):
    (values,) = logged_to_wandb(tmp_path, examples(1).examples)
    assert list(values) == ["generations"]
    callback = Generations()
    callback.on_train_batch_end(fake_trainer(tmp_path, 1), examples(1))  # type: ignore[arg-type]
    callback.on_fit_end(fake_trainer(tmp_path, 1), None)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("token_*"))


def test_modules_without_examples_write_no_generations(tmp_path):
    Generations().on_train_batch_end(fake_trainer(tmp_path, 1), SimpleNamespace())  # type: ignore[arg-type]
    assert not (tmp_path / "generations.jsonl").exists()


def options(model: str, folder) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 40}}
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": model}},
        "data": {"sources": source, "batch_size": 8, "val_fraction": 0.0},
        "trainer": {"max_epochs": 1},
        "export": {"directory": str(folder / "model")},
    }


def test_an_interrupted_run_hands_nothing_over(lit, tiny_model, tmp_path, monkeypatch):
    def interrupt(self, batch, batch_idx):
        if batch_idx == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SFTModule, "on_train_batch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lit("fit", tmp_path, options(tiny_model, tmp_path))
    assert not (tmp_path / "model").exists()


def test_the_last_checkpoint_is_that_of_the_last_step(lit, tiny_model, tmp_path):
    for every in (100, 3):
        lit("fit", tmp_path, options(tiny_model, tmp_path) | {"checkpoint": {"every_n_train_steps": every}})
        saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["global_step"] == 5
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def without_validation(model: str, folder, **data) -> dict:
    given = options(model, folder)
    return given | {"data": given["data"] | data}


@pytest.mark.parametrize(
    ("data", "warned"), [({"val_fraction": 1e-9}, True), ({"val_fraction": 0.5}, False), ({"val_fraction": 0.0}, False)]
)
def test_nothing_left_for_validation_is_said_unless_nothing_was_wanted(lit, tiny_model, tmp_path, caplog, data, warned):
    with caplog.at_level("INFO"):
        lit("fit", tmp_path, without_validation(tiny_model, tmp_path, **data))
    assert ("no responses are left for validation" in caplog.text) == warned


@pytest.mark.parametrize(("size", "warned"), [(24, True), (80, False)])
def test_few_rows_for_validation_are_said(lit, tiny_model, tmp_path, caplog, size, warned):
    given = without_validation(tiny_model, tmp_path, val_fraction=0.5)
    given["data"]["sources"] = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": size}}
    with caplog.at_level("INFO"):
        lit("fit", tmp_path, given)
    assert ("responses say little" in caplog.text) == warned


def test_the_bar_counts_epochs_only_where_they_end_the_run():
    bar = Progress()
    for most, expected in ((3, "Epoch 1/2"), (-1, "Epoch 1"), (None, "Epoch 1")):
        bar._trainer = SimpleNamespace(max_epochs=most, sanity_checking=False)  # type: ignore[assignment]
        assert bar._get_train_description(1).strip() == expected


def test_the_screen_shows_what_matters(tiny_model, tmp_path, capfd, recwarn):
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    model = {"policy": tiny_model, "sampling": {"max_new_tokens": 4}, "reward": {"class_path": "GoldReward"}}
    given = {
        "data": {"sources": source, "batch_size": 4, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path), "logger": False},
    }
    baseline = {"class_path": "BaselineModule", "init_args": {**model, "store": str(tmp_path / "store")}}
    (tmp_path / "predict.yaml").write_text(json.dumps(given | {"model": baseline}))
    given["trainer"]["max_steps"] = 2
    (tmp_path / "fit.yaml").write_text(json.dumps(given | {"model": {"class_path": "PPOModule", "init_args": model}}))
    for command in ("predict", "fit"):
        assert dispatch([command, "-c", str(tmp_path / f"{command}.yaml")]) == 0
    shown = "".join([*capfd.readouterr(), *(str(warning.message) for warning in recwarn)])
    assert "Epoch 0" in shown
    for noise in ("/-2", "batch sampler", "logging interval", "set_vital", "anonymous"):
        assert noise not in shown, noise


@pytest.mark.parametrize("where", ["run", ".", "notes"])
def test_a_run_that_would_replace_its_own_folder_or_other_files_at_its_end_does_not_begin(tmp_path, where):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    trainer = SimpleNamespace(strategy=None, default_root_dir=str(tmp_path / "run"))
    with pytest.raises(DataError, match=r"export to .*\n.*a directory of its own"):
        Export(str(tmp_path / where)).setup(trainer, SFTModule("a/model"), "fit")  # type: ignore[arg-type]
    Export(str(tmp_path / "run" / "model")).setup(trainer, SFTModule("a/model"), "fit")  # type: ignore[arg-type]
    Export(str(tmp_path / where)).setup(trainer, SFTModule("a/model"), "validate")  # type: ignore[arg-type]
