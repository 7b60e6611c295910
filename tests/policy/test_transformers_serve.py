"""Baselines through a real server process: ``transformers serve`` with a tiny model."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import torch
from transformers.utils.import_utils import is_serve_available

from lit_rlhf.data.batches import PromptBatch
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.policy import ServedSampler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn and openai"),
]

K, PROMPTS = 2, 6
SAMPLES = {"generation_config": json.dumps({"do_sample": True, "top_k": 0})}


class Process:
    """``transformers serve DIRECTORY`` on a port of its own."""

    def __init__(self, directory: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        program = str(Path(sys.executable).with_name("transformers"))
        options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [program, "serve", directory, *options], stdout=self.log, stderr=subprocess.STDOUT, env=dict(os.environ)
        )
        self._wait()

    def _wait(self) -> None:
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        self.stop()
        pytest.fail(f"the server did not start: {Path(self.log.name).read_text()[-2000:]}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self.log.close()


@pytest.fixture(scope="module")
def start(sharp_model, tmp_path_factory):
    """Start server processes of the sharp model."""
    logs, processes = tmp_path_factory.mktemp("logs"), []

    def begin() -> Process:
        processes.append(Process(sharp_model, logs / f"{len(processes)}.log"))
        return processes[-1]

    yield begin
    for process in processes:
        process.stop()


@pytest.fixture(scope="module")
def server(start) -> Process:
    return start()


def endpoint(url: str, concurrency: int = 1) -> Endpoint:
    return Endpoint(url, concurrency=concurrency, retries=1, wait=0.0)


@pytest.mark.parametrize("form", ["text", "chat"])
def test_greedy_responses_are_those_of_this_process(server, sharp_model, prompts, renderer, form):
    policy = PolicyNetwork(sharp_model)
    sampler = ServedSampler(endpoint(server.url, concurrency=4), sharp_model, form)
    sampler.load(policy)  # and so the check must pass
    sampling = Sampling(max_new_tokens=11, temperature=0.0)  # none ends just there, which it would call cut off
    completions = sampler.complete(prompts, renderer, sampling, 1, "s")
    own, _ = sample(policy.model, prompts.ids, prompts.length, renderer.eos_id, sampling)
    assert completions.sequences.response_lists() == own.response_lists()
    assert 0 < completions.truncated.sum() < len(completions)


@pytest.mark.parametrize("form", ["text", "chat"])
def test_seeded_responses_are_drawn_from_the_policys_distribution(server, sharp_model, prompts, renderer, form):
    one = PromptBatch(prompts.ids[:1], prompts.length[:1], prompts.records[:1])
    sampler = ServedSampler(endpoint(server.url), sharp_model, form, SAMPLES, check=False)
    sampling, k = Sampling(max_new_tokens=1, temperature=2.0), 150
    first = [ids[0] for ids in sampler.complete(one, renderer, sampling, k, "s").sequences.response_lists()]
    assert first == [ids[0] for ids in sampler.complete(one, renderer, sampling, k, "s").sequences.response_lists()]
    assert first != [ids[0] for ids in sampler.complete(one, renderer, sampling, k, "t").sequences.response_lists()]
    with torch.no_grad():
        logits = PolicyNetwork(sharp_model).model(one.ids[:, : int(one.length[0])]).logits[0, -1]
    probability = (logits / 2.0).softmax(-1)
    counts = torch.bincount(torch.tensor(first), minlength=len(probability))
    likely = probability > 0.04
    assert likely.sum() >= 3
    deviation = (counts[likely] - k * probability[likely]) / (k * probability[likely]).sqrt()
    assert float(deviation.abs().max()) < 4.0


def test_it_takes_the_likeliest_token_unless_told_otherwise(server, sharp_model, prompts, renderer):
    plain = ServedSampler(endpoint(server.url), sharp_model, "text", check=False)
    with pytest.warns(UserWarning, match="does the server sample"):
        plain.complete(prompts, renderer, Sampling(8), K, "s")


def test_it_takes_no_token_ids_and_says_so(server, sharp_model, prompts, renderer):
    with pytest.raises(DataError, match="prompt must be a string"):
        ServedSampler(endpoint(server.url), sharp_model, check=False).complete(prompts, renderer, Sampling(8), K, "s")


def test_a_store_is_finished_after_the_server_was_killed(
    lit, start, server, sharp_model, tiny_reward_model, tmp_path, monkeypatch
):
    def predict(store: Path, url: str) -> None:
        sampler = {"model": sharp_model, "prompt": "text", "extra": SAMPLES}
        at = {"url": url, "concurrency": 1, "retries": 1, "wait": 0.0}
        module = {
            "policy": sharp_model,
            "reward": {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model}},
            "store": str(store),
            "k": K,
            "sampling": {"max_new_tokens": 8},
            "engine": {"class_path": "lit_rlhf.policy.ServedSampler", "init_args": {"endpoint": at, **sampler}},
        }
        prompts = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": PROMPTS}}
        data = {"sources": prompts, "val_fraction": 0.0, "val_batch_size": 2, "max_length": 80}
        lit("predict", tmp_path / "run", {"model": {"class_path": "BaselineModule", "init_args": module}, "data": data})

    predict(tmp_path / "whole", server.url)
    whole = Store(tmp_path / "whole")
    assert len(whole.rows()) == PROMPTS
    assert len({text for row in whole.rows() for text in row["responses"]}) > PROMPTS

    mortal, write_part = start(), Store.write_part

    def killing(self: Store, number: int, rows: list) -> None:
        write_part(self, number, rows)
        mortal.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_part", killing)
        with pytest.raises(DataError, match="no answer after 2 attempts"):
            predict(tmp_path / "broken", mortal.url)
    broken = Store(tmp_path / "broken")
    assert [broken.has_part(number) for number in range(3)] == [True, False, False]
    with pytest.raises(DataError, match="not finished"):
        broken.rows()
    predict(tmp_path / "broken", server.url)
    assert broken.rows() == whole.rows()
    assert broken.key == whole.key
