import json
import os
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from lit_rlhf.cli.stage import run_stage
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.rewards import RemoteReward

SECRET = "sk-9f3b5c71d2e84a06"
NAMES = ("WANDB_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "MY_KEY")


@pytest.fixture
def secrets(monkeypatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def fresh_wandb():
    """W&B reads the environment once per process."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def holders(folder: Path, secret: str = SECRET) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.slow
def test_no_key_reaches_logs_configs_checkpoints_or_the_screen(
    secrets, fresh_wandb, serve, tiny_model, tmp_path, monkeypatch, capfd
):
    """A whole run whose reward is behind a server with a key, logged by W&B."""
    asked = []

    def answer(path: str, question: dict, headers: dict) -> tuple[int, dict]:
        asked.append(headers["Authorization"])
        return 200, {"scores": [0.5 * i for i, _ in enumerate(question["inputs"])]}

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    endpoint = {"class_path": "lit_rlhf.data.endpoint.Endpoint", "init_args": {"url": serve(answer), "key": "MY_KEY"}}
    reward = {"class_path": "lit_rlhf.rewards.RemoteReward", "init_args": {"endpoint": endpoint["init_args"]}}
    model = {"policy": tiny_model, "reward": reward, "sampling": {"max_new_tokens": 4}}
    prompts = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    options = {
        "model": {"class_path": "PPOModule", "init_args": model},
        "data": {"sources": prompts, "batch_size": 3, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"max_steps": 2, "default_root_dir": str(folder), "accelerator": "cpu"},
        "generations": {"every_n_steps": 2},
    }
    (tmp_path / "options.yaml").write_text(json.dumps(options))
    run_stage(["fit", "-c", "options.yaml"])
    assert set(asked) == {f"Bearer {SECRET}"}, "the server did get the key"
    written = {path.name for path in folder.rglob("*")}
    assert {"fit.yaml", "last.ckpt", "generations.jsonl"} <= written
    assert any(name.endswith(".wandb") for name in written)
    assert holders(tmp_path) == []
    assert holders(tmp_path, "MY_KEY"), "its name does stand in the config: the search finds what is there"
    assert SECRET not in "".join(capfd.readouterr())


def test_a_saved_config_holds_the_variables_name_alone(secrets):
    parser = ArgumentParser()
    parser.add_class_arguments(RemoteReward, "reward")
    config = parser.parse_object({"reward": {"endpoint": {"url": "http://x", "key": "MY_KEY"}}})
    saved = parser.dump(config)
    assert "key: MY_KEY" in saved
    assert SECRET not in saved + str(config) + repr(parser.instantiate_classes(config).reward.endpoint)


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_error(secrets, serve, status):
    url = serve(lambda path, question, headers: (status, f"<p>Incorrect key: {headers['Authorization']}</p>"))
    with pytest.raises(DataError, match="Incorrect key: Bearer \\$MY_KEY") as caught:
        Endpoint(url, retries=1, wait=0.0, key="MY_KEY").post("/x", {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("middle", ["\n", "\r\nX-Other: 1", "ü", "\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_without_repeating_it(monkeypatch, middle):
    monkeypatch.setenv("MY_KEY", f"{SECRET}{middle}rest")
    with pytest.raises(DataError, match=r"(?s)the value of MY_KEY is no line of ASCII.*Mend MY_KEY") as caught:
        Endpoint("http://x", key="MY_KEY")
    assert SECRET not in str(caught.value)


def test_blanks_around_a_key_are_not_part_of_it(serve, monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    asked = Endpoint(
        serve(lambda path, question, headers: (200, {"ok": headers["Authorization"] == f"Bearer {SECRET}"})),
        key="MY_KEY",
    )
    assert asked.post("/x", {}) == {"ok": True}


@pytest.mark.parametrize("url", [f"https://me:{SECRET}@host/v1", f"http://{SECRET}@host"])
def test_an_address_with_a_password_is_refused_without_repeating_it(url):
    with pytest.raises(DataError, match=r"(?s)holds a user's name or password.*environment variable") as caught:
        Endpoint(url)
    assert SECRET not in str(caught.value)


def test_a_key_given_in_the_place_of_its_name_is_not_repeated():
    with pytest.raises(DataError) as caught:
        Endpoint("http://x", key=SECRET)
    assert SECRET not in str(caught.value)
    assert SECRET not in os.environ
