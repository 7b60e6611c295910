"""Offline W&B runs, read back."""

import math

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.wandb_runs import find_wandb_runs, read_wandb_run, read_wandb_runs

LONG = "x" * 100_000  # longer than three blocks of the file


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A finished offline run with a gap in one metric, a long text in its config, and an artifact."""
    import wandb

    folder = tmp_path_factory.mktemp("logged")
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        run = wandb.init(
            project="p",
            name="a name",
            group="g",
            job_type="sft",
            id="abc",
            dir=folder,
            config={"lr": 0.1, "long": LONG},
        )
        for step in range(200):
            run.log({"loss": 1 / (step + 1), **({"val/accuracy": 0.5 + step / 1000} if step % 10 == 0 else {})})
        run.log_artifact(wandb.Artifact("written", "store"))
        run.finish()
        wandb.teardown()
    return folder


def test_metrics_come_back_as_they_were_logged(logged):
    run = read_wandb_run(logged)
    assert (run.id, run.project, run.group, run.job_type, run.name) == ("abc", "p", "g", "sft", "a name")
    assert run.config == {"lr": 0.1, "long": LONG}
    assert run.history["loss"].tolist() == [1 / (step + 1) for step in range(200)]
    assert run.history["step"].tolist() == list(range(200))
    assert run.history["val/accuracy"].notna().sum() == 20
    assert run.summary["loss"] == pytest.approx(1 / 200)
    assert ("written", "store") in run.made
    assert run.complete


def test_a_run_that_was_killed_gives_what_its_file_holds_whole(logged, tmp_path):
    (file,) = find_wandb_runs(logged)
    content = file.read_bytes()
    rows = []
    for share in (0.75, 0.9):
        cut = tmp_path / "cut.wandb"
        cut.write_bytes(content[: int(share * len(content))])
        run = read_wandb_run(cut)
        assert not run.complete
        rows.append(len(run.history))
        assert run.history.empty or math.isclose(run.history["loss"].iloc[-1], 1 / rows[-1])
    assert 0 <= rows[0] < rows[1] <= 200


def test_all_runs_below_a_folder_are_found(logged, tmp_path):
    assert [run.id for run in read_wandb_runs(logged)] == ["abc"]
    assert read_wandb_runs(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file of a W&B run"), (b"{}", "does not begin as a file of a W&B run does")],
)
def test_what_is_no_run_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run-1.wandb").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_wandb_run(tmp_path)


def test_damage_is_noticed(logged, tmp_path):
    (file,) = find_wandb_runs(logged)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.wandb").write_bytes(content)
    with pytest.raises(DataError, match="damaged at byte"):
        read_wandb_run(tmp_path)
