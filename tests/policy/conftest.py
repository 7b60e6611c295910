import sys
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from lit_rlhf.data.batches import PromptBatch, pad_rows
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import export, load_model
from lit_rlhf.networks.sampling import Sampling, sample
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


@pytest.fixture(scope="session")
def write_sharp_model(tiny_model, renderer) -> Callable[..., str]:
    """Write a tiny random policy whose likeliest tokens stand out; other seeds have other opinions.

    It says whole words only, with their blanks: any text of its own has one way back into tokens.
    """
    said = [
        token.startswith(" ") or token == "<eos>"
        for token in renderer.tokenizer.convert_ids_to_tokens(range(len(renderer.tokenizer)))
    ]

    def write(directory: Path, seed: int = 0) -> str:
        model = load_model(tiny_model, "causal")
        model.config.tie_word_embeddings = False
        embeddings = model.get_input_embeddings().weight
        head = 0.7 * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(seed))
        head[~torch.tensor(said)] = 0.0
        head[renderer.eos_id] *= 2.0  # some responses end early
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.mul_(4.0 if "_proj" in name else 1.0)  # so that earlier words matter
            embeddings.mul_(20.0)
            model.lm_head.weight = torch.nn.Parameter(head)
        return str(export(model, Renderer.load(tiny_model), directory))

    return write


@pytest.fixture(scope="session")
def sharp_model(write_sharp_model, tmp_path_factory) -> str:
    """Path of such a policy; do not write there."""
    return write_sharp_model(tmp_path_factory.mktemp("sharp") / "model")


class PolicyServer:
    """Answers completion questions as an OpenAI-compatible server does, from a model directory.

    `down_after` lets it refuse everything after so many questions; `change` alters each answer.
    """

    def __init__(self, serve, directory: str) -> None:
        self.model, self.renderer = load_model(directory, "causal"), Renderer.load(directory)
        self.lock, self.questions, self.paths = threading.Lock(), [], set()
        self.down_after: int | None = None
        self.change = lambda answer: answer
        self.url = serve(self.answer)

    def answer(self, path: str, question: dict, headers: dict) -> tuple[int, str | dict]:
        with self.lock:
            if self.down_after is not None and len(self.questions) >= self.down_after:
                return 403, "down"
            self.questions.append(question)
            self.paths.add(path)
        chat = path.endswith("/chat/completions")
        ids = self.prompt(question, chat)
        sampling = Sampling(question["max_tokens"], question["temperature"], question["top_p"])
        generator = torch.Generator().manual_seed(question.get("seed", 0))
        sequences, truncated = sample(
            self.model, torch.tensor([ids]), torch.tensor([len(ids)]), self.renderer.eos_id, sampling, generator
        )
        text = self.renderer.tokenizer.decode(sequences.response_lists()[0], skip_special_tokens=True)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        reason = "length" if truncated else "stop"
        return 200, self.change({"choices": [{"index": 0, "finish_reason": reason, **said}]})

    def prompt(self, question: dict, chat: bool) -> list[int]:
        if chat:
            return self.renderer.prompt_ids(tuple(Message(**message) for message in question["messages"]))
        prompt = question["prompt"]
        return self.renderer.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt


@pytest.fixture
def serve_policy(serve) -> Callable[[str], PolicyServer]:
    """Start a completion server of a model directory."""
    return lambda directory: PolicyServer(serve, directory)


@pytest.fixture
def policy_server(serve_policy, sharp_model) -> PolicyServer:
    """A server of the sharp model."""
    return serve_policy(sharp_model)
