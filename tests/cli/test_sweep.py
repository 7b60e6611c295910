"""Sweeps without a server: the trials that a W&B file asks for."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_rlhf.cli.stage import make_cli
from lit_rlhf.cli.sweep import draw, read_sweep, sweep
from lit_rlhf.data.errors import DataError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "configs" / "sweeps" / "reward.yaml"
TRIAL = """
import json, os, pathlib, sys
given = dict(word[2:].split("=") for word in sys.argv[1:])
place = pathlib.Path("runs/sweeps/small") / os.environ["WANDB_RUN_ID"]
place.mkdir(parents=True, exist_ok=True)
with (place / "metrics.jsonl").open("a") as file:
    file.write(json.dumps({"val/loss": (float(given["x"]) - 2) ** 2, "group": os.environ["WANDB_RUN_GROUP"]}) + "\\n")
sys.exit(int(given["x"] == "3"))
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = {
        "name": "small",
        "method": "grid",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": {"x": {"values": [0, 1, 3]}, "a.b": {"value": "text"}},
        "command": [sys.executable, "-c", TRIAL, "${args}"],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


def test_every_point_of_a_grid_is_tried_and_the_best_comes_first(small):
    result = sweep("small.yaml")
    assert [each["parameters"]["x"] for each in result["trials"]] == [1, 0, 3]
    assert result["best"]["metric"] == 1.0
    assert [each["status"] for each in result["trials"]] == [0, 0, 1]
    assert json.loads(Path("runs/sweeps/small/sweep.json").read_text()) == result
    assert "sweep small" in Path("runs/sweeps/small/trial-000/metrics.jsonl").read_text()


def test_called_again_it_runs_what_failed_and_skips_what_is_done(small):
    sweep("small.yaml")
    sweep("small.yaml")
    lengths = [len(path.read_text().splitlines()) for path in sorted(small.glob("runs/sweeps/small/*/metrics.jsonl"))]
    assert lengths == [1, 1, 2]


def test_random_trials_lie_within_their_bounds_and_depend_on_the_seed_alone():
    spec = read_sweep(FILE)
    trials = list(draw(spec, 50, 0, str(FILE)))
    rates = [each["model.init_args.optimizer.lr"] for each in trials]
    assert all(1e-4 <= rate <= 4e-3 for rate in rates)
    assert sum(rate < (1e-4 * 4e-3) ** 0.5 for rate in rates) in range(15, 36)  # evenly on the logarithmic scale
    assert {each["data.batch_size"] for each in trials} == {16, 32, 64}
    assert trials == list(draw(spec, 50, 0, str(FILE))) != list(draw(spec, 50, 1, str(FILE)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "bayes"}, "not done without a server"),
        ({"method": "random"}, "a random search has no end"),
        ({"parameters": {"x": {"min": 0, "max": 1}}}, "neither value nor values"),
        (
            {"method": "random", "run_cap": 1, "parameters": {"x": {"distribution": "q_normal", "min": 0, "max": 1}}},
            "q_nor",
        ),
        ({"metric": None}, "has no metric"),
        ({"metric": {"name": "val/other"}}, "no trial gave val/other"),
    ],
)
def test_what_cannot_be_done_is_said(small, change, message):
    spec = yaml.safe_load(Path("small.yaml").read_text()) | change
    Path("small.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(DataError, match=message):
        sweep("small.yaml")


def test_the_command_of_the_file_that_comes_along_is_understood_by_the_stage(monkeypatch, tiny_model):
    """As W&B's agent and `lit-rlhf sweep` call it, up to the point where training would begin."""
    monkeypatch.chdir(ROOT)
    spec = read_sweep(FILE)
    (trial,) = draw(spec, 1, 0, str(FILE))
    words = [f"--{name}={value}" for name, value in (trial | {"model.init_args.model": tiny_model}).items()]
    shell, option, script, *rest = [
        part for each in spec["command"] for part in (words if each == "${args}" else [each])
    ]
    said = script.replace("exec lit-rlhf", "printf '%s\\n'")
    shown = subprocess.run(
        [shell, option, said, *rest],
        capture_output=True,
        text=True,
        check=True,
        env={"WANDB_RUN_ID": "abc", "PATH": "/bin"},
    ).stdout.splitlines()
    assert shlex.split(script)[1:3] == ["lit-rlhf", "fit"]
    cli = make_cli(shown[1:], run=False)
    assert cli.trainer.default_root_dir.endswith("runs/sweeps/reward/abc")
    assert cli.model.optimizer.lr == pytest.approx(trial["model.init_args.optimizer.lr"])
    assert cli.datamodule.batch_size == trial["data.batch_size"]
    assert cli.datamodule.sources[0].size == 3200


def test_wandb_takes_the_file():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    spec = read_sweep(FILE)
    command = create_sweep_command(spec["command"])
    assert command == spec["command"]
    given = create_sweep_command_args({"args": {"model.init_args.optimizer.lr": {"value": 0.001}}})
    assert given["args"] == ["--model.init_args.optimizer.lr=0.001"]
