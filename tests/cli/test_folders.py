"""Which folder a stage gets, and what becomes of the one that stood in its place."""

import json

import pytest

from lit_rlhf.cli import experiment
from lit_rlhf.cli.experiment import run_experiment
from lit_rlhf.data.errors import DataError


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("one")
    return tmp_path


@pytest.fixture
def run(write_experiment, place):
    stages = (
        "{name: sft, command: fit, options: {data: {sources: '${pairs}'}}, report: {sft: {it: fake}}}",
        "{name: other, command: world, options: {seed: 1}, report: {other: {it: fake}}}",
        "{name: compare, command: compare, options: {reward: '${run}/sft/model', out: '${run}'}}",
    )
    file = write_experiment(place / "x.yaml", *stages, variables={"pairs": "pairs.jsonl"})
    return lambda **options: run_experiment(file, out=str(place / "run"), **options)


def test_a_changed_input_file_reruns_its_stage_and_those_that_build_on_it(run, ran, place):
    run()
    ran.clear()
    (place / "pairs.jsonl").write_text("two")
    run()
    assert ran == ["sft", "compare"]
    ran.clear()
    (place / "pairs.jsonl").write_text("two")
    run()
    assert ran == []


def test_options_about_the_screen_rerun_nothing(run, ran):
    run()
    ran.clear()
    run(extra=["--trainer.logger", "false", "--trainer.enable_progress_bar=false"])
    assert ran == []
    run(extra=["--trainer.max_steps", "3"])
    assert ran == ["sft", "compare"]


def test_with_the_old_options_the_old_folder_comes_back(run, ran, place):
    run()
    (place / "run" / "sft" / "model").write_text("first")
    run(variables={"pairs": "others"})
    (place / "run" / "sft" / "model").write_text("second")
    ran.clear()
    run()
    assert ran == ["compare"]  # which wrote outside its folder: what lies there may be another run's
    assert (place / "run" / "sft" / "model").read_text() == "first"
    assert (place / "run" / "sft~2" / "model").read_text() == "second"
    ran.clear()
    run()
    assert ran == []


@pytest.mark.parametrize("written", [None, "model"])
def test_a_stage_that_fails_before_it_writes_leaves_the_old_folder_in_place(run, ran, place, monkeypatch, written):
    run()
    (place / "run" / "sft" / "fit.yaml").write_text("first")

    def fails(stage, *rest):
        (stage.directory / "stage.yaml").write_text("")
        (stage.directory / "wandb").mkdir()
        if written:
            (stage.directory / written).write_text("")
        raise DataError("not found", "typo.jsonl")

    monkeypatch.setattr(experiment, "_run_lightning", fails)
    with pytest.raises(DataError, match="not found"):
        run(variables={"pairs": "typo.jsonl"})
    kept = place / "run" / ("sft~1" if written else "sft")
    assert (kept / "fit.yaml").read_text() == "first"
    assert (place / "run" / "sft~1").exists() == bool(written)
    ran.clear()
    run()
    assert ran == []


def test_the_summary_holds_only_what_fits_the_present_options(run, ran, place, capsys, caplog):
    run()
    with caplog.at_level("INFO"):
        summary = run(variables={"pairs": "others"}, only="other")
    assert set(summary["seconds"]) == {"other"}
    assert "sft" not in summary
    assert json.loads((place / "run" / "summary.json").read_text()) == summary
    assert "stage sft is not in the summary" in caplog.text + capsys.readouterr().err
