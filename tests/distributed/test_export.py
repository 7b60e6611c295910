"""Checkpoints of two processes: exported by one, resumed by another number, or refused with the reason."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_rlhf.cli.export import export
from lit_rlhf.cli.shards import check_bytes
from lit_rlhf.data.errors import DataError
from tests.distributed.strategies import STRATEGIES
from tests.distributed.test_rewards import fit, options


def settings(folder: Path, batch_size: int, model: str, epochs: int, **more) -> dict:
    given = options("ScalarRewardModule", folder, batch_size, model=model, **more)
    given["trainer"]["max_epochs"] = epochs
    return given


def resumed(folder: Path, given: dict, start: Path) -> dict:
    return {**given, "ckpt_path": str(shutil.copytree(start, folder / "start") / "last.ckpt")}


def weights(folder: Path) -> dict:
    return load_file(folder / "export" / "model.safetensors")


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=5e-5, rtol=1e-5)  # Adam makes much of tiny gradients


@pytest.fixture(scope="module")
def alone(tiny_model, tmp_path_factory):
    """One process: after one epoch, and after two without a break."""
    first, both = (tmp_path_factory.mktemp("alone") for _ in range(2))
    fit(first, settings(first, 8, tiny_model, 1))
    return first, both, fit(both, settings(both, 8, tiny_model, 2))


@pytest.fixture(scope="module", params=["fsdp", "fsdp2_in_parts"])
def strategy(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def in_parts(pair, tiny_model, tmp_path_factory, strategy) -> Path:
    """The folder of two processes that wrote their checkpoint in parts after one epoch."""
    folder = tmp_path_factory.mktemp("in_parts")
    pair.run(fit, folder, settings(folder, 4, tiny_model, 1), strategy)
    assert (folder / "checkpoints" / "last.ckpt" / "meta.pt").is_file()
    return folder


def test_one_process_exports_what_two_wrote_in_parts(in_parts, alone, tmp_path):
    export(str(in_parts / "checkpoints" / "last.ckpt"), str(tmp_path / "export"))
    assert_equal(weights(tmp_path), weights(in_parts))
    assert_equal(weights(tmp_path), weights(alone[0]))
    for name in ("README.md", "config.json", "tokenizer.json"):
        assert (tmp_path / "export" / name).read_bytes() == (in_parts / "export" / name).read_bytes()


def test_two_processes_go_on_where_one_stopped(pair, alone, tiny_model, tmp_path):
    first, both, lines = alone
    given = resumed(tmp_path, settings(tmp_path, 4, tiny_model, 2), first / "checkpoints")
    found, _ = pair.run(fit, tmp_path, given, "ddp")
    assert found == [pytest.approx(line, abs=1e-5, rel=1e-5) for line in lines[-len(found) :]]
    assert_equal(weights(tmp_path), weights(both))


def test_fsdp_does_not_go_on_from_a_file_and_writes_none(pair, alone, tiny_model, tmp_path, monkeypatch):
    given = resumed(tmp_path, settings(tmp_path, 4, tiny_model, 2), alone[0] / "checkpoints")
    with pytest.raises(DataError, match="FSDPStrategy goes on from folders only"):
        fit(tmp_path, given, "fsdp")
    del given["ckpt_path"]
    monkeypatch.delitem(STRATEGIES["fsdp"]["init_args"], "state_dict_type")
    with pytest.raises(DataError, match=r"state_dict_type: is full[\s\S]*Give sharded"):
        fit(tmp_path, given, "fsdp")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mixed_precision", {"class_path": "torch.distributed.fsdp.MixedPrecision"}),
        ("use_orig_params", False),
        ("sharding_strategy", "NO_SHARD"),
        ("cpu_offload", True),
        ("activation_checkpointing_policy", ["transformers.models.llama.modeling_llama.LlamaDecoderLayer"]),
    ],
)
def test_options_of_fsdp_that_others_decide_are_refused(tiny_model, tmp_path, monkeypatch, option, value):
    given = settings(tmp_path, 4, tiny_model, 1)
    kind = "dict_kwargs" if option == "use_orig_params" else "init_args"
    monkeypatch.setitem(
        STRATEGIES, "fsdp", {**STRATEGIES["fsdp"], kind: {**STRATEGIES["fsdp"].get(kind, {}), option: value}}
    )
    with pytest.raises(DataError, match=rf"trainer\.strategy\.init_args\.{option}: "):
        fit(tmp_path, given, "fsdp")


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_what_cannot_be_done_with_split_networks_is_refused(tiny_model, tmp_path, strategy):
    given = settings(tmp_path, 4, tiny_model, 1)
    averaging = {"callbacks": [{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]}
    for trainer, told in ((averaging, "copies whole networks"), ({"precision": "bf16-true"}, "bf16-mixed")):
        with pytest.raises(DataError, match=told):
            fit(tmp_path, {**given, "trainer": {**given["trainer"], **trainer}}, strategy)


def test_one_process_goes_on_where_two_stopped(pair, alone, tiny_model, tmp_path):
    pair.run(fit, tmp_path / "two", settings(tmp_path / "two", 4, tiny_model, 1), "fsdp2")
    given = resumed(tmp_path, settings(tmp_path, 8, tiny_model, 2), tmp_path / "two" / "checkpoints")
    fit(tmp_path, given)
    assert_equal(weights(tmp_path), weights(alone[1]))


def test_one_process_does_not_go_on_from_parts_and_is_told_why(in_parts, tiny_model, tmp_path, strategy):
    given = resumed(tmp_path, settings(tmp_path, 8, tiny_model, 2), in_parts / "checkpoints")
    writer = "ModelParallelStrategy" if strategy.startswith("fsdp2") else "FSDPStrategy"
    with pytest.raises(DataError, match=rf"in parts by {writer}, and Single\w+ cannot[\s\S]*export"):
        fit(tmp_path, given)


def test_two_processes_go_on_from_parts(pair, alone, in_parts, tiny_model, tmp_path, strategy):
    given = resumed(tmp_path, settings(tmp_path, 4, tiny_model, 2), in_parts / "checkpoints")
    pair.run(fit, tmp_path, given, strategy)
    assert_equal(weights(tmp_path), weights(alone[1]))


def test_one_process_with_the_strategy_goes_on_from_parts_of_two(alone, in_parts, tiny_model, tmp_path, strategy):
    given = resumed(tmp_path, settings(tmp_path, 8, tiny_model, 2), in_parts / "checkpoints")
    smaller = {**STRATEGIES[strategy], "init_args": {**STRATEGIES[strategy]["init_args"]}}
    if "data_parallel_size" in smaller["init_args"]:
        smaller["init_args"]["data_parallel_size"] = 1
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        assert fresh.submit(fit, tmp_path, given, smaller, devices=1).result(timeout=120)
    assert_equal(weights(tmp_path), weights(alone[1]))


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", "meta.pt"])
def test_parts_with_a_flipped_byte_are_refused_by_name(in_parts, tmp_path, name):
    copy = shutil.copytree(in_parts / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    check_bytes(str(copy))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    refused = []
    for number in range(2):  # each of two processes looks at some of the files
        try:
            check_bytes(str(copy), number, 2)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) == 1
    assert f"last.ckpt, {name}: is damaged" in refused[0]
    with pytest.raises(DataError, match=r"damaged|is no checkpoint"):
        export(str(copy), str(tmp_path / "export"))
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\xff{}", b"[1, 2]", b'{"meta.pt": 1', b"{}", b'{"met\xc3\xa4.pt": "0"}'], ids=repr
)
def test_digests_that_are_damaged_themselves_are_refused(in_parts, tmp_path, content):
    copy = shutil.copytree(in_parts / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    (copy / "sha256.json").write_bytes(content)
    for number in range(2):
        with pytest.raises(DataError, match=r"last\.ckpt.*: is damaged"):
            check_bytes(str(copy), number, 2)


def test_a_part_that_is_missing_is_refused_and_a_file_beside_them_is_not(in_parts, tmp_path):
    copy = shutil.copytree(in_parts / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    (copy / "notes.txt").write_text("the good one")
    check_bytes(str(copy))
    (copy / "__1_0.distcp").unlink()
    with pytest.raises(DataError, match=r"__1_0\.distcp: is damaged"):
        check_bytes(str(copy))


@pytest.mark.parametrize("beside", [0, 1], ids="{} other checkpoints".format)
def test_two_processes_do_not_go_on_from_damaged_parts(pair, in_parts, tiny_model, tmp_path, strategy, beside):
    given = resumed(tmp_path, settings(tmp_path, 4, tiny_model, 2), in_parts / "checkpoints")
    own = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"save_top_k": 0}}
    given["trainer"]["callbacks"] = [own] * beside
    part = tmp_path / "start" / "last.ckpt" / "__1_0.distcp"
    content = bytearray(part.read_bytes())
    content[-len(content) // 3] ^= 1
    part.write_bytes(content)
    with pytest.raises(AssertionError, match=r"__1_0\.distcp: is damaged"):
        pair.run(fit, tmp_path, given, strategy, limit=40)


def test_another_number_of_rows_per_step_is_refused(alone, tiny_model, tmp_path):
    given = resumed(tmp_path, settings(tmp_path, 4, tiny_model, 2), alone[0] / "checkpoints")
    with pytest.raises(DataError, match="8 rows in a step of all processes then, 4 now"):
        fit(tmp_path, given)
