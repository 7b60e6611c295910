from pathlib import Path

import pytest
import torch

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapter_sharing import add_saved
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import export, fingerprint
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.policy.actor_critic import ActorCritic, AdapterScores, SharedTrunk, without_adapters
from lit_rlhf.rewards import EnsembleReward, ScalarReward


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(6, 200, (n,), generator=generator).tolist() for n in (5, 9, 3, 4, 12, 2)]
    return stack_sequences(ids[:3], ids[3:], 0)


@pytest.fixture
def trunk(tiny_model):
    """A trunk whose adapters and head have moved."""
    networks = SharedTrunk(tiny_model, tiny_model, LoRA(r=2), with_critic=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in [*networks.policy_parameters(), *networks.critic_parameters()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return networks


def test_a_trunk_starts_as_policy_and_reference_and_with_values_of_zero(tiny_model, rows):
    networks = SharedTrunk(tiny_model, tiny_model, LoRA(r=2), with_critic=True)
    plain = PolicyNetwork(tiny_model)
    logprobs, values, _ = networks.outputs(rows, 0.8, values=True, entropy=False)
    assert torch.equal(logprobs, plain(rows, 0.8))
    assert torch.equal(networks.reference_logprobs(rows, 0.8), plain(rows, 0.8))
    assert not values.any()
    assert networks.reference_fingerprint == fingerprint(plain)


def test_the_reference_is_the_trunk_without_adapters_whatever_these_have_learnt(trunk, tiny_model, rows):
    plain, mask = PolicyNetwork(tiny_model), rows.response_mask
    assert torch.equal(trunk.reference_logprobs(rows, 1.0), plain(rows))
    assert (trunk.logprobs(rows, 1.0) - plain(rows))[mask].abs().max() > 1e-3
    moved = PolicyNetwork(merged(trunk.policy.model))
    torch.testing.assert_close(moved(rows)[mask], trunk.logprobs(rows, 1.0)[mask], atol=1e-4, rtol=1e-4)


def test_switching_adapters_off_leaves_them_trainable_and_on_afterwards(trunk, rows):
    before = trunk.logprobs(rows, 1.0)
    with pytest.raises(RuntimeError, match="stop"), without_adapters(trunk.policy.model):
        raise RuntimeError("stop")
    assert all(parameter.requires_grad for parameter in trunk.policy_parameters())
    assert len(trunk.policy_parameters()) > 0
    assert torch.equal(trunk.logprobs(rows, 1.0), before)


def test_only_adapters_and_head_are_trained(trunk):
    trained = {name for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    assert len(trained) == len(trunk.policy_parameters()) + len(trunk.critic_parameters())


@pytest.mark.parametrize("entropy", [False, True])
def test_one_pass_of_a_trunk_gives_what_two_would(trunk, rows, entropy):
    logprobs, values, entropies = trunk.outputs(rows, 0.8, values=True, entropy=entropy)
    mask = rows.response_mask
    torch.testing.assert_close(logprobs[mask], trunk.logprobs(rows, 0.8)[mask])
    torch.testing.assert_close(values[mask], trunk.values(rows)[mask])
    states = trunk.policy.model.base_model(input_ids=rows.ids).last_hidden_state
    for row in range(len(rows)):
        for t in range(int(rows.response_length[row])):
            state = states[row, int(rows.prompt_length[row]) + t - 1]
            assert values[row, t].item() == pytest.approx(float(trunk.head(state)), abs=1e-5)
    assert (entropies is not None) == entropy
    assert trunk.outputs(rows, 0.8, values=False, entropy=entropy)[1] is None


def test_a_refreshed_reference_is_the_policy_at_that_time(tiny_model, rows):
    networks = ActorCritic(tiny_model, tiny_model)
    with torch.no_grad():
        next(iter(networks.policy.parameters())).add_(0.1)
        assert not torch.equal(networks.reference_logprobs(rows, 1.0), networks.logprobs(rows, 1.0))
        networks.refresh_reference()
        assert torch.equal(networks.reference_logprobs(rows, 1.0), networks.logprobs(rows, 1.0))
        next(iter(networks.policy.parameters())).add_(0.1)
        assert not torch.equal(networks.reference_logprobs(rows, 1.0), networks.logprobs(rows, 1.0))
    assert not any(parameter.requires_grad for parameter in networks.reference.parameters())


@pytest.fixture(scope="module")
def adapted_reward(lit, tiny_model, tmp_path_factory) -> str:
    """A reward model that was trained with adapters on the policy's weights."""
    folder = tmp_path_factory.mktemp("adapted")
    options = {
        "model": {"class_path": "ScalarRewardModule", "init_args": {"model": tiny_model, "lora": {"r": 3}}},
        "data": {"sources": {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 40}}, "batch_size": 8},
        "trainer": {"max_epochs": 1},
        "export": {"directory": str(folder / "model")},
    }
    options["model"]["init_args"]["optimizer"] = {"lr": 0.05}
    lit("fit", folder, options)
    return str(folder / "model")


def loaded(path: str, renderer) -> ScalarReward:
    return ScalarReward(path, scale=1.0).load(renderer, "any")


def test_a_reward_model_of_adapters_moves_onto_the_trunk_and_scores_as_before(
    trunk, adapted_reward, renderer, rows, tiny_model
):
    alone, shared = loaded(adapted_reward, renderer), EnsembleReward([loaded(adapted_reward, renderer)])
    before = trunk.logprobs(rows, 1.0)
    trunk.lend(shared)
    member = shared.members[0]
    assert isinstance(member.model.network, AdapterScores)
    expected = alone.model.score_sequences(rows)
    assert expected.std() > 1e-3
    torch.testing.assert_close(member.model.score_sequences(rows), expected, atol=1e-5, rtol=1e-4)
    mask = rows.response_mask
    token_scores = member.model.network.token_scores(rows)[mask]
    torch.testing.assert_close(token_scores, alone.model.network.token_scores(rows)[mask], atol=1e-5, rtol=1e-4)
    assert torch.equal(trunk.logprobs(rows, 1.0), before)  # the policy's own adapters are back
    assert torch.equal(trunk.reference_logprobs(rows, 1.0), PolicyNetwork(tiny_model)(rows))
    assert sum(p.numel() for p in shared.parameters()) == member.model.network.head.weight.numel()
    trained = {name for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    assert not any("reward_0" in name for name in trained)
    assert any("default" in name for name in trained)


def test_a_reward_model_with_attributes_keeps_its_own_head(trunk, adapted_reward, renderer, rows):
    """The saved head is the one without them."""
    turned = ScalarReward(adapted_reward, scale=1.0, attributes={"0": -1.0}).load(renderer, "any")
    trunk.lend(turned)
    assert not isinstance(turned.model.network, AdapterScores)
    expected = -loaded(adapted_reward, renderer).model.score_sequences(rows)
    torch.testing.assert_close(turned.model.score_sequences(rows), expected)
    assert turned.critic_scale(adapted_reward) == 0


def test_adapters_on_other_weights_stay_where_they_are(adapted_reward, write_model, renderer, tiny_model, tmp_path):
    other = PolicyNetwork(tiny_model)
    with torch.no_grad():
        next(iter(other.parameters())).add_(0.1)
    export(other.model, renderer, tmp_path / "other")
    networks, reward = (
        SharedTrunk(str(tmp_path / "other"), str(tmp_path / "other"), LoRA(r=2), True),
        loaded(adapted_reward, renderer),
    )
    networks.lend(reward)
    assert not isinstance(reward.model.network, AdapterScores)


def test_policy_optimisation_on_one_trunk_with_its_reward_model(lit, ppo_options, adapted_reward, tiny_model, tmp_path):
    reward = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": adapted_reward, "scale": 1.0}}
    options = ppo_options(2, reward=reward, lora={"r": 2}, critic=None) | {"checkpoint": {"every_n_train_steps": 1}}
    module = lit("fit", tmp_path, options | {"export": {"directory": str(tmp_path / "model")}}).model
    assert isinstance(module.reward.model.network, AdapterScores)
    weights = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert not any("reward" in name for name in weights)
    ids = torch.arange(6, 26)[None]
    exported = PolicyNetwork(str(tmp_path / "model")).model(ids).logits
    torch.testing.assert_close(exported, module.networks.policy.model(ids).logits, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------- rounds on one trunk


@pytest.fixture
def first_round(trunk, renderer, tmp_path):
    """The directory that a training on the trunk leaves behind."""
    return str(export(merged(trunk.policy.model), renderer, tmp_path / "first", trunk.save_adapters))


@pytest.fixture
def renderer(tiny_model):
    return Renderer.load(tiny_model)


def test_a_later_round_starts_from_the_last_ones_adapters_on_the_same_trunk(first_round, trunk, tiny_model, rows):
    later = SharedTrunk(first_round, tiny_model, LoRA(r=2), with_critic=True)
    assert torch.equal(later.logprobs(rows, 1.0), trunk.logprobs(rows, 1.0))
    assert torch.equal(later.reference_logprobs(rows, 1.0), trunk.reference_logprobs(rows, 1.0))
    assert later.reference_fingerprint == trunk.reference_fingerprint
    assert not later.values(rows).any(), "its critic is a new one"


def test_a_start_whose_adapters_do_not_fit_is_refused(first_round, tiny_model, write_model):
    with pytest.raises(DataError, match="another lora"):
        SharedTrunk(first_round, tiny_model, LoRA(r=4), with_critic=True)
    with pytest.raises(DataError, match="other frozen weights"):
        SharedTrunk(first_round, write_model("qwen2"), LoRA(r=2), with_critic=True)
    with pytest.raises(DataError, match="has no adapters"):
        SharedTrunk(write_model("qwen2"), tiny_model, LoRA(r=2), with_critic=True)


def test_a_policys_adapters_are_no_reward_model(first_round, tiny_model):
    model = PolicyNetwork(tiny_model).model
    LoRA(r=2).add(model)
    base = fingerprint(PolicyNetwork(tiny_model).model.base_model, skip="pooler.")
    assert add_saved(model, Path(first_round), base, tiny_model, "reward_0") is None
