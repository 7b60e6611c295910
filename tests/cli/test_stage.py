import json

import pytest
import torch
import yaml

from lit_rlhf.cli.callbacks import Export, History
from lit_rlhf.cli.checkpoints import Checkpoint, RandomState
from lit_rlhf.cli.generations import Generations
from lit_rlhf.cli.panel import Panel
from lit_rlhf.cli.stage import make_cli
from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.cli.tracking import Wandb
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.policy import SFTModule
from lit_rlhf.rewards import ScalarRewardModule


def options(model: str, **trainer) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 24}}
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": model, "optimizer": {"lr": 1e-3}}},
        "data": {"sources": source, "batch_size": 8, "val_fraction": 0.0},
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1, **trainer},
    }


def parsed(*words: str):
    source = ("--data.sources.class_path", "lit_rlhf.world.WorldPrompts", "--data.sources.size", "9")
    return make_cli([*source, *words], run=False)


def test_what_every_stage_gets(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cli = parsed("--model", "SFTModule", "--model.model", "some/model")
    assert isinstance(cli.model, SFTModule)
    assert cli.model.path == "some/model"
    kinds = {type(callback) for callback in cli.trainer.callbacks}
    assert {Checkpoint, Export, Generations, History, Panel, RandomState} <= kinds
    assert isinstance(cli.trainer.logger, Wandb)
    assert cli.trainer.default_root_dir == "runs/latest"
    checkpoint = cli.trainer.checkpoint_callback
    assert (checkpoint.save_last, checkpoint.save_top_k, checkpoint._every_n_train_steps) == (True, 0, 100)


def test_configs_are_merged_from_left_to_right_and_words_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = {"model": {"class_path": "SFTModule", "init_args": {"model": "a", "optimizer": {"lr": 1.0, "warmup": 0.5}}}}
    second = {"model": {"init_args": {"model": "b", "optimizer": {"lr": 2.0}}}, "data": {"batch_size": 3}}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    cli = parsed("-c", "first.yaml", "-c", "second.yaml", "--data.batch_size", "5", "--model.model", "c")
    assert (cli.model.path, cli.model.optimizer.lr, cli.model.optimizer.warmup) == ("c", 2.0, 0.5)
    assert (cli.datamodule.batch_size, cli.datamodule.val_batch_size) == (5, 10)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", '[{"prompt": "p"}, {"prompt": "q"}]'), ("a.csv", "p,c\nq,d\n"), ("a.jsonl", '{"class_path": "x"}\n')],
)
def test_a_file_of_rows_is_never_read_as_options(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    words = ["--model", "SFTModule", "--model.model", "x", "--data.sources", name, "--data.val_sources", name]
    cli = make_cli(words, run=False)
    assert [source.path for source in cli.datamodule.sources] == [name]
    assert [source.path for source in cli.datamodule.val_sources] == [name]


def test_fast_ways_are_switched_off_and_on_again_by_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_RLHF_FAST", "{}")
    words = ("--model", "SFTModule", "--model.model", "x")
    cli = parsed(*words, "--fast.packing", "false")
    assert cli.config["fast"]["packing"] is False
    assert FastPaths.current() == FastPaths(packing=False)
    parsed(*words)
    assert FastPaths.current() == FastPaths(), "the next stage of the process starts with what is usual"


@pytest.mark.parametrize("words", [["--model.modle", "x"], ["--data.batchsize", "3"], ["--trainer.steps", "3"]])
def test_misspelt_options_are_refused_by_name(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        parsed("--model", "SFTModule", "--model.model", "x", *words)
    assert stopped.value.code == 2
    assert words[0].split(".")[-1] in capsys.readouterr().err


def test_the_saved_config_runs_the_same_again(lit, tiny_model, tmp_path):
    words = ("--model.init_args.optimizer.lr", "2.0e-3")
    lit("fit", tmp_path / "first", options(tiny_model), *words)
    saved = tmp_path / "first" / "fit.yaml"
    assert yaml.safe_load(saved.read_text())["model"]["init_args"]["optimizer"]["lr"] == 2.0e-3
    again = {"trainer": {"default_root_dir": str(tmp_path / "second")}}
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "folder.yaml").write_text(json.dumps(again))
    make_cli(["fit", "-c", str(saved), "-c", str(tmp_path / "second" / "folder.yaml")])
    files = (tmp_path / name / "metrics.jsonl" for name in ("first", "second"))
    first, second = (without_throughput(file.read_text()) for file in files)
    assert first == second
    lit("fit", tmp_path / "first", options(tiny_model))  # once more in the same folder: the files are replaced
    assert yaml.safe_load(saved.read_text())["model"]["init_args"]["optimizer"]["lr"] == 1.0e-3


def test_a_logger_gets_each_option_once_as_plain_values(lit, tiny_model, tmp_path):
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    lit("fit", tmp_path, options(tiny_model, logger=logger))
    (file,) = tmp_path.rglob("hparams.yaml")
    logged = yaml.safe_load(file.read_text())  # plain values: the safe loader makes no objects
    assert set(logged) == {"config", "data_counts"}
    assert logged["config"]["model"]["init_args"]["optimizer"]["lr"] == 1e-3


def test_a_checkpoint_of_the_command_line_is_loaded_from_python(lit, tiny_model, tmp_path):
    given = options(tiny_model)
    given["data"]["template"] = "plain"
    cli = lit("fit", tmp_path, given)
    loaded = SFTModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert loaded.optimizer.lr == 1e-3
    assert loaded.renderer.fingerprint == cli.datamodule.renderer.fingerprint
    for name, value in cli.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_each_command_saves_a_config_of_its_own(lit, tiny_model, tmp_path):
    for command in ("fit", "validate"):
        lit(command, tmp_path, options(tiny_model) | {"data": options(tiny_model)["data"] | {"val_fraction": 0.2}})
    assert {file.name for file in tmp_path.glob("*.yaml")} == {"options.yaml", "fit.yaml", "validate.yaml"}
    assert yaml.safe_load((tmp_path / "validate.yaml").read_text())["seed_everything"] == 0


def test_a_run_that_is_refused_leaves_the_saved_config_as_it_is(lit, tiny_model, tmp_path):
    lit("fit", tmp_path, options(tiny_model))
    saved = (tmp_path / "fit.yaml").read_text()
    other_data = options(tiny_model, max_epochs=2)
    other_data["data"]["batch_size"] = 4
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    for given, words in ((other_data, ("--ckpt_path", last)), (options(str(tmp_path / "no_model")), ())):
        with pytest.raises(DataError):
            lit("fit", tmp_path, given, *words)
        assert (tmp_path / "fit.yaml").read_text() == saved


def test_the_seed_decides_about_everything_random(lit, tiny_model, tmp_path):
    """A scalar model's fresh head is drawn by the global generator."""
    pairs = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 16}}
    given = options(tiny_model) | {"model": {"class_path": "ScalarRewardModule", "init_args": {"model": tiny_model}}}
    given["data"] = {"sources": pairs, "batch_size": 8, "val_fraction": 0.0}
    heads = []
    for run, seed in enumerate((1, 1, 2)):
        cli = lit("fit", tmp_path / str(run), given, "--seed_everything", str(seed))
        assert isinstance(cli.model, ScalarRewardModule)
        heads.append(cli.model.network.head.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2], atol=0.01)


@pytest.mark.parametrize("address", ["https://example.org/last.ckpt", "s3://bucket/last.ckpt", "registry:some-model"])
def test_checkpoints_are_never_fetched_from_elsewhere(lit, tiny_model, tmp_path, address):
    with pytest.raises(DataError, match=r"is no file on this machine\n.*Download it"):
        lit("fit", tmp_path, options(tiny_model), "--ckpt_path", address)


def test_a_strategy_that_would_split_nothing_is_refused(lit, tiny_model, tmp_path):
    strategy = {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}
    with pytest.raises(DataError, match="products are not split"):
        lit("fit", tmp_path, options(tiny_model, strategy=strategy))
