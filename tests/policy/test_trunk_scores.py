"""A reward model on the policy's trunk reads a response where it does on its own."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.policy.actor_critic import AdapterScores, SharedTrunk
from lit_rlhf.rewards import ScalarReward


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory) -> str:
    """A policy whose padding token, in its config too, is the one that ends a turn."""
    folder = tmp_path_factory.mktemp("padding") / "base"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_padding_that_ends_a_turn_moves_nothing(lit, base, tmp_path):
    init = {"model": base, "lora": {"r": 3}, "optimizer": {"lr": 0.05}}
    lit("fit", tmp_path, {
        "model": {"class_path": "ScalarRewardModule", "init_args": init},
        "data": {"sources": {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 40}}, "batch_size": 8},
        "trainer": {"max_epochs": 1},
        "export": {"directory": str(tmp_path / "model")},
    })  # fmt: skip
    renderer = Renderer.load(base)
    end = renderer.closing_ids
    assert end[-1] == AutoTokenizer.from_pretrained(base).pad_token_id
    rows = stack_sequences([[7, 8, 9], [7, 8, 9, 10]], [[11, 12, *end], [13, *end]], renderer.pad_id)
    alone, shared = (ScalarReward(str(tmp_path / "model"), scale=1.0).load(renderer, "any") for _ in range(2))
    SharedTrunk(base, base, LoRA(r=2), with_critic=False).lend(shared)
    assert isinstance(shared.model.network, AdapterScores)
    expected = alone.model.score_sequences(rows)
    torch.testing.assert_close(shared.model.score_sequences(rows), expected, atol=1e-5, rtol=1e-4)
    assert shared.model.calibration == alone.model.calibration
