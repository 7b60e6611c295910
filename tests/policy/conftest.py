import sys
from itertools import islice

import pytest

from lit_rlhf.data.batches import PromptBatch, pad_rows
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.world import WorldPrompts


@pytest.fixture(scope="session")
def renderer(tiny_model) -> Renderer:
    return Renderer.load(tiny_model)


@pytest.fixture(scope="session")
def prompts(renderer) -> PromptBatch:
    """Five prompts of different lengths."""
    records = list(islice(WorldPrompts(5, seed=2).records(), 5))
    ids, length = pad_rows([renderer.prompt_ids(record.prompt) for record in records], renderer.pad_id)
    assert len(set(length.tolist())) > 1
    return PromptBatch(ids, length, records)


@pytest.fixture(scope="session")
def taste(tmp_path_factory) -> str:
    """A module with reward functions of the user's own."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "taste.py").write_text("""
def shortness(prompt, response):
    return -len(response.split()) / 10

def letters(prompt, response):
    return len(prompt) + 0.01 * len(response)
""")
    sys.path.insert(0, str(folder))
    return "taste"


def world(kind: str, size: int, **options) -> dict:
    """A source of the synthetic world, as a config names it."""
    return {"class_path": f"lit_rlhf.world.{kind}", "init_args": {"size": size, **options}}


@pytest.fixture(scope="session")
def ppo_options(tiny_model, tiny_reward_model):
    """Options of a small PPO run; keyword arguments replace those of the module."""

    def make(steps: int, batch_size: int = 6, **module) -> dict:
        given = {
            "policy": tiny_model,
            "critic": tiny_reward_model,
            "reward": {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model}},
            "judge": {"class_path": "lit_rlhf.rewards.GoldReward"},
            "sampling": {"max_new_tokens": 8},
            "settings": {"minibatch_size": 4, "epochs": 2},
            "optimizer": {"lr": 1e-3, "schedule": "constant", "warmup": 0.0},
        }
        return {
            "model": {"class_path": "PPOModule", "init_args": given | module},
            "data": {
                "sources": world("WorldPrompts", 4 * batch_size),
                "val_sources": world("WorldPrompts", 5, split="val"),
                "batch_size": batch_size,
                "max_length": 80,
            },
            "trainer": {
                "max_steps": steps,
                "log_every_n_steps": 1,
                "check_val_every_n_epoch": None,
                "val_check_interval": 3,
            },
        }

    return make
