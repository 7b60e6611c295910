"""Stores that two processes write: every row once, and the rows of one process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store
from lit_rlhf.world import tokenizer
from tests.distributed.strategies import STRATEGIES
from tests.distributed.test_ppo import world

PROMPTS, K = 19, 2  # five batches of four: one process has three, the other two


def sample(folder: str, policy: str, reward: dict, strategy: str | None = None) -> None:
    """Write baselines into ``folder/store``."""
    from lit_rlhf.cli.stage import run_stage

    trainer: dict = {"default_root_dir": folder, "logger": False, "accelerator": "cpu", "enable_progress_bar": False}
    if strategy is not None:
        trainer |= {"devices": 2, "strategy": STRATEGIES[strategy]}
    module = {"policy": policy, "reward": reward, "store": f"{folder}/store", "k": K, "sampling": {"max_new_tokens": 8}}
    data = {"sources": world("WorldPrompts", PROMPTS), "val_fraction": 0.0, "batch_size": 2, "max_length": 80}
    options = {"model": {"class_path": "BaselineModule", "init_args": module}, "data": data, "trainer": trainer}
    Path(folder).mkdir(parents=True, exist_ok=True)
    config = Path(folder) / f"options-{id(options)}.yaml"
    config.write_text(json.dumps(options))
    run_stage(["predict", "-c", str(config)])


def scalar(model: str) -> dict:
    return {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": model, "batch_size": 3}}


@pytest.fixture(scope="module")
def alone(tiny_model, tiny_reward_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    sample(str(folder), tiny_model, scalar(tiny_reward_model))
    return folder


def assert_same_rows(one: Path, two: Path) -> None:
    ours, theirs = Store(one / "store"), Store(two / "store")
    assert ours.key == theirs.key
    assert len(theirs.rows()) == PROMPTS
    for a, b in zip(ours.rows(), theirs.rows(), strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)
        assert {**a, "scores": None} == {**b, "scores": None}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_two_processes_write_the_rows_of_one_and_finish_what_one_began(
    pair, alone, tiny_model, tiny_reward_model, tmp_path, strategy
):
    given = tiny_model, scalar(tiny_reward_model), strategy
    if strategy == "ddp":
        pair.run(sample, str(tmp_path / "whole"), *given)
        assert_same_rows(alone, tmp_path / "whole")
        assert not list((tmp_path / "whole").glob("**/*.partial"))
    shutil.copytree(alone / "store", tmp_path / "resumed" / "store")
    parts = sorted((tmp_path / "resumed" / "store").glob("part-*"))
    for part in (parts[0], parts[2], parts[3], tmp_path / "resumed" / "store" / "finished.json"):
        part.unlink()  # what a process that died has not written
    with pytest.raises(DataError, match="not finished"):
        Store(tmp_path / "resumed" / "store").rows()
    kept = parts[1].stat().st_mtime_ns
    pair.run(sample, str(tmp_path / "resumed"), *given)
    assert_same_rows(alone, tmp_path / "resumed")
    assert parts[1].stat().st_mtime_ns == kept


@pytest.fixture
def rewriter(tmp_path) -> str:
    """A tiny random T5 that was trained to rewrite, as its config says."""
    words = tokenizer()
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(words), **sizes, **ends))
    model.config.rewriting = {"marker": []}
    model.save_pretrained(tmp_path / "rewriter")
    words.save_pretrained(tmp_path / "rewriter")
    return str(tmp_path / "rewriter")


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_an_encoder_decoder_that_scores_is_split_like_the_policy(pair, tiny_model, rewriter, tmp_path, strategy):
    reward = {"class_path": "lit_rlhf.rewards.Seq2SeqReward", "init_args": {"model": rewriter, "scale": 1.0}}
    sample(str(tmp_path / "one"), tiny_model, reward)
    pair.run(sample, str(tmp_path / "two"), tiny_model, reward, strategy)
    assert_same_rows(tmp_path / "one", tmp_path / "two")


def refused(folder: str, policy: str, reward: dict) -> str:
    with pytest.raises(DataError) as raised:
        sample(folder, policy, reward, "ddp")
    return str(raised.value)


def test_a_reward_that_depends_on_what_was_scored_before_is_refused(pair, tiny_model, tiny_reward_model, tmp_path):
    running = {"class_path": "lit_rlhf.rewards.ScaledReward", "init_args": {"inner": scalar(tiny_reward_model)}}
    for told in pair.run(refused, str(tmp_path), tiny_model, running):
        assert "running scale" in told
    assert not (tmp_path / "store").exists()


def ballot(folder: str, model: str, batch_size: int, strategy: str | None) -> str:
    """Train voters, and give the strength table's folder."""
    from lit_rlhf.data.datamodule import PreferenceDataModule
    from lit_rlhf.networks.optimizer import Optimizer
    from lit_rlhf.rewards import ScalarRewardModule
    from lit_rlhf.rewards.voters import Voting, vote
    from lit_rlhf.world import WorldPairs

    trainer: dict = {"accelerator": "cpu", "enable_progress_bar": False}
    if strategy is not None:
        trainer |= {"devices": 2, "strategy": STRATEGIES[strategy]}
    data = PreferenceDataModule(WorldPairs(23, seed=1), val_fraction=0.2, batch_size=batch_size, val_batch_size=4)
    voter = ScalarRewardModule(model, Optimizer(lr=1e-3))
    return str(vote(voter, data, folder, Voting(voters=2, trainer=trainer)))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_voters_of_two_processes_judge_as_those_of_one(pair, tiny_reward_model, tmp_path, strategy):
    one = ballot(str(tmp_path / "one"), tiny_reward_model, 8, None)
    first, second = pair.run(ballot, str(tmp_path / "two"), tiny_reward_model, 4, strategy)
    assert first == second
    ours, theirs = Store(one).rows(), Store(first).rows()
    assert [row["pair_hash"] for row in ours] == [row["pair_hash"] for row in theirs]
    assert len({row["pair_hash"] for row in theirs}) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a["differences"], b["differences"], atol=1e-5)
