from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy.rollout import complete, seeded_generator
from lit_rlhf.rewards import PythonReward
from lit_rlhf.world import GOLD_WEIGHTS


def lines(folder: Path, kind: str = "train") -> list[dict]:
    rows = without_throughput((folder / "metrics.jsonl").read_text())
    return [row for row in rows if f"{kind}/kl" in row]


@pytest.fixture(scope="module")
def run(lit, ppo_options, tmp_path_factory):
    """Four iterations of six prompts: two epochs of minibatches of four and two."""
    folder = tmp_path_factory.mktemp("ppo")
    hand_over = {"export": {"directory": str(folder / "model")}, "checkpoint": {"every_n_train_steps": 4}}
    return lit("fit", folder, ppo_options(4) | hand_over), folder


@pytest.fixture
def completions(run, prompts):
    module = run[0].model
    return complete(
        module.networks.policy, prompts, module.renderer, module.sampling, seeded_generator(module.device, 5)
    )


def test_the_first_iteration_starts_on_policy(run):
    rows = lines(run[1])
    assert [row["train/first_ratio"] for row in rows] == [1.0] * 4
    assert rows[0]["train/kl"] == 0.0
    assert all(row["train/kl"] != 0.0 for row in rows[1:])
    assert all(row["train/ratio_max"] > 1.0 for row in rows)  # later minibatches have moved on
    assert all(abs(row["train/explained_variance"]) < 1e6 for row in rows)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_before_the_first_step_every_ratio_is_exactly_one(run, prompts, temperature):
    module = run[0].model
    sampling = Sampling(max_new_tokens=8, temperature=temperature)
    completions = complete(
        module.networks.policy, prompts, module.renderer, sampling, seeded_generator(module.device, 5)
    )
    module.sampling, before = sampling, module.sampling
    trajectory = module.evaluate(completions)
    module.sampling = before
    for rows in (slice(0, 4), slice(4, 5)):  # the minibatches of the first epoch
        part = trajectory[rows]
        logprobs = module.networks.policy(part.sequences, temperature)
        assert logprobs.requires_grad
        assert torch.equal(logprobs[part.mask], part.logprobs[part.mask])
        assert torch.equal(module.networks.critic(part.sequences, values=True)[part.mask], part.values[part.mask])


def test_a_trajectory_holds_what_each_network_says_of_each_row_alone(run, completions):
    module = run[0].model
    module.sampling, before = Sampling(max_new_tokens=8, temperature=0.7), module.sampling
    trajectory = module.evaluate(completions)
    module.sampling = before
    for row in range(len(completions)):
        alone = completions.sequences[row : row + 1]
        ids, start, stop = alone.ids[0], int(alone.prompt_length), int(alone.length)
        for name, network in (("logprobs", module.networks.policy), ("reference_logprobs", module.networks.reference)):
            with torch.no_grad():
                logits = network.model(input_ids=ids[None]).logits[0] / 0.7
            expected = logits.log_softmax(-1)[torch.arange(start - 1, stop - 1), ids[start:stop]]
            torch.testing.assert_close(getattr(trajectory, name)[row, : stop - start], expected, rtol=0, atol=1e-5)
        for t in range(stop - start):  # the value of a state is the score of the text up to it
            with torch.no_grad():
                value = module.networks.critic.model(input_ids=ids[None, : start + t]).logits.item()
            assert trajectory.values[row, t].item() == pytest.approx(value, abs=1e-4)
    torch.testing.assert_close(trajectory.rewards, module.reward(completions))


def test_the_judges_components_are_logged(run):
    for kind in ("train", "val"):
        row = lines(run[1], kind)[-1]
        total = sum(weight * row[f"{kind}/gold/{name}"] for name, weight in GOLD_WEIGHTS.items())
        assert row[f"{kind}/gold_reward"] == pytest.approx(total, abs=1e-4)
        assert 0 <= row[f"{kind}/refusal"] <= 1
    assert all(row["train/advantage_std"] > 0 for row in lines(run[1]))
    assert all(row["train/token_reward_abs"] > 0 for row in lines(run[1]))


def test_examples_show_what_every_token_earned(run):
    module = run[0].model
    assert len(module.examples) == 4
    for row in module.examples:
        assert "".join(row["tokens"]) == row["response"]
        assert len(row["tokens"]) == len(row["token_rewards"]) == len(row["token_advantages"])
        assert sum(row["token_rewards"]) == pytest.approx(row["proxy_reward"], abs=1e-4)
        assert any(row["token_advantages"])


def test_token_rewards_train_and_are_scored_once(lit, ppo_options, tiny_reward_model, tmp_path, monkeypatch):
    scored, token_scores = [], RewardNetwork.token_scores

    def counted(self, sequences):
        scored.append(len(sequences))
        return token_scores(self, sequences)

    monkeypatch.setattr(RewardNetwork, "token_scores", counted)
    reward = {"class_path": "lit_rlhf.rewards.TokenIncrementReward", "init_args": {"model": tiny_reward_model}}
    options = ppo_options(3, reward=reward)
    module = lit("fit", tmp_path, options, "--trainer.num_sanity_val_steps", "0").model
    assert scored == [6, 6, 6, 5]  # every rollout once; then the validation prompts
    for row in module.examples:
        paid = [value != 0 for value in row["token_rewards"]]
        assert sum(paid) == len(paid)
        assert sum(row["token_rewards"]) == pytest.approx(row["proxy_reward"], abs=1e-4)


def test_steps_are_iterations_however_often_the_optimiser_moves(run):
    cli, folder = run
    assert cli.trainer.global_step == 4
    assert [row["step"] for row in lines(folder)] == [1, 2, 3, 4]
    assert [row["step"] for row in lines(folder, "val")] == [3]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
    assert checkpoint["global_step"] == 4
    moved = {int(state["step"]) for state in checkpoint["optimizer_states"][0]["state"].values()}
    assert moved == {4 * 2 * 2}  # iterations x epochs x minibatches


def test_frozen_networks_stay_what_they_were_and_out_of_checkpoints(run, tiny_model, tiny_reward_model):
    cli, folder = run
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert {name.split(".")[1] for name in weights} == {"policy", "critic"}
    module = cli.model
    for network, original in (
        (module.networks.reference, PolicyNetwork(tiny_model)),
        (module.reward.model.network, RewardNetwork(tiny_reward_model)),
    ):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        for name, value in original.state_dict().items():
            assert torch.equal(network.state_dict()[name], value)
    for network, original in (
        (module.networks.policy, module.networks.reference),
        (module.networks.critic, RewardNetwork(tiny_reward_model)),
    ):
        changed = [not torch.equal(a, b) for a, b in zip(network.parameters(), original.parameters(), strict=True)]
        assert all(changed)


def test_the_exported_policy_is_the_trained_one(run):
    cli, folder = run
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    for name, value in cli.model.networks.policy.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_critic_from_a_scaled_reward_model_is_scaled_alike(lit, ppo_options, tiny_reward_model, tmp_path):
    reward = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model, "scale": 0.25}}
    module = lit("validate", tmp_path, ppo_options(1, reward=reward)).model
    original = RewardNetwork(tiny_reward_model)
    assert torch.equal(module.networks.critic.head.weight, 0.25 * original.head.weight)
    assert torch.equal(
        module.networks.critic.model.get_input_embeddings().weight, original.model.get_input_embeddings().weight
    )


def test_a_critic_without_a_start_has_the_policys_body(lit, ppo_options, tmp_path):
    module = lit("validate", tmp_path, ppo_options(1, critic=None)).model
    body = module.networks.critic.model.base_model.state_dict()
    for name, value in module.networks.policy.model.base_model.state_dict().items():
        assert torch.equal(body[name], value)
    body["embed_tokens.weight"].zero_()
    assert module.networks.policy.model.get_input_embeddings().weight.any()  # a body of its own


def test_both_learning_rates_follow_the_schedule_by_iterations(lit, ppo_options, tmp_path):
    rates = {"optimizer": {"lr": 1e-3, "schedule": "linear", "warmup": 0.0}, "critic_lr": 4e-3}
    lit("fit", tmp_path, ppo_options(4, **rates) | {"checkpoint": {"every_n_train_steps": 3, "save_top_k": 1}})
    saved = torch.load(next((tmp_path / "checkpoints").glob("*step=3.ckpt")), weights_only=False)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([0.25e-3, 1e-3])


def test_the_same_seed_gives_the_same_run_and_validation_does_not_disturb_it(run, lit, ppo_options, tmp_path):
    options = ppo_options(4)
    options["trainer"] |= {"val_check_interval": 1}
    lit("fit", tmp_path / "again", options)
    assert lines(tmp_path / "again") == lines(run[1])
    assert lines(tmp_path / "again", "val")[2] == lines(run[1], "val")[0]
    lit("fit", tmp_path / "other", ppo_options(1, seed=1))
    assert lines(tmp_path / "other")[0] != lines(run[1])[0]


@pytest.mark.parametrize("what", ["reward", "reference", "data"])
def test_resuming_with_something_else_is_refused(run, lit, ppo_options, write_model, tiny_reward_model, tmp_path, what):
    other = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model, "scale": 2.0}}
    options = {
        "reward": lambda: ppo_options(8, reward=other),
        "reference": lambda: ppo_options(8, policy=str(altered(write_model("llama"), tmp_path / "policy"))),
        "data": lambda: ppo_options(8, batch_size=5),
    }[what]()
    with pytest.raises(DataError, match=what) as raised:
        lit("fit", tmp_path / "run", options, "--ckpt_path", str(run[1] / "checkpoints" / "last.ckpt"))
    if what == "reward":
        assert "reward" in str(raised.value)
        assert "2" in str(raised.value)
    assert "start a new run" in str(raised.value)


def altered(model: str, directory: Path) -> Path:
    """The same model with one layer's weights moved."""
    network = PolicyNetwork(model)
    with torch.no_grad():
        next(iter(network.parameters())).add_(0.01)
    network.model.save_pretrained(directory)
    for file in Path(model).glob("*token*"):
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "chat_template.jinja").write_bytes(Path(model, "chat_template.jinja").read_bytes())
    return directory


@pytest.mark.slow
def test_ppo_learns_what_it_is_paid_for(lit, ppo_options, taste, tmp_path):
    options = ppo_options(
        30,
        batch_size=32,
        critic=None,
        judge=None,
        reward={"class_path": "lit_rlhf.rewards.PythonReward", "init_args": {"function": f"{taste}.shortness"}},
        settings={"minibatch_size": 16},
        kl={"coefficient": 0.0},
        optimizer={"lr": 5e-3, "schedule": "constant", "warmup": 0.0},
        critic_lr=1e-2,
    )
    lit("fit", tmp_path, options)
    rows = lines(tmp_path)
    rewards = [row["train/reward"] for row in rows]
    before, after = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert after > before + 0.25
    assert lines(tmp_path, "val")[-1]["val/reward"] > before + 0.25
    assert rows[-1]["train/kl"] > 1.0  # it went a long way, unpenalised


def test_an_ensembles_disagreement_is_logged_and_every_member_is_asked_once(
    lit, ppo_options, tiny_reward_model, taste, tmp_path, monkeypatch
):
    asked, scores = [], PythonReward.scores

    def counted(self, completions):
        asked.extend([len(completions)] if type(self) is PythonReward else [])
        return scores(self, completions)

    monkeypatch.setattr(PythonReward, "scores", counted)
    scalar = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model}}
    python = {"class_path": "lit_rlhf.rewards.PythonReward", "init_args": {"function": f"{taste}.shortness"}}
    init_args = {"members": [scalar, python], "reduce": "lower_bound"}
    reward = {"class_path": "lit_rlhf.rewards.EnsembleReward", "init_args": init_args}
    lit("fit", tmp_path, ppo_options(3, reward=reward), "--trainer.num_sanity_val_steps", "0")
    for kind in ("train", "val"):
        row = lines(tmp_path, kind)[-1]
        members = row[f"{kind}/reward/member_1"], row[f"{kind}/reward/member_2"]
        assert members[0] != members[1]
        disagreement = row[f"{kind}/reward/disagreement"]
        assert disagreement > 0
        assert row[f"{kind}/reward"] == pytest.approx(sum(members) / 2 - disagreement, abs=1e-4)
    assert asked == [6, 6, 6, 5]  # every rollout, whose examples are not asked about again; then the validation prompts
