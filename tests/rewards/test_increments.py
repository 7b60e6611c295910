import json
import shutil

import pytest
import torch
import transformers
from jsonargparse import ArgumentParser

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards import ContrastiveReward, Reward, ScalarReward, TokenIncrementReward


@pytest.fixture
def reward(tiny_reward_model, renderer) -> TokenIncrementReward:
    return TokenIncrementReward(tiny_reward_model, scale=1.0).load(renderer, "policy")


@pytest.fixture
def scalar(tiny_reward_model, renderer) -> ScalarReward:
    return ScalarReward(tiny_reward_model, scale=1.0).load(renderer, "policy")


def test_increments_are_differences_of_the_scores_of_prefixes(reward, completions, tiny_reward_model):
    network, sequences = RewardNetwork(tiny_reward_model).eval(), completions.sequences
    rewards = reward(completions)
    for row, response in enumerate(sequences.response_lists()):
        prompt = sequences.ids[row, : int(sequences.prompt_length[row])].tolist()
        before = 0.0
        for t in range(len(response)):
            with torch.no_grad():
                score = network(stack_sequences([prompt], [response[: t + 1]], 0)).item()
            assert rewards[row, t].item() == pytest.approx(score - before, abs=1e-5)
            before = score


def test_increments_add_up_to_the_models_score(reward, scalar, completions):
    rewards, totals = reward(completions), scalar.scores(completions)
    torch.testing.assert_close(rewards.sum(1), totals, rtol=0, atol=1e-5)
    torch.testing.assert_close(reward.scores(completions), totals, rtol=0, atol=1e-5)
    assert totals.std() > 1e-3


def test_every_token_is_paid_and_padding_is_not(reward, completions):
    rewards, mask = reward(completions), completions.sequences.response_mask
    assert rewards.shape == mask.shape
    assert not mask.all()
    assert not rewards[~mask].any()
    assert (rewards[mask] != 0).float().mean() > 0.9
    assert not rewards.requires_grad


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_reward_does_not_depend_on_the_rows_beside_it(tiny_reward_model, renderer, completions, reward, batch_size):
    small = TokenIncrementReward(tiny_reward_model, scale=1.0, batch_size=batch_size).load(renderer, "policy")
    torch.testing.assert_close(small(completions), reward(completions), rtol=0, atol=1e-5)


def test_scale_is_the_one_of_the_scalar_reward(tiny_reward_model, renderer, completions, reward, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_reward_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"calibration": {"mean": 7.0, "std": 0.25, "n": 10}}))
    calibrated = TokenIncrementReward(str(model)).load(renderer, "policy")
    assert calibrated.scale == ScalarReward(str(model)).load(renderer, "policy").scale == 4.0
    torch.testing.assert_close(calibrated(completions), 4 * reward(completions))


def test_the_same_completions_are_scored_once(reward, completions, monkeypatch):
    passes, scored = [], RewardNetwork.token_scores

    def counted(self, sequences):
        passes.append(len(sequences))
        return scored(self, sequences)

    monkeypatch.setattr(RewardNetwork, "token_scores", counted)
    first = reward(completions)
    assert reward.proxy is reward
    assert reward.proxy(completions) is first
    reward.scores(completions)
    assert passes == [len(completions)]


def test_its_fingerprint_is_not_the_scalar_rewards(reward, scalar, tiny_reward_model, renderer):
    other = TokenIncrementReward(tiny_reward_model, scale=2.0).load(renderer, "policy")
    assert len({reward.fingerprint, scalar.fingerprint, other.fingerprint}) == 3


def test_under_a_contrastive_reward_the_baseline_comes_off_the_last_token(
    reward, tiny_reward_model, renderer, records, completions, tmp_path
):
    store = Store(tmp_path / "store")
    key = {"policy": "policy", "reward": reward.fingerprint, "template": renderer.fingerprint, "k": 2}
    store.begin(key)
    rows = [{"prompt_hash": record.prompt_hash, "scores": [0.1 * i, 0.3 * i]} for i, record in enumerate(records)]
    store.write_part(0, rows)
    store.finish(1)
    inner = TokenIncrementReward(tiny_reward_model, scale=1.0)
    contrastive = ContrastiveReward(inner, str(tmp_path / "store")).load(renderer, "policy")
    change = contrastive(completions) - reward(completions)
    last = completions.sequences.response_length[:, None] - 1
    baselines = torch.tensor([0.2 * i for i in range(len(records))])
    torch.testing.assert_close(change.gather(1, last)[:, 0], -baselines, rtol=0, atol=1e-5)
    assert not change.scatter(1, last, 0.0).any()


def test_an_encoder_is_refused(renderer, tiny_reward_model, tmp_path):
    tokenizer = renderer.tokenizer
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=len(tokenizer), num_labels=1,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match="encoder") as raised:
        TokenIncrementReward(str(tmp_path / "bert"), scale=1.0).load(renderer, "policy")
    assert str(tmp_path / "bert") in str(raised.value)
    assert "ScalarReward" in str(raised.value)


def test_a_model_that_reads_other_tokens_is_refused(tiny_reward_model, tiny_model):
    plain = Renderer.load(tiny_model, template="plain")
    with pytest.raises(DataError, match="another tokenizer or template") as raised:
        TokenIncrementReward(tiny_reward_model).load(plain, "policy")
    assert tiny_reward_model in str(raised.value)


def test_from_config(tiny_reward_model, renderer, completions: Completions, reward, tmp_path):
    config = tmp_path / "reward.yaml"
    config.write_text(f"""
reward:
  class_path: lit_rlhf.rewards.TokenIncrementReward
  init_args: {{model: {tiny_reward_model}, scale: 0.5}}
""")
    parser = ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_argument("--reward", type=Reward)
    given = parser.instantiate(parser.parse_args(["-c", str(config)])).reward.load(renderer, "policy")
    torch.testing.assert_close(given(completions), 0.5 * reward(completions))
