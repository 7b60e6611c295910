"""Every shipped config against the real signatures: parsed, and its classes built."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lit_rlhf.cli import commands
from lit_rlhf.cli.experiment import run_experiment
from lit_rlhf.cli.plan import REQUIRED, fill_variables, plan_stages
from lit_rlhf.cli.stage import StageCLI, make_cli

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))
MACHINES = sorted(file for file in (CONFIGS / "trainer").glob("*.yaml") if file.stem not in ("cpu", "cpu_ddp"))
SCALES = sorted((CONFIGS / "scale").glob("*.yaml"))
OTHERS = [file for folder in ("studies", "sweeps") for file in (CONFIGS / folder).glob("*.yaml")]
APART = {*EXPERIMENTS, *MACHINES, *SCALES, *OTHERS}
PARTS = sorted(file for file in CONFIGS.rglob("*.yaml") if file not in APART)

SCALAR = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": "a/model"}}
MISSING = {
    "SFTModule": {"model": "a/model"},
    "ContrastiveRewardModule": {"model": "a/model"},
    "MetaRewardModule": {"model": "a/model", "samples": "a/store"},
    "ScalarRewardModule": {"model": "a/model"},
    "Seq2SeqRewardModule": {"model": "a/model"},
    "PPOModule": {"policy": "a/model", "reward": SCALAR},
    "BaselineModule": {"policy": "a/model", "reward": SCALAR, "store": "a/store"},
}


@pytest.mark.parametrize("file", PARTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_part_with_its_required_options_becomes_a_stage(file, tmp_path):
    content = yaml.safe_load(file.read_text())
    module = content.get("model", {"class_path": "SFTModule"})["class_path"]
    rest = tmp_path / "rest.yaml"
    model = {"class_path": module, "init_args": MISSING[module]}
    rest.write_text(yaml.safe_dump({"data": {"sources": "pairs.jsonl"}, "trainer": {"logger": False}, "model": model}))
    cli = make_cli(["-c", str(rest), "-c", str(file)], run=False)
    assert type(cli.model).__name__ == module
    for name, value in content.get("trainer", {}).items():
        assert cli.config["trainer"][name] == value


@pytest.mark.parametrize("file", PARTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_stage_that_learns_says_when_it_ends(file):
    """Left alone, Lightning takes a thousand epochs."""
    content = yaml.safe_load(file.read_text())
    if "model" in content and content["model"]["class_path"] != "BaselineModule":
        assert {"max_epochs", "max_steps"} & content["trainer"].keys()


@pytest.mark.parametrize("module", ["policy/sft", "policy/ppo", "reward/scalar"])
@pytest.mark.parametrize("file", [*MACHINES, *SCALES], ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_needs_gpus_parses_behind_a_stage(file, module, monkeypatch, tmp_path):
    stage = CONFIGS / f"{module}.yaml"
    if file in SCALES and module != "reward/scalar":
        pytest.skip("is an example of a reward model")
    for hook in ("instantiate_classes", "after_instantiate_classes"):  # there is no GPU to build a Trainer for
        monkeypatch.setattr(StageCLI, hook, lambda self: None)
    rest = tmp_path / "rest.yaml"
    name = yaml.safe_load(stage.read_text())["model"]["class_path"]
    model = {"class_path": name, "init_args": MISSING[name]}
    rest.write_text(yaml.safe_dump({"data": {"sources": "pairs.jsonl"}, "trainer": {"logger": False}, "model": model}))
    below = [CONFIGS / "trainer" / "fsdp2.yaml"] if file.stem == "multinode" else []
    cli = make_cli([word for each in (rest, stage, *below, file) for word in ("-c", str(each))], run=False)
    content = yaml.safe_load(file.read_text())
    for name, value in content.get("trainer", {}).items():
        if name == "strategy":
            assert cli.config["trainer"][name]["class_path"] == value["class_path"]
            given = cli.config["trainer"][name]["init_args"]
            assert all(given[option] is not None for option in value["init_args"])
        elif name == "callbacks":
            given = [each["class_path"] for each in cli.config["trainer"][name]]
            assert given == [each["class_path"] for each in value]
        else:
            assert cli.config["trainer"][name] == value
    if file in SCALES:
        assert cli.config["model"]["init_args"]["model"] == content["model"]["init_args"]["model"]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_stage_of_an_experiment_can_be_built(file, monkeypatch, tmp_path):
    built = []

    def build_stage(args):
        cli = make_cli([*args[1:], "--trainer.logger", "false"], run=False)
        built.append((args[0], cli))
        return SimpleNamespace(trainer=SimpleNamespace(interrupted=False, callback_metrics={}, callbacks=[]))

    def build_function(command, options, **rest):
        parser = commands._parser(commands._function(command), command)
        built.append((command, parser.instantiate(parser.parse_object(options))))
        return {}

    monkeypatch.setattr("lit_rlhf.cli.stage.run_stage", build_stage)
    monkeypatch.setattr("lit_rlhf.cli.experiment.call", build_function)
    spec = yaml.safe_load(file.read_text())
    given = {name: "given" for name, value in spec.get("variables", {}).items() if value == REQUIRED}
    run_experiment(str(file), out=str(tmp_path / "run"), seed=7, variables=given)

    run = tmp_path / "run"
    names = fill_variables(spec.get("variables", {}), given, str(file)) | {"run": str(run), "seed": 7}
    stages = plan_stages(spec["stages"], file, run, names)
    assert len(stages) >= len(spec["stages"])
    for stage, (command, cli) in zip(stages, built, strict=True):
        assert command == stage.command
        if command not in commands.LIGHTNING:
            continue
        folder = run / stage.name
        assert cli.config["seed_everything"] == 7
        assert cli.trainer.checkpoint_callback.dirpath == str(folder / "checkpoints")
        assert cli.config["export"]["directory"] == (str(folder / "model") if command == "fit" else None)
        assert "${" not in (folder / "stage.yaml").read_text()


def test_there_is_something_to_test():
    assert {file.stem for file in EXPERIMENTS} >= {"demo"}
    assert {file.stem for file in PARTS} >= {"sft", "scalar", "baselines", "ppo", "cpu"}
