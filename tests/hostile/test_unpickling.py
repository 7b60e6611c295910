import ast
import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import lit_rlhf
from lit_rlhf.cli.checkpoints import check_checkpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import load_model

UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def calls() -> list[tuple[str, str, set[str]]]:
    """Every call in the package: file and line, name of what is called, and its keyword arguments."""
    found = []
    for path in sorted(Path(lit_rlhf.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {f"{each.arg}={ast.unparse(each.value)}" for each in node.keywords}
                found.append((f"{path.name}:{node.lineno}", ast.unparse(node.func), keywords))
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                found += [(f"{path.name}:{node.lineno}", f"import {name}", set()) for name in names]
    return found


def test_nothing_in_the_package_unpickles():
    for where, name, keywords in calls():
        if not where.startswith("shards.py"):  # whose unpickler knows a list of harmless classes, and no others
            assert name.removeprefix("import ") not in UNPICKLING, where
        assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"), where
        if name == "torch.load":
            assert "weights_only=True" in keywords, where
        if name in ("np.load", "numpy.load"):
            assert "allow_pickle=True" not in keywords, where
        assert "trust_remote_code=True" not in keywords, where


def test_a_checkpoint_that_holds_code_is_refused_and_the_code_does_not_run(tmp_path):
    path, mark = tmp_path / "evil.ckpt", tmp_path / "mark"
    torch.save({"callbacks": {}, "state_dict": Bomb(mark)}, path)
    with pytest.raises(DataError, match="is no checkpoint"):
        check_checkpoint(str(path), {"class_path": "x"}, resume=True)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the bomb is one"


@pytest.mark.slow
def test_training_does_not_go_on_from_a_checkpoint_that_holds_code(lit, tiny_model, tmp_path):
    prompts = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 8}}
    options = {
        "model": {"class_path": "SFTModule", "init_args": {"model": tiny_model}},
        "data": {"sources": prompts, "batch_size": 4, "val_fraction": 0.0},
        "trainer": {"max_steps": 1},
    }
    lit("fit", tmp_path / "run", options)
    path, mark = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "mark"
    whole = torch.load(path, weights_only=True)
    torch.save({**whole, "lr_schedulers": Bomb(mark)}, path)
    with pytest.raises((DataError, SystemExit, pickle.UnpicklingError)):
        lit("fit", tmp_path / "run", options, "--ckpt_path", str(path))
    assert not mark.exists()


def test_pickled_weights_that_hold_code_do_not_run_it(tiny_model, tmp_path):
    folder, mark = tmp_path / "model", tmp_path / "mark"
    AutoConfig.from_pretrained(tiny_model).save_pretrained(folder)
    torch.save({"model.embed_tokens.weight": Bomb(mark)}, folder / "pytorch_model.bin")
    with pytest.raises((DataError, pickle.UnpicklingError)):
        load_model(str(folder), "causal")
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["tokenizer", "model"])
def test_code_that_lies_beside_a_model_is_never_run(tiny_model, tmp_path, kind):
    mark = tmp_path / "mark"
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(tiny_model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    name = "tokenizer_config.json" if kind == "tokenizer" else "config.json"
    config = json.loads((folder / name).read_text())
    entry = (
        {"AutoTokenizer": ["evil.Evil", "evil.Evil"]} if kind == "tokenizer" else {"AutoModelForCausalLM": "evil.Evil"}
    )
    config |= {"auto_map": entry | {"AutoConfig": "evil.Evil"}, "model_type": "evil", "tokenizer_class": "Evil"}
    (folder / name).write_text(json.dumps(config))
    with pytest.raises(DataError):
        Renderer.load(str(folder)) if kind == "tokenizer" else load_model(str(folder), "causal")
    assert not mark.exists()
