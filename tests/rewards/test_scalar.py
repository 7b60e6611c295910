import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards import EnsembleReward, GoldReward, ScalarReward, TokenIncrementReward


@pytest.fixture
def reward(tiny_reward_model, renderer) -> ScalarReward:
    return ScalarReward(tiny_reward_model, scale=1.0).load(renderer, "policy")


def with_calibration(model: str, directory: Path, calibration: dict | None) -> str:
    """A copy of a scalar model with another calibration."""
    shutil.copytree(model, directory)
    config = json.loads((directory / "config.json").read_text())
    config.pop("calibration", None)
    if calibration is not None:
        config["calibration"] = calibration
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def test_score_is_the_models_on_the_last_real_token(reward, completions, tiny_reward_model):
    sequences = completions.sequences
    expected = RewardNetwork(tiny_reward_model)(sequences)
    rewards = reward(completions)
    last = rewards.gather(1, sequences.response_length[:, None] - 1).squeeze(1)
    torch.testing.assert_close(last, expected.detach(), rtol=0, atol=1e-5)
    assert torch.equal(rewards.count_nonzero(dim=1), torch.ones(len(completions), dtype=torch.long))
    assert expected.std() > 1e-3  # the rows are told apart


def test_scores_are_the_same_through_ids_and_through_text(reward, completions):
    assert reward.shares_ids
    through_ids = reward.scores(completions)
    reward.shares_ids = False
    assert completions.truncated.any()
    torch.testing.assert_close(reward.scores(completions), through_ids, rtol=0, atol=1e-5)


def test_a_response_that_was_cut_off_gets_no_end_through_text(reward, complete, records):
    reward.shares_ids = False
    cut = complete(records, cut=tuple(range(len(records))))
    finished = Completions(cut.sequences, torch.zeros_like(cut.truncated), cut.records, cut.texts)
    renderer = reward.model.renderer
    for completions, ending in ((cut, 0), (finished, 1)):
        prompts = [renderer.prompt_ids(record.prompt) for record in completions.records]
        texts = [renderer.response_ids(text)[: None if ending else -1] for text in completions.texts]
        expected = reward.model.network(stack_sequences(prompts, texts, renderer.pad_id))
        torch.testing.assert_close(reward.scores(completions), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(reward.scores(cut), reward.scores(finished), atol=1e-4)


def test_an_empty_response_that_was_cut_off_is_scored_all_the_same(reward, records):
    reward.shares_ids = False
    prompt = reward.model.renderer.prompt_ids(records[0].prompt)
    unknown = stack_sequences([prompt], [[1]], 0)  # one special token: no text is left of it
    assert reward.scores(Completions(unknown, torch.tensor([True]), records[:1], [""])).isfinite().all()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_score_does_not_depend_on_the_rows_beside_it(tiny_reward_model, renderer, completions, reward, batch_size):
    small = ScalarReward(tiny_reward_model, scale=1.0, batch_size=batch_size).load(renderer, "policy")
    torch.testing.assert_close(small.scores(completions), reward.scores(completions), rtol=0, atol=1e-5)


def test_scale_comes_from_the_calibration(tiny_reward_model, renderer, completions, reward, tmp_path):
    model = with_calibration(tiny_reward_model, tmp_path / "model", {"mean": 7.0, "std": 0.25, "n": 10})
    calibrated = ScalarReward(model).load(renderer, "policy")
    assert calibrated.scale == 4.0
    torch.testing.assert_close(calibrated.scores(completions), 4 * reward.scores(completions))  # the mean is left
    assert ScalarReward(model, scale=3.0).load(renderer, "policy").scale == 3.0


@pytest.mark.parametrize("calibration", [None, {"mean": 0.0, "std": 0.0, "n": 1}, {"mean": 0.0, "std": float("nan")}])
def test_without_a_spread_of_scores_the_user_is_told_what_to_do(tiny_reward_model, renderer, tmp_path, calibration):
    model = with_calibration(tiny_reward_model, tmp_path / "model", calibration)
    with pytest.raises(DataError, match="spread") as raised:
        ScalarReward(model).load(renderer, "policy")
    assert model in str(raised.value)
    assert "scale" in str(raised.value)


def test_a_model_with_another_tokenizer_is_asked_through_text(letters, renderer, completions):
    reward = ScalarReward(letters).load(renderer, "policy")
    assert not reward.shares_ids
    own = Renderer.load(letters)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(letters).eval()
    rewards = reward(completions)
    rows = zip(completions.records, completions.texts, completions.truncated.tolist(), strict=True)
    for row, (record, text, truncated) in enumerate(rows):
        ids = own.prompt_ids(record.prompt) + own.response_ids(text)[: -1 if truncated else None]
        asked = own.tokenizer.decode(ids)
        assert asked.startswith(f"Human: {record.prompt[-1].content}\n\nAssistant:")
        assert asked.removesuffix("<end>").endswith(text)
        assert asked.endswith("<end>") != truncated
        with torch.no_grad():
            score = model(input_ids=torch.tensor([ids])).logits.squeeze()
        last = int(completions.sequences.response_length[row]) - 1  # in the policy's tokens
        assert rewards[row, last].item() == pytest.approx(2 * score.item(), abs=1e-5)


def test_another_template_alone_is_reason_enough_to_ask_through_text(tiny_reward_model, tiny_model):
    plain = Renderer.load(tiny_model, template="plain")
    assert not ScalarReward(tiny_reward_model).load(plain, "policy").shares_ids


def test_nothing_is_trained_and_nothing_is_random(reward, completions):
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    assert not reward.model.network.training
    assert not reward.scores(completions).requires_grad
    assert torch.equal(reward.scores(completions), reward.scores(completions))


def test_fingerprint_names_weights_and_scale(tiny_reward_model, letters, renderer, reward):
    others = [ScalarReward(tiny_reward_model, scale=2.0), ScalarReward(letters, scale=1.0)]
    names = {each.load(renderer, "policy").fingerprint for each in others} | {reward.fingerprint}
    assert len(names) == 3
    assert ScalarReward(tiny_reward_model, scale=1.0).load(renderer, "other policy").fingerprint == reward.fingerprint


def test_a_model_that_is_not_there_is_named(renderer, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        ScalarReward(str(tmp_path / "nowhere")).load(renderer, "policy")


def test_a_critic_follows_the_scale_of_its_own_model_only(tiny_reward_model, tiny_model):
    renderer = Renderer.load(tiny_reward_model)
    reward = ScalarReward(tiny_reward_model, scale=0.25).load(renderer, "policy")
    assert reward.critic_scale(tiny_reward_model) == reward.critic_scale(f"{tiny_reward_model}/") == 0.25
    assert reward.critic_scale(tiny_model) == 0
    assert EnsembleReward([GoldReward(), reward]).critic_scale(tiny_reward_model) == 0.25
    increments = TokenIncrementReward(tiny_reward_model, scale=0.25).load(renderer, "policy")
    assert increments.critic_scale(tiny_reward_model) == GoldReward().critic_scale(tiny_model) == 0
