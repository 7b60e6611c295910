import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lit_rlhf.cli.callbacks import Export, History
from lit_rlhf.cli.checkpoints import RandomState
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


@pytest.mark.parametrize("where", ["run", ".", "notes"])
def test_a_run_that_would_replace_its_own_folder_or_other_files_at_its_end_does_not_begin(tmp_path, where):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    trainer = SimpleNamespace(strategy=None, default_root_dir=str(tmp_path / "run"))
    with pytest.raises(DataError, match=r"export to .*\n.*a directory of its own"):
        Export(str(tmp_path / where)).setup(trainer, SFTModule("a/model"), "fit")  # type: ignore[arg-type]
    Export(str(tmp_path / "run" / "model")).setup(trainer, SFTModule("a/model"), "fit")  # type: ignore[arg-type]
    Export(str(tmp_path / where)).setup(trainer, SFTModule("a/model"), "validate")  # type: ignore[arg-type]
