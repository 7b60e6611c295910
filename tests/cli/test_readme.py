"""The commands that the README shows, as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from lit_rlhf import policy, rewards
from lit_rlhf.cli import commands
from lit_rlhf.cli.commands import dispatch
from lit_rlhf.data import treatments
from lit_rlhf.world import WorldPairs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def commands_of(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.mark.slow
def test_the_commands_for_own_pairs_work_one_after_another(monkeypatch, tmp_path, tiny_model):
    block = "".join(re.findall(r"<!-- tested -->\n```bash\n(.*?)```", README, flags=re.DOTALL))
    pairs = [
        {"prompt": record.prompt[-1].content, "chosen": record.chosen, "rejected": record.rejected}
        for record in WorldPairs(50).records()
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for program, *words in commands_of(block.replace("$MODEL", tiny_model).replace("$PAIRS", "pairs.jsonl")):
        assert program == "lit-rlhf"
        quiet = ["--trainer.enable_progress_bar", "false"] if words[0] in commands.LIGHTNING else []
        assert dispatch([*words, *quiet]) == 0
    assert AutoModelForCausalLM.from_pretrained("runs/mine/ppo/model").num_parameters() > 0
    scoring, training = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(scoring.replace("model.score", "scores = model.score"), names)
    assert len(names["scores"]) == 1
    exec(training.replace("path/to/model", tiny_model).replace("my-pairs", "pairs"), names)
    assert names["module"].hparams["model"] == tiny_model
    assert len(Path("runs/mine/ppo/metrics.jsonl").read_text().splitlines()) >= 20


def test_every_file_and_command_that_is_named_exists():
    for path in re.findall(r"configs/[\w/-]+\.yaml", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"lit-rlhf (\w+) ", README):
        assert name in (*commands.LIGHTNING, *commands.FUNCTIONS, "run", "COMMAND"), name
    for target in re.findall(r"(?:`|\n)make (\w+)", README):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target


def test_every_class_that_the_methods_name_can_be_chosen():
    (table,) = re.findall(r"## Methods\n\n(.*?)\n\n", README, flags=re.DOTALL)
    classes = set(re.findall(r"`([A-Z]\w+)`", table))
    assert {"ScalarRewardModule", "ContrastiveReward", "AdaptiveMargin"} <= classes
    known = vars(rewards) | vars(policy) | vars(treatments)
    assert classes <= known.keys()


def test_variables_that_are_named_exist():
    for file, words in re.findall(r"lit-rlhf run (configs/experiments/\w+\.yaml)((?: (?:\\\n)?[^\n`]*)?)", README):
        variables = yaml.safe_load((ROOT / file).read_text()).get("variables", {})
        for name in re.findall(r"--variables\.(\w+)", words):
            assert name in variables, f"{file}: {name}"
