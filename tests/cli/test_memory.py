import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.memory import STAGES, _configured, plan
from lit_rlhf.data.errors import DataError

ROOT = Path(__file__).parents[2]
SCALING = (ROOT / "docs/scaling.md").read_text("utf-8")
EXAMPLES = re.findall(r"^\| `lit-rlhf plan (.*?)` \| (.*?) \| ([\d.]+) \| (yes|no) \|$", SCALING, flags=re.MULTILINE)


def test_the_status_says_whether_it_fits(capsys, tiny_model):
    words = ["plan", "--model", tiny_model, "--stage", "reward", "--batch_size", "2"]
    assert dispatch([*words, "--gpu_memory", "2"]) == 0
    assert "It fits." in capsys.readouterr().out
    assert dispatch([*words, "--gpu_memory", "1"]) == 1
    shown = capsys.readouterr().out
    assert "It does not fit." in shown
    assert "LoRA 16" in shown


def test_the_parts_of_the_report_add_up(tiny_model, tmp_path):
    found = plan(tiny_model, "ppo", lora=4, batch_size=4, prompt=8, response=8, report=str(tmp_path / "a/plan.json"))
    assert json.loads((tmp_path / "a/plan.json").read_text()) == found
    assert sum(found["peak"]["parts"].values()) == pytest.approx(found["peak"]["total"])
    assert found["peak"]["total"] == max(found["moments"].values())
    assert found["work"]["lora"] == 4


def test_a_model_that_does_not_fit_is_told_how_many_gpus_would_do():
    found = plan(str(ROOT / "configs/models/llama3-70b.json"), "reward", batch_size=2, prompt=512, response=512)
    assert not found["fits"]
    assert found["fewest_gpus"]["gpus"] >= 4
    assert found["fewest_gpus"]["fits"]


def test_the_configs_of_a_stage_say_what_the_options_leave_open(tmp_path, tiny_model):
    overlay = {
        "model": {"init_args": {"policy": "a/model", "lora": {"alpha": 4.0}, "sampling": {"max_new_tokens": 99}}},
        "data": {"batch_size": 24, "max_length": 100},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    files = [
        str(ROOT / "configs" / name) for name in ("policy/ppo.yaml", "trainer/fsdp.yaml", "trainer/multinode.yaml")
    ]
    assert _configured([*files, str(tmp_path / "mine.yaml")]) == {
        "stage": "ppo", "model": "a/model", "lora": 8, "minibatch": 16, "batch_size": 24, "prompt": 100,
        "response": 99, "precision": "bf16-mixed", "gpus": 64, "sharding": "fsdp",
    }  # fmt: skip
    found = plan(tiny_model, configs=[*files, str(tmp_path / "mine.yaml")], gpus=2, batch_size=1)
    assert (found["work"]["gpus"], found["work"]["batch_size"], found["work"]["response"]) == (2, 1, 99)


def test_rows_a_few_at_a_time_are_planned_as_so_many_rows(tmp_path):
    overlay = {"model": {"init_args": {"lora": {"r": 4}, "micro_batch_size": 3}}, "data": {"batch_size": 24}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    found = _configured([str(ROOT / "configs/policy/sft.yaml"), str(tmp_path / "mine.yaml")])
    assert (found["stage"], found["lora"], found["batch_size"]) == ("sft", 4, 3)


def test_layers_are_planned_to_be_computed_again_where_a_stage_does_so(tmp_path, tiny_model):
    again = {"class_path": "lit_rlhf.networks.checkpointing.LayerCheckpointing"}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [again]}}))
    files = [str(tmp_path / "again.yaml"), str(ROOT / "configs/reward/scalar.yaml")]
    assert _configured(files)["checkpointing"] is True
    with pytest.raises(DataError, match="never computes layers again"):
        plan(tiny_model, "ppo", checkpointing=True)


def test_what_is_missing_or_cannot_be_planned_is_named(tmp_path):
    with pytest.raises(DataError, match="option stage"):
        plan("a/model")
    with pytest.raises(DataError, match="ContrastiveRewardModule"):
        plan("a/model", configs=[str(ROOT / "configs/reward/contrastive.yaml")])
    with pytest.raises(DataError, match=r"none\.yaml"):
        plan("a/model", configs=[str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(("words", "what", "total", "fits"), EXAMPLES, ids=lambda value: str(value)[:40])
def test_the_plans_that_the_docs_show_are_those_of_today(monkeypatch, tmp_path, words, what, total, fits):
    monkeypatch.chdir(ROOT)
    report = tmp_path / "plan.json"
    assert dispatch(["plan", *shlex.split(words), "--report", str(report)]) == (0 if fits == "yes" else 1)
    assert f"{json.loads(report.read_text())['peak']['total']:.1f}" == total


def test_every_example_for_a_scale_has_its_plan():
    assert len(STAGES) == 5
    for file in (ROOT / "configs/scale").glob("*.yaml"):
        assert any(f"configs/scale/{file.name}" in words for words, *_ in EXAMPLES), file.name
