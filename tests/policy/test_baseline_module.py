import json
import shutil
from pathlib import Path

import pytest

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store
from lit_rlhf.networks.backbone import fingerprint
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.policy import BaselineModule, samplers
from lit_rlhf.rewards import ContrastiveReward

PROMPTS, K = 13, 3


@pytest.fixture(scope="module")
def predict(lit, tiny_model, taste):
    """Write baselines into a store; keyword arguments replace options of the module."""

    def run(store: Path, **module):
        given = {
            "policy": tiny_model,
            "reward": {"class_path": "lit_rlhf.rewards.PythonReward", "init_args": {"function": f"{taste}.letters"}},
            "store": str(store),
            "k": K,
            "sampling": {"max_new_tokens": 8},
        }
        prompts = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": PROMPTS}}
        options = {
            "model": {"class_path": "BaselineModule", "init_args": given | module},
            "data": {"sources": prompts, "val_fraction": 0.0, "batch_size": 2, "val_batch_size": 4, "max_length": 80},
        }
        return lit("predict", store.parent / "run", options)

    return run


@pytest.fixture(scope="module")
def written(predict, tmp_path_factory):
    store = tmp_path_factory.mktemp("baselines") / "store"
    return predict(store), Store(store)


def test_a_finished_store_has_a_row_for_every_prompt(written):
    cli, store = written
    rows = store.rows()
    assert [row["prompt_hash"] for row in rows] == [row.record.prompt_hash for row in cli.datamodule.train_rows]
    assert [row["prompt"] for row in rows] == [row.record.prompt[-1].content for row in cli.datamodule.train_rows]
    assert len(rows) == PROMPTS
    for row in rows:
        assert {len(row[name]) for name in ("responses", "scores", "lengths", "truncated")} == {K}
        assert len(set(row["responses"])) > 1
        assert all(length == 8 for length, cut in zip(row["lengths"], row["truncated"], strict=True) if cut)
        assert all(1 <= length <= 8 for length in row["lengths"])


def test_what_is_known_of_a_prompt_is_stored_with_it(written):
    cli, store = written
    assert [json.loads(row["meta"]) for row in store.rows()] == [row.record.meta for row in cli.datamodule.train_rows]


def test_scores_are_those_of_the_stored_responses(written):
    rows = written[1].rows()
    for row in rows:
        expected = [len(row["prompt"]) + 0.01 * len(text) for text in row["responses"]]
        assert row["scores"] == pytest.approx(expected, abs=1e-5)
    assert len({score for row in rows for score in row["scores"]}) > PROMPTS


def test_the_key_names_all_that_would_change_a_row(written):
    key = written[1].key
    assert {"policy", "reward", "template", "k", "seed", "temperature", "top_p", "max_new_tokens"} <= key.keys()
    assert (key["k"], key["temperature"], key["max_new_tokens"]) == (K, 1.0, 8)


@pytest.mark.parametrize("lost", [[3], [0, 2], [0, 1, 2, 3]])
def test_an_interrupted_store_is_finished_to_the_same_rows(written, predict, tmp_path, lost):
    store = shutil.copytree(written[1].directory, tmp_path / "store")
    (store / "finished.json").unlink()
    parts = {number: store / f"part-{number:05d}.parquet" for number in range(4)}
    for number in lost:
        parts[number].unlink()
    (store / "part-00003.partial").write_bytes(b"half a part")  # what a killed writer leaves behind
    kept = {number: parts[number].stat().st_mtime_ns for number in parts.keys() - set(lost)}
    with pytest.raises(DataError, match="not finished"):
        Store(store).rows()
    predict(store)
    assert Store(store).rows() == written[1].rows()
    assert all(parts[number].stat().st_mtime_ns == time for number, time in kept.items())


def test_a_finished_store_is_not_sampled_again(written, predict, tmp_path, monkeypatch):
    store = shutil.copytree(written[1].directory, tmp_path / "store")
    monkeypatch.setattr(samplers, "complete", lambda *args: pytest.fail("sampled again"))
    predict(store)
    assert Store(store).rows() == written[1].rows()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("k", {"k": 2}),
        ("seed", {"seed": 1}),
        ("temperature", {"sampling": {"max_new_tokens": 8, "temperature": 0.5}}),
        ("reward", {"reward": {"class_path": "lit_rlhf.rewards.GoldReward"}}),
    ],
)
def test_another_run_does_not_go_on_with_the_store(written, predict, tmp_path, field, change):
    store = shutil.copytree(written[1].directory, tmp_path / "store")
    (store / "finished.json").unlink()
    with pytest.raises(DataError, match=f"{field}: the store has"):
        predict(store, **change)
    assert not (store / "finished.json").exists()


def test_another_seed_gives_other_responses(written, predict, tmp_path):
    predict(tmp_path / "store", seed=1)
    ours, theirs = written[1].rows(), Store(tmp_path / "store").rows()
    assert [row["prompt"] for row in ours] == [row["prompt"] for row in theirs]
    assert all(a["responses"] != b["responses"] for a, b in zip(ours, theirs, strict=True))


def test_every_batch_has_random_numbers_of_its_own(predict, tmp_path, monkeypatch):
    asked = []
    original = samplers.seeded_generator
    monkeypatch.setattr(samplers, "seeded_generator", lambda *args: asked.append(str(args)) or original(*args))
    predict(tmp_path / "store")
    assert len(set(asked)) == len(asked) == 4


def test_centred_on_themselves_the_baselines_have_mean_zero(written, renderer):
    cli, store = written
    reward = ContrastiveReward(cli.model.reward, str(store.directory)).load(renderer, store.key["policy"])
    for row, baselines in zip(cli.datamodule.train_rows, store.rows(), strict=True):
        texts = baselines["responses"]
        sequences = stack_sequences([row.prompt] * K, [renderer.response_ids(text) for text in texts], 0)
        completions = Completions(sequences, sequences.length < 0, [row.record] * K, texts)
        assert reward(completions).sum().item() == pytest.approx(0, abs=1e-3)


# ---------------------------------------------------------------------- through a server


def served(url: str, **options) -> dict:
    endpoint = {"url": url, "concurrency": 4, "retries": 1, "wait": 0.0}
    return {
        "class_path": "lit_rlhf.policy.ServedSampler",
        "init_args": {"endpoint": endpoint, "model": "sft", **options},
    }


def test_a_server_fills_the_store_as_this_process_does(predict, policy_server, sharp_model, tmp_path):
    greedy = {"policy": sharp_model, "sampling": {"max_new_tokens": 8, "temperature": 0.0}}
    predict(tmp_path / "own", **greedy)
    predict(tmp_path / "served", engine=served(policy_server.url), **greedy)
    own, other = Store(tmp_path / "own"), Store(tmp_path / "served")
    assert own.rows() == other.rows()
    assert other.key == own.key | {"engine": "served sft", "extra": "{}"}
    assert policy_server.url not in str(other.key)


def test_a_served_store_resumes_to_the_same_rows_on_another_address(
    predict, serve_policy, policy_server, sharp_model, tmp_path
):
    predict(tmp_path / "whole", policy=sharp_model, engine=served(policy_server.url))
    whole = Store(tmp_path / "whole")
    assert len({text for row in whole.rows() for text in row["responses"]}) > PROMPTS
    asked = len(policy_server.questions)
    assert asked == PROMPTS * K + 4  # and the check

    store = tmp_path / "broken"
    policy_server.down_after = asked + 4 + 4 * K + 5  # in the middle of the second of four parts
    with pytest.raises(DataError, match="403"):
        predict(store, policy=sharp_model, engine=served(policy_server.url))
    assert [Store(store).has_part(number) for number in range(4)] == [True, False, False, False]
    with pytest.raises(DataError, match="not finished"):
        Store(store).rows()

    moved = serve_policy(sharp_model)
    predict(store, policy=sharp_model, engine=served(moved.url))
    assert Store(store).rows() == whole.rows()
    assert len(moved.questions) == (PROMPTS - 4) * K + 4
    moved.questions.clear()
    predict(store, policy=sharp_model, engine=served(moved.url))
    assert moved.questions == []  # nobody is asked about a finished store


def test_another_engine_does_not_go_on_with_a_served_store(predict, policy_server, sharp_model, tmp_path):
    store, options = tmp_path / "store", {"policy": sharp_model}
    policy_server.down_after = 4 + 4 * K
    with pytest.raises(DataError, match="403"):
        predict(store, engine=served(policy_server.url), **options)
    policy_server.down_after = None
    for other in ({"model": "other"}, {"prompt": "chat"}, {"extra": {"repetition_penalty": 1.0}}):
        with pytest.raises(DataError, match="does not match"):
            predict(store, engine=served(policy_server.url, **other), **options)
    predict(store, engine=served(policy_server.url, prompt="text"), **options)  # the very same tokens


def test_a_served_store_centres_the_rewards_of_its_policy_alone(
    predict, policy_server, sharp_model, renderer, tmp_path
):
    store = tmp_path / "store"
    cli = predict(store, policy=sharp_model, engine=served(policy_server.url))
    reward = ContrastiveReward(cli.model.reward, str(store))
    own = fingerprint(PolicyNetwork(sharp_model))
    assert reward.load(renderer, own).fingerprint
    with pytest.raises(DataError, match="policy: the store has"):
        reward.load(renderer, "another policy")


def test_a_server_of_another_policy_is_found_out_before_anything_is_written(
    predict, serve_policy, write_sharp_model, sharp_model, tmp_path
):
    other = serve_policy(write_sharp_model(tmp_path / "other", seed=1))
    with pytest.raises(DataError, match="not what the policy directory would say"):
        predict(tmp_path / "store", policy=sharp_model, engine=served(other.url))
    assert not list((tmp_path / "store").glob("*.parquet"))
    predict(tmp_path / "store", policy=sharp_model, engine=served(other.url, check=False))
    assert Store(tmp_path / "store").is_finished


def test_at_least_one_response_is_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"init_args\.k: is 0"):
        BaselineModule("any", None, str(tmp_path), k=0)
