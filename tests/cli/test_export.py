"""From a checkpoint to a Hugging Face directory: what is exported later is what the run itself wrote at its end."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as parts
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.export import export
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.rewards import RewardModel
from lit_rlhf.world import WorldPrompts, write_base_model

LORA = {"r": 2, "targets": ["q_proj", "v_proj"]}


def world(kind: str, size: int, **options) -> dict:
    return {"class_path": f"lit_rlhf.world.{kind}", "init_args": {"size": size, **options}}


def samples(folder: Path) -> str:
    """What MetaRM learns from: two samples for each of four prompts."""
    store = Store(folder / "samples")
    store.begin({"policy": "some"})
    rows = []
    for record in WorldPrompts(4).records():
        messages = [{"role": message.role, "content": message.content} for message in record.prompt]
        rows.append({"messages": messages, "responses": ["No.", "Yes."], "truncated": [False] * 2, "scores": None})
    store.write_part(0, rows)
    store.finish(1)
    return str(store.directory)


@pytest.fixture
def train(lit, tiny_model, tiny_reward_model, tmp_path):
    """Train a module for two steps; returns its checkpoint and the directory that the run itself exported."""

    def run(module: str, template: str | None = None, **arguments) -> tuple[Path, Path]:
        learner = {"model": tiny_model, "optimizer": {"lr": 1e-2}}
        if module == "PPOModule":
            reward = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model}}
            learner = {"policy": tiny_model, "reward": reward, "sampling": {"max_new_tokens": 4}}
            learner |= {"optimizer": {"lr": 1e-2}, "settings": {"critic_warmup": 1}}
        if module == "MetaRewardModule":
            learner["samples"] = samples(tmp_path)
        kind = {"SFTModule": "WorldDemonstrations", "PPOModule": "WorldPrompts"}.get(module, "WorldPairs")
        options = {
            "model": {"class_path": module, "init_args": {**learner, **arguments}},
            "data": {
                "sources": world(kind, 8), "val_sources": world(kind, 4, split="val"), "template": template,
                "batch_size": 4, "max_length": 128,
            },
            "trainer": {"max_steps": 2, "log_every_n_steps": 1},
            "export": {"directory": str(tmp_path / "by_the_run")},
        }  # fmt: skip
        lit("fit", tmp_path / "run", options)
        return tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "by_the_run"

    return run


def files(folder: Path) -> dict[str, bytes]:
    """Content by name; the card calls the model as its directory is called."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content.replace(folder.name.encode(), b"NAME") for name, content in found.items()}


def into_parts(checkpoint: Path, folder: Path, name: str = "state_dict") -> Path:
    """The checkpoint as strategies write it that split the network: ``name`` is what they call the weights."""
    content = torch.load(checkpoint, weights_only=True)
    optimizers = {f"optimizer_{number}": state for number, state in enumerate(content.pop("optimizer_states"))}
    parts.save({name: content.pop("state_dict"), **optimizers}, checkpoint_id=folder, no_dist=True)
    torch.save(content, folder / "meta.pt")
    return folder


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("SFTModule", {}),
        ("ScalarRewardModule", {}),
        pytest.param("ScalarRewardModule", {"lora": LORA}, marks=pytest.mark.slow),
        pytest.param("ContrastiveRewardModule", {"objective": "swav"}, marks=pytest.mark.slow),
        pytest.param("MetaRewardModule", {"lora": LORA}, marks=pytest.mark.slow),
        pytest.param("Seq2SeqRewardModule", {"lora": LORA, "marker": "\nBetter: "}, marks=pytest.mark.slow),
        pytest.param("PPOModule", {}, marks=pytest.mark.slow),
        ("PPOModule", {"lora": LORA}),
    ],
)
def test_every_module_is_exported_from_its_checkpoint_as_at_the_end_of_its_run(train, tmp_path, module, arguments):
    checkpoint, expected = train(module, **arguments)
    shutil.rmtree(tmp_path / "samples", ignore_errors=True)  # the trained weights need them no more
    assert dispatch(["export", str(checkpoint), str(tmp_path / "exported_later")]) == 0
    assert files(tmp_path / "exported_later") == files(expected)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["state_dict", "model"])
def test_a_checkpoint_in_parts_gives_the_same_directory(train, tmp_path, name):
    checkpoint, expected = train("ScalarRewardModule")
    folder = into_parts(checkpoint, tmp_path / "parts.ckpt", name)
    checkpoint.unlink()
    export(str(folder), str(tmp_path / "exported_later"))
    assert files(tmp_path / "exported_later") == files(expected)


def test_plain_transformers_and_this_package_load_it(train, tmp_path):
    checkpoint, _ = train("ScalarRewardModule", template="plain")
    path = str(export(str(checkpoint), str(tmp_path / "exported_later")))
    ours = RewardModel.load(path)
    assert ours.calibration is not None
    assert ours.calibration["n"] == 8
    tokenizer = Renderer.load(path).tokenizer
    theirs = AutoModelForSequenceClassification.from_pretrained(path)
    ids = tokenizer("Hello there." + tokenizer.eos_token, return_tensors="pt", add_special_tokens=False)["input_ids"]
    asked, answer = ours.tokenise(["Hello"], ["there."])
    assert [*asked[0], *answer[0]] == ids[0].tolist(), "the template travels along"
    assert float(theirs(ids).logits) == pytest.approx(ours.score(["Hello"], ["there."])[0], abs=1e-6)


def test_the_card_tells_what_the_model_is_and_how_it_came_to_be(train, tmp_path):
    checkpoint, _ = train("ScalarRewardModule")
    card = (export(str(checkpoint), str(tmp_path / "judge")) / "README.md").read_text()
    head = card.split("---")[1]
    assert yaml.safe_load(head)["pipeline_tag"] == "text-classification"
    assert yaml.safe_load(head).get("license") is None
    assert "# license:" in head, "left to whoever passes the model on"
    for part in (
        *("# judge\n", "Bradley–Terry reward model", "`ScalarRewardModule`", 'RewardModel.load("judge")'),
        *("WorldPairs", "train: 8 kept", "| val/accuracy | ", "by step 2, on 20", "standard deviation"),
        *("lr: 0.01", "batch_size: 4", "max_steps: 2", f"torch {torch.__version__}", "## Licence"),
    ):
        assert part in card, part


def test_the_card_of_a_policy_shows_how_it_speaks(train, tmp_path, monkeypatch):
    checkpoint, _ = train("SFTModule")
    monkeypatch.chdir(tmp_path)
    export(str(checkpoint), "writer")
    card = Path("writer/README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-generation"
    code = card.split("```python\n")[1].split("```")[0]
    exec(compile(code, "card", "exec"), {})
    assert isinstance(AutoModelForCausalLM.from_pretrained("writer"), torch.nn.Module)


def test_the_card_of_a_reward_model_gives_its_score_in_two_ways(train, tmp_path, monkeypatch):
    checkpoint, _ = train("ScalarRewardModule")
    monkeypatch.chdir(tmp_path)
    export(str(checkpoint), "judge")
    ours, theirs = (part.split("```")[0] for part in Path("judge/README.md").read_text().split("```python\n")[1:3])
    names: dict = {}
    exec(compile(f"{ours}\nours = " + ours.splitlines()[-1].partition("  #")[0], "card", "exec"), names)
    exec(compile(theirs, "card", "exec"), names)
    assert names["score"] == pytest.approx(names["ours"][0], abs=1e-5)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.slow
def test_a_model_that_has_moved_is_named_and_another_is_refused(train, tiny_model, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model, moved)
    checkpoint, expected = train("ScalarRewardModule", model=str(moved), lora=LORA)
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="moved"):
        export(str(checkpoint), str(tmp_path / "exported_later"))
    other = str(write_base_model(tmp_path / "other", "tiny", seed=1))
    with pytest.raises(DataError, match="adapters have base"):
        export(str(checkpoint), str(tmp_path / "exported_later"), model=other)
    assert not (tmp_path / "exported_later").exists()
    export(str(checkpoint), str(tmp_path / "exported_later"), model=str(tmp_path / "elsewhere"))
    assert files(tmp_path / "exported_later")["model.safetensors"] == files(expected)["model.safetensors"]


def test_a_checkpoint_of_other_weights_or_with_some_missing_is_refused(train, write_model, tmp_path):
    checkpoint, _ = train("SFTModule")
    with pytest.raises(DataError, match="does not fit its model: size mismatch"):
        export(
            str(checkpoint),
            str(tmp_path / "exported_later"),
            model=write_model("qwen2"),
            tokenizer=write_model("qwen2"),
        )
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["network.model.model.norm.weight"]
    torch.save(content, checkpoint)
    with pytest.raises(DataError, match=r"lacks 1 trained weights, such as network\.model\.model\.norm"):
        export(str(checkpoint), str(tmp_path / "exported_later"))


def test_what_is_no_checkpoint_of_ours_is_a_message(tmp_path, capsys):
    (tmp_path / "text.ckpt").write_text("text")
    torch.save({"state_dict": {}, "callbacks": {}}, tmp_path / "other.ckpt")
    for name, says in (
        ("gone.ckpt", "cannot be read: No such file"),
        ("text.ckpt", "is no checkpoint"),
        ("other.ckpt", "does not say which module"),
    ):
        assert dispatch(["export", str(tmp_path / name), str(tmp_path / "out")]) == 1
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_imports_no_code_but_this_project_s(tmp_path):
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    saved = {"class_path": "theirs.Module", "init_args": {}}
    inner = {"class_path": "lit_rlhf.policy.SFTModule", "init_args": {"model": "x", "optimizer": saved}}
    for number, options in enumerate((saved, inner)):
        path = tmp_path / f"{number}.ckpt"
        torch.save({"callbacks": {"SaveConfig": {"model": options}}, "state_dict": {}}, path)
        with pytest.raises(DataError, match=r"names theirs\.Module[\s\S]*--own_code true"):
            export(str(path), str(tmp_path / "out"))
    assert not (tmp_path / "mark").exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["meta.pt", ".metadata", "values"])
def test_code_in_a_checkpoint_s_folder_is_refused_and_does_not_run(tmp_path, where):
    folder, mark = tmp_path / "parts.ckpt", tmp_path / "mark"
    values = {"state_dict": {"x": torch.ones(2)}, "optimizer_0": {"lr": Bomb(mark) if where == "values" else 0.1}}
    parts.save(values, checkpoint_id=folder, no_dist=True)
    torch.save({"callbacks": Bomb(mark) if where == "meta.pt" else {}}, folder / "meta.pt")
    if where == ".metadata":
        import pickle

        (folder / ".metadata").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(DataError, match="is no checkpoint: UnpicklingError"):
        export(str(folder), str(tmp_path / "out"))
    assert not mark.exists()


def test_an_export_that_fails_leaves_the_earlier_one(train, tmp_path, monkeypatch):
    checkpoint, expected = train("SFTModule")
    before = files(expected)
    monkeypatch.setattr("lit_rlhf.cli.card.model_card", lambda *args: json.loads("no"))
    with pytest.raises(json.JSONDecodeError):
        export(str(checkpoint), str(expected))
    assert files(expected) == before


def test_an_export_that_would_replace_something_else_than_a_model_is_refused(train, tmp_path):
    checkpoint, _ = train("SFTModule")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    before = files(tmp_path)
    for where in ("run", "run/checkpoints", "notes", "notes/a.txt"):
        with pytest.raises(DataError, match=r"export to .*\n.*a directory of its own"):
            export(str(checkpoint), str(tmp_path / where))
    assert files(tmp_path) == before
    (tmp_path / "empty").mkdir()
    export(str(checkpoint), str(tmp_path / "empty"))
    export(str(checkpoint), str(tmp_path / "empty"))
    assert (tmp_path / "empty" / "config.json").exists()
