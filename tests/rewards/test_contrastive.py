import copy

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.store import Store
from lit_rlhf.rewards import ContrastiveReward, LengthPenalty, PythonReward, Reward, ScalarReward

SCORES = np.random.default_rng(0).normal(size=(6, 5)).round(3)


def length_reward(prompt: str, response: str) -> float:
    return 0.1 * len(response)


@pytest.fixture
def inner(renderer) -> PythonReward:
    return PythonReward(length_reward, scale=0.5)


@pytest.fixture
def write_store(tmp_path, records, renderer, inner):
    """Write a store for the six prompts, with the given fields of its key changed; returns its folder."""

    def write(scores=SCORES, finish: bool = True, **changed) -> str:
        reward = inner.load(renderer, "policy").fingerprint
        key = {"policy": "policy", "reward": reward, "template": renderer.fingerprint, "k": 5}
        store = Store(tmp_path / "store")
        store.begin(key | changed)
        hashes = [record.prompt_hash for record in records]
        rows = [{"prompt_hash": each, "scores": list(row)} for each, row in zip(hashes, scores, strict=True)]
        for part in range(2):
            store.write_part(part, rows[part::2])
        if finish:
            store.finish(2)
        return str(tmp_path / "store")

    return write


REDUCTIONS = {
    "mean": lambda row: sum(row) / len(row),
    "median": lambda row: np.median(row),
    "max": max,
    "quantile": lambda row: np.quantile(row, 0.3),
}


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("k", [None, 1, 2, 5])
def test_total_is_the_score_minus_the_aggregate_of_the_first_k(
    completions, records, renderer, inner, write_store, reduce, k
):
    reward = ContrastiveReward(inner, write_store(), reduce, k, quantile=0.3).load(renderer, "policy")
    rewards, plain = reward(completions), inner(completions)
    for row, baselines in enumerate(SCORES.tolist()):
        expected = plain[row].sum().item() - REDUCTIONS[reduce](baselines[:k])
        assert rewards[row].sum().item() == pytest.approx(expected, abs=1e-5)
    last = completions.sequences.response_length - 1
    changed = (rewards - plain).ne(0).nonzero()
    assert changed[:, 1].tolist() == last[changed[:, 0]].tolist()  # the last token and no other


def test_rewards_of_earlier_tokens_are_left_alone(completions, renderer, inner, write_store):
    class PerToken(Reward):
        fingerprint = inner.load(renderer, "policy").fingerprint

        def forward(self, completions):
            mask = completions.sequences.response_mask
            return torch.arange(mask.shape[1]).expand(mask.shape) * 0.1 * mask

    reward = ContrastiveReward(PerToken(), write_store()).load(renderer, "policy")
    rewards, plain = reward(completions), reward.inner(completions)
    expected = plain.sum(1) - torch.tensor(SCORES).mean(1)
    torch.testing.assert_close(rewards.sum(1), expected.float(), rtol=0, atol=1e-5)
    not_last = torch.ones_like(plain).scatter(1, completions.sequences.response_length[:, None] - 1, 0).bool()
    assert torch.equal(rewards[not_last], plain[not_last])


def test_rows_find_their_own_prompt_in_any_order_and_number(completions, renderer, inner, write_store):
    reward = ContrastiveReward(inner, write_store()).load(renderer, "policy")
    order = torch.tensor([4, 4, 0, 5, 1, 4])
    shuffled = Completions(
        completions.sequences[order],
        completions.truncated[order],
        [completions.records[i] for i in order],
        [completions.texts[i] for i in order],
    )
    torch.testing.assert_close(reward(shuffled).sum(1), reward(completions).sum(1)[order])
    means = torch.tensor(SCORES).mean(1)[order]
    torch.testing.assert_close(reward.baseline_mean(shuffled), means.float())


def test_what_is_added_to_all_scores_of_a_prompt_cancels(completions, renderer, inner, write_store, tmp_path):
    bias = {record.prompt[-1].content: float(i) for i, record in enumerate(completions.records)}
    plain = ContrastiveReward(inner, write_store()).load(renderer, "policy")(completions).sum(1)
    inner.function = lambda prompt, response: length_reward(prompt, response) + bias[prompt] / 0.5
    shifted = SCORES + np.arange(6)[:, None]
    (tmp_path / "store").rename(tmp_path / "other")
    biased = ContrastiveReward(inner, write_store(shifted)).load(renderer, "policy")(completions).sum(1)
    torch.testing.assert_close(biased, plain, rtol=0, atol=1e-5)


def test_on_unseen_prompts_the_inner_reward_speaks(completions, renderer, inner, write_store):
    reward = ContrastiveReward(inner, write_store()).load(renderer, "policy")
    assert reward.proxy is inner
    assert reward.scale == inner.scale


def test_a_prompt_without_baselines_is_an_error_that_names_it(completions, renderer, inner, write_store):
    reward = ContrastiveReward(inner, write_store()).load(renderer, "policy")
    unknown = Record((Message("user", "Who is this?"),), location="prompts.jsonl:7")
    one = Completions(completions.sequences[:1], completions.truncated[:1], [unknown], completions.texts[:1])
    with pytest.raises(DataError, match="Who is this") as raised:
        reward(one)
    assert "prompts.jsonl:7" in str(raised.value)
    assert "baseline" in str(raised.value)


@pytest.mark.parametrize("field", ["policy", "reward", "template"])
def test_a_store_of_another_run_is_refused_and_the_field_named(renderer, inner, write_store, field):
    store = write_store(**{field: "something else"})
    with pytest.raises(DataError, match=f"{field}: the store has 'something else'") as raised:
        ContrastiveReward(inner, store).load(renderer, "policy")
    own = {"policy": "policy", "reward": inner.fingerprint, "template": renderer.fingerprint}
    assert f"this run {own[field]!r}" in str(raised.value)
    others = [other for other in own if other != field]
    assert not any(f"{other}: the store" in str(raised.value) for other in others)


def test_all_differing_fields_are_named_at_once(renderer, inner, write_store):
    store = write_store(policy="a", template="b")
    with pytest.raises(DataError, match=r"policy: .*'a'.*template: .*'b'"):
        ContrastiveReward(inner, store).load(renderer, "policy")


def test_an_unfinished_or_missing_store_is_refused(renderer, inner, write_store, tmp_path):
    with pytest.raises(DataError, match="not finished"):
        ContrastiveReward(inner, write_store(finish=False)).load(renderer, "policy")
    with pytest.raises(DataError, match="no store"):
        ContrastiveReward(inner, str(tmp_path / "nowhere")).load(renderer, "policy")


def test_k_must_be_there_for_every_prompt(renderer, inner, write_store):
    with pytest.raises(DataError, match="fewer than k = 6"):
        ContrastiveReward(inner, write_store(), k=6).load(renderer, "policy")
    for k in (0, -1):
        with pytest.raises(DataError, match=f"is {k}"):
            ContrastiveReward(inner, "store", k=k)


def test_fingerprint_tells_apart_whatever_changes_the_numbers(renderer, inner, write_store, tmp_path):
    store = write_store()
    options = [{}, {"reduce": "max"}, {"k": 3}, {"reduce": "quantile"}, {"reduce": "quantile", "quantile": 0.9}]
    names = [ContrastiveReward(inner, store, **each).load(renderer, "policy").fingerprint for each in options]
    (tmp_path / "store").rename(tmp_path / "old")
    names.append(ContrastiveReward(inner, write_store(seed=1)).load(renderer, "policy").fingerprint)
    assert len(set(names)) == len(names)
    assert ContrastiveReward(inner, str(tmp_path / "old")).load(renderer, "policy").fingerprint == names[0]


def test_rewards_nest_in_a_config(tmp_path):
    config = tmp_path / "reward.yaml"
    config.write_text("""
reward:
  class_path: lit_rlhf.rewards.ContrastiveReward
  init_args:
    inner: {class_path: lit_rlhf.rewards.ScalarReward, init_args: {model: a/model, scale: 2}}
    store: a/store
    reduce: median
    k: 3
""")
    parser = ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_argument("--reward", type=Reward)
    reward = parser.instantiate(parser.parse_args(["-c", str(config)])).reward
    assert isinstance(reward, ContrastiveReward)
    assert isinstance(reward.inner, ScalarReward)
    assert (reward.inner.path, reward.reduce, reward.k) == ("a/model", "median", 3)
    with pytest.raises(SystemExit):
        parser.parse_args(["-c", str(config), "--reward.init_args.reduce", "mode"])


def test_a_wrapper_inside_leaves_no_baseline_mean_to_compare_the_proxy_with(completions, renderer, inner, write_store):
    penalised = LengthPenalty(inner, 0.1)
    name = penalised.load(renderer, "policy").fingerprint
    reward = ContrastiveReward(penalised, write_store(reward=name)).load(renderer, "policy")
    assert reward.proxy is inner
    assert reward.baseline_mean(completions) is None
    torch.testing.assert_close(reward(completions).sum(1), penalised(completions).sum(1) - SCORES_MEAN)


# ---------------------------------------------------------------------- dynamic scaling

SCORES_MEAN = torch.tensor(SCORES).mean(1).float()


def test_dynamic_scaling_gives_the_first_batch_the_size_it_had(completions, renderer, inner, write_store):
    store = write_store()
    reward = ContrastiveReward(inner, store, dynamic_scaling=0.9).load(renderer, "policy")
    plain = ContrastiveReward(inner, store).load(renderer, "policy")
    total, centred = inner(completions).sum(1), plain(completions).sum(1)
    scaled = reward(completions).sum(1)
    assert scaled.abs().mean().item() == pytest.approx(total.abs().mean().item(), rel=1e-5)
    torch.testing.assert_close(scaled, centred * total.abs().mean() / centred.abs().mean())
    assert (total.abs().mean() - centred.abs().mean()).abs() > 0.1  # or else it had nothing to do


def test_dynamic_scaling_follows_both_averages_over_batches(complete, records, renderer, inner, write_store):
    reward = ContrastiveReward(inner, write_store(), dynamic_scaling=0.7).load(renderer, "policy")
    sizes = []
    for age, part in enumerate((slice(0, 4), slice(4, 6), slice(0, 6))):
        batch = complete(records[part])
        total = inner(batch).sum(1)
        sizes.append((total.abs().numpy(), (total - SCORES_MEAN[part]).abs().numpy()))
        weights = np.concatenate([np.full(len(each[0]), 0.7 ** (age - i)) for i, each in enumerate(sizes)])
        size, centred = (np.average(np.concatenate(each), weights=weights) for each in zip(*sizes, strict=True))
        expected = (total - SCORES_MEAN[part]) * size / centred
        torch.testing.assert_close(reward(batch).sum(1).double(), expected.double(), rtol=1e-5, atol=1e-5)
        assert reward.diagnostics(batch)["dynamic_scale"].item() == pytest.approx(size / centred, rel=1e-5)
        assert reward.critic_scale("") == 0
        assert reward.scale == pytest.approx(0.5 * size / centred, rel=1e-5)


def test_dynamic_scaling_keeps_signs_and_counts_each_batch_once(completions, renderer, inner, write_store):
    store = write_store()
    reward = ContrastiveReward(inner, store, dynamic_scaling=0.9).load(renderer, "policy")
    reward.diagnostics(completions)
    assert not reward.sizes.running_count
    rewards = reward(completions)
    assert torch.equal(reward(completions), rewards)
    assert reward.sizes.running_count == len(completions)
    plain = ContrastiveReward(inner, store).load(renderer, "policy")(completions)
    assert torch.equal(rewards.sign(), plain.sign())


def test_dynamic_scaling_multiplies_every_token_alike(completions, renderer, inner, write_store):
    class PerToken(Reward):
        fingerprint = inner.load(renderer, "policy").fingerprint

        def forward(self, completions):
            mask = completions.sequences.response_mask
            return torch.arange(mask.shape[1]).expand(mask.shape) * 0.1 * mask

    store = write_store()
    plain = ContrastiveReward(PerToken(), store).load(renderer, "policy")(completions)
    reward = ContrastiveReward(PerToken(), store, dynamic_scaling=0.99).load(renderer, "policy")
    torch.testing.assert_close(reward(completions), plain * reward.factor)
    assert reward.factor != pytest.approx(1, abs=1e-3)


def test_dynamic_scaling_goes_on_from_a_saved_state_and_is_off_by_default(
    complete, records, renderer, inner, write_store
):
    store = write_store()
    first, second = complete(records[:3]), complete(records[3:])
    straight, resumed = (
        ContrastiveReward(inner, store, dynamic_scaling=0.5).load(renderer, "policy") for _ in range(2)
    )
    straight(first)
    state = straight.state_dict()
    assert {name.rpartition(".")[2] for name in state} == {"running_sums", "running_count"}
    resumed.load_state_dict(copy.deepcopy(state))
    assert torch.equal(resumed(second), straight(second))
    fresh = ContrastiveReward(inner, store, dynamic_scaling=0.5).load(renderer, "policy")
    assert not torch.equal(fresh(second), straight(second))
    off = ContrastiveReward(inner, store).load(renderer, "policy")
    assert not off.state_dict()
    assert off.fingerprint != fresh.fingerprint
    assert off.fingerprint.split(" over ")[0] in fresh.fingerprint


def test_dynamic_scaling_survives_rewards_that_equal_their_baselines(completions, renderer, inner, write_store):
    inner.load(renderer, "policy")
    same = inner(completions).sum(1)[:, None].expand(6, 5).double().numpy()
    reward = ContrastiveReward(inner, write_store(same), dynamic_scaling=0.9).load(renderer, "policy")
    assert reward(completions).abs().max() < 1e-5
    assert reward(completions).isfinite().all()
    with pytest.raises(DataError, match="dynamic_scaling"):
        ContrastiveReward(inner, "store", dynamic_scaling=1.5)
