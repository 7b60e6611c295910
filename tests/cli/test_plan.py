import pytest

from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.experiment import run_experiment
from lit_rlhf.data.errors import DataError


def test_a_folder_of_stage_files_is_an_experiment(ran, tmp_path):
    folder = tmp_path / "steps"
    folder.mkdir()
    (folder / "02-sft.yaml").write_text("command: fit\nconfig: [cpu.yml]\noptions: {model: {a: '${run}/base/model'}}\n")
    (folder / "01_base.yaml").write_text("command: world\noptions: {seed: '${seed}'}\n")
    (folder / "10-other.yaml").write_text("name: last\ncommand: compare\nreport: all\n")
    (folder / "cpu.yml").write_text("trainer: {accelerator: cpu}\n")
    summary = run_experiment(str(folder), out=str(tmp_path / "run"), seed=4)
    assert ran == ["base", "sft", "last"]
    assert summary["fake"] == 1.0
    assert (summary["seed"], list(summary["seconds"])) == (4, ran)


def test_only_some_stages(ran, write_experiment, tmp_path):
    stages = [f"{{name: {name}, command: world}}" for name in "abc"]
    file = write_experiment(tmp_path / "x.yaml", *stages)
    summary = run_experiment(file, out=str(tmp_path / "run"), only=["c", "a"])
    assert ran == ["a", "c"]
    assert list(summary["seconds"]) == ["a", "c"]
    with pytest.raises(DataError, match="no stage 'd'"):
        run_experiment(file, out=str(tmp_path / "run"), only=["d"])


def test_variables_keep_their_types_and_can_be_given(monkeypatch, write_experiment, tmp_path):
    seen = []
    monkeypatch.setattr("lit_rlhf.cli.experiment.call", lambda *args, options, **rest: seen.append(options) or {})
    options = "{n: '${n}', text: 'n is ${n}', none: '${none}', list: '${list}', name: '${name}', run: '${run}/x'}"
    head = {"variables": {"n": 3, "none": None, "list": ["a", "b"], "name": "012"}}
    file = write_experiment(tmp_path / "x.yaml", f"{{name: a, command: world, options: {options}}}", **head)
    run_experiment(file, out=str(tmp_path / "run"))
    run_experiment(file, out=str(tmp_path / "run"), variables={"n": 4.5, "list": "pairs.jsonl"})
    run = {"run": f"{tmp_path / 'run'}/x"}
    assert seen[0] == {"n": 3, "text": "n is 3", "none": None, "list": ["a", "b"], "name": "012", **run}
    assert seen[1] == {"n": 4.5, "text": "n is 4.5", "none": None, "list": "pairs.jsonl", "name": "012", **run}


@pytest.mark.parametrize(
    ("only", "expected"),
    [("a", ["a"]), ("a,c", ["a", "c"]), ("[a]", ["a"]), ("[c, a]", ["a", "c"])],
)
def test_stages_are_named_on_the_command_line_as_people_write_them(
    ran, write_experiment, tmp_path, capsys, only, expected
):
    file = write_experiment(tmp_path / "x.yaml", *[f"{{name: {name}, command: world}}" for name in "abc"])
    assert dispatch(["run", file, "--out", str(tmp_path / "run"), "--only", only]) == 0
    assert ran == expected
    assert dispatch(["run", file, "--out", str(tmp_path / "run"), "--only", f"{only}x".replace("]x", "x]")]) == 1
    assert "Its stages are: a, b, c" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stages: [{name: a, command: train}]", "no command 'train'"),
        ("stages: [{name: a, command: fit, option: {}}]", "option"),
        ("stages: [{command: fit}]", "name"),
        ("stages: [{name: a, command: fit, config: [nothing.yaml]}]", "config of stage 'a'"),
        ("steps: []", "no list of stages"),
        ("[1, 2]", "no list of stages"),
        ("a: [", "cannot be read"),
        ("variables: {x: '???'}\nstages: []", "--variables.x"),
    ],
)
def test_mistakes_in_an_experiment_are_named(tmp_path, content, message):
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        run_experiment(str(file), out=str(tmp_path / "run"))
    assert "broken.yaml" in str(raised.value) or "nothing.yaml" in str(raised.value)


def test_a_missing_file_and_an_unknown_variable_are_named(write_experiment, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.yaml"):
        run_experiment(str(tmp_path / "nothing.yaml"))
    file = write_experiment(tmp_path / "x.yaml", "{name: a, command: world}", variables={"known": 1})
    with pytest.raises(DataError, match=r"'unknwon'[\s\S]*known"):
        run_experiment(file, out=str(tmp_path / "run"), variables={"unknwon": 2})
