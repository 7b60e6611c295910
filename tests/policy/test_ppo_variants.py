"""Ways of policy optimisation beside plain PPO: each trains, resumes exactly, and does what its option says."""

import copy
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.policy.actor_critic import ActorCritic

RLOO = {"advantages": {"class_path": "LeaveOneOut", "init_args": {"samples": 3}}, "critic": None}
MOVING = {"advantages": {"class_path": "MovingBaseline"}, "critic": None}
LORA = {"lora": {"r": 2}, "critic": None}
SETTINGS = {"minibatch_size": 4, "epochs": 2}


def lines(folder: Path, kind: str = "train") -> list[dict]:
    rows = without_throughput((folder / "metrics.jsonl").read_text())
    return [row for row in rows if f"{kind}/kl" in row]


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.networks.state_dict().items()}


VARIANTS = {
    "rloo": RLOO,
    "reinforce": MOVING,
    "trunk": LORA,
    "trunk without critic": RLOO | LORA,
    "adaptive kl": {"kl": {"coefficient": 0.1, "target": 0.01, "horizon": 50}},
    "kl in the loss": {"kl": {"coefficient": 0.3, "kind": "k2", "place": "loss"}},
    "refreshed reference": {"settings": SETTINGS | {"refresh_reference": 2}},
    "critic first": {"settings": SETTINGS | {"critic_warmup": 2}},
    "entropy": {"settings": SETTINGS | {"entropy_bonus": 0.05}},
    "in parts": {"settings": SETTINGS | {"micro_batch_size": 3}},
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_resumes_to_the_same_numbers(lit, ppo_options, tmp_path, name):
    options = ppo_options(4, **copy.deepcopy(VARIANTS[name])) | {"checkpoint": {"every_n_train_steps": 1}}
    whole = lit("fit", tmp_path / "whole", copy.deepcopy(options)).model
    first = copy.deepcopy(options)
    first["trainer"]["max_steps"] = 3
    lit("fit", tmp_path / "parts", first)
    checkpoint = str(tmp_path / "parts" / "checkpoints" / "last.ckpt")
    resumed = lit("fit", tmp_path / "parts", options, "--ckpt_path", checkpoint).model
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    for key, value in weights(whole).items():
        assert torch.equal(value, resumed.networks.state_dict()[key]), key
    rows = lines(tmp_path / "whole")
    assert all(row["train/first_ratio"] == 1.0 for row in rows)
    assert all(row["train/ratio_min"] <= 1.0 <= row["train/ratio_max"] for row in rows)


def test_a_minibatch_computed_in_parts_is_the_same_step(lit, ppo_options, tmp_path, monkeypatch):
    rows, outputs = [], ActorCritic.outputs
    monkeypatch.setattr(ActorCritic, "outputs", lambda *a, **k: rows.append(len(a[1])) or outputs(*a, **k))
    figures = []
    for at_once in (None, 4, 1):
        options = ppo_options(1, settings={"minibatch_size": 6, "micro_batch_size": at_once, "entropy_bonus": 0.05})
        lit("fit", tmp_path / str(at_once), options)
        figures.append(lines(tmp_path / str(at_once))[-1])
    assert rows == 2 * [6] + 2 * [3, 3] + 2 * 6 * [1], "the rollout, and one epoch of one minibatch"
    for each in figures[1:]:
        for name in ("policy_grad_norm", "critic_grad_norm", "value_loss", "policy_entropy", "kl", "ratio_max"):
            assert each[f"train/{name}"] == pytest.approx(figures[0][f"train/{name}"], rel=1e-4, abs=1e-6), name


def test_leave_one_out_samples_several_responses_per_prompt_and_trains_no_critic(lit, ppo_options, tmp_path):
    seen = []
    module = lit("fit", tmp_path, ppo_options(2, **RLOO)).model
    module.reward.register_forward_hook(lambda reward, args, out: seen.append(args[0]))
    assert module.networks.critic is None
    row = lines(tmp_path)[-1]
    assert "train/value_loss" not in row
    assert "train/critic_grad_norm" not in row
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)
    assert len(checkpoint["optimizer_states"][0]["param_groups"]) == 1
    moved = {int(state["step"]) for state in checkpoint["optimizer_states"][0]["state"].values()}
    assert moved == {2 * 2 * 5}  # iterations x epochs x minibatches of four among six prompts times three


def test_a_trunk_is_exported_as_a_plain_model_that_answers_like_the_policy(lit, ppo_options, tiny_model, tmp_path):
    options = ppo_options(3, **LORA) | {"export": {"directory": str(tmp_path / "model")}}
    module = lit("fit", tmp_path, options).model
    weights = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert all("lora_" in name or "head." in name for name in weights)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(6, 26)[None]
    torch.testing.assert_close(exported(ids).logits, module.networks.policy.model(ids).logits, atol=1e-4, rtol=1e-4)
    original = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert not torch.allclose(exported(ids).logits, original(ids).logits, atol=1e-5)


def test_the_critic_learns_alone_at_first(lit, ppo_options, tiny_model, tmp_path):
    options = ppo_options(2, settings=SETTINGS | {"critic_warmup": 2})
    module = lit("fit", tmp_path, options).model
    untouched = PolicyNetwork(tiny_model).state_dict()
    for name, value in module.networks.policy.state_dict().items():
        assert torch.equal(value, untouched[name])
    assert all(row["train/kl"] == 0.0 for row in lines(tmp_path))
    again = lit("fit", tmp_path / "longer", ppo_options(3, settings=SETTINGS | {"critic_warmup": 2})).model
    assert any(not torch.equal(v, untouched[n]) for n, v in again.networks.policy.state_dict().items())
    assert any(
        not torch.equal(a, b)
        for a, b in zip(module.networks.critic.parameters(), again.networks.critic.parameters(), strict=True)
    )


def test_in_a_shared_trunk_too(lit, ppo_options, tmp_path):
    module = lit("fit", tmp_path, ppo_options(1, **LORA, settings=SETTINGS | {"critic_warmup": 1})).model
    assert not any(value.any() for name, value in module.networks.named_parameters() if "lora_B" in name)
    assert module.networks.head.weight.any()


def test_an_adaptive_penalty_grows_while_the_policy_is_too_far_away(lit, ppo_options, tmp_path):
    lit("fit", tmp_path, ppo_options(4, kl={"coefficient": 0.1, "target": 1e-9, "horizon": 6}))
    rows = lines(tmp_path)
    for now, following in pairwise(rows):
        error = min(max(now["train/kl"] / 1e-9 - 1, -0.2), 0.2)
        expected = now["train/kl_coefficient"] * (1 + error)
        assert following["train/kl_coefficient"] == pytest.approx(expected, rel=1e-5)


def test_a_refreshed_reference_brings_the_divergence_back_to_nothing(lit, ppo_options, tmp_path):
    lit("fit", tmp_path, ppo_options(4, settings=SETTINGS | {"refresh_reference": 2}))
    kl = [row["train/kl"] for row in lines(tmp_path)]
    assert kl[0] == kl[2] == 0.0
    assert kl[1] != 0.0
    assert kl[3] != 0.0


def test_the_reference_may_be_another_model_than_the_start(lit, ppo_options, write_model, tmp_path):
    options = ppo_options(1, policy=write_model("llama"), reference=str(altered(write_model("llama"), tmp_path / "x")))
    lit("fit", tmp_path / "run", options)
    assert lines(tmp_path / "run")[0]["train/kl"] != 0.0


def altered(model: str, directory: Path) -> Path:
    """The same model with one layer's weights moved."""
    network = PolicyNetwork(model)
    with torch.no_grad():
        next(iter(network.parameters())).add_(0.01)
    network.model.save_pretrained(directory)
    return directory


def test_an_entropy_bonus_is_part_of_the_loss_and_its_gradient(lit, ppo_options, tmp_path):
    module = lit("fit", tmp_path, ppo_options(1, settings=SETTINGS | {"entropy_bonus": 0.05})).model
    row = lines(tmp_path)[0]
    vocabulary = module.networks.policy.model.config.vocab_size
    assert 0 < row["train/policy_entropy"] < torch.tensor(float(vocabulary)).log()
    plain = lit("fit", tmp_path / "plain", ppo_options(1)).model
    one, other = weights(module), weights(plain)
    assert any(not torch.equal(one[name], other[name]) for name in one if name.startswith("policy."))


def test_demonstrations_are_drawn_with_the_runs_own_numbers_and_pull_the_policy(lit, ppo_options, tmp_path):
    source = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 40}}
    data = {
        "class_path": "lit_rlhf.data.datamodule.PreferenceDataModule",
        "init_args": {"sources": source, "max_length": 128},
    }
    given = {"demonstrations": {"data": data, "coefficient": 1.0, "batch_size": 4}}
    options = ppo_options(4, **given) | {"checkpoint": {"every_n_train_steps": 1}}
    whole = lit("fit", tmp_path / "whole", copy.deepcopy(options)).model
    first = copy.deepcopy(options)
    first["trainer"]["max_steps"] = 2
    lit("fit", tmp_path / "parts", first)
    resumed = lit(
        "fit", tmp_path / "parts", options, "--ckpt_path", str(tmp_path / "parts" / "checkpoints" / "last.ckpt")
    ).model
    for key, value in weights(whole).items():
        assert torch.equal(value, resumed.networks.state_dict()[key])
    losses = [row["train/demonstration_loss"] for row in lines(tmp_path / "whole")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": {"r": 2}}, "lora"),
        (LORA | {"settings": {"refresh_reference": 1}}, "refresh_reference"),
        ({"advantages": {"class_path": "LeaveOneOut"}}, "needs no critic"),
        ({"settings": {"epochs": 0}}, "epochs"),
        ({"settings": {"clip": 1.5}}, "clip"),
        ({"settings": {"entropy_bonus": -0.1}}, "entropy_bonus"),
        ({"lora": {"r": 2, "dropout": 0.1}, "critic": None}, "dropout"),
    ],
)
def test_options_that_contradict_each_other_are_refused(lit, ppo_options, tmp_path, options, message):
    with pytest.raises((DataError, ValueError), match=message):
        lit("fit", tmp_path, ppo_options(1, **options))


def test_adapters_of_another_shape_are_refused_on_resume(lit, ppo_options, tmp_path):
    lit("fit", tmp_path, ppo_options(1, **LORA))
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(DataError, match=r"lora\.r: 2 in the checkpoint, 3 now"):
        lit("fit", tmp_path / "b", ppo_options(2, lora={"r": 3}, critic=None), "--ckpt_path", checkpoint)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_lightnings_own_callback_averages_the_weights_and_resumes(lit, ppo_options, tmp_path):
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}

    def fit(folder: Path, steps: int, *words: str):
        options = ppo_options(steps) | {"checkpoint": {"every_n_train_steps": 1}}
        options["trainer"]["callbacks"] = [average]
        return lit("fit", tmp_path / folder, options, *words).model

    plain = lit("fit", tmp_path / "plain", ppo_options(3)).model
    whole = fit(Path("whole"), 3)
    fit(Path("parts"), 2)
    resumed = fit(Path("parts"), 3, "--ckpt_path", str(tmp_path / "parts" / "checkpoints" / "last.ckpt"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "plain") == lines(tmp_path / "parts")  # it only watches
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.networks.state_dict()[name]), name
    assert any(not torch.equal(value, plain.networks.state_dict()[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {"top_p": 0.9}, {"top_k": 5}], ids=["temperature", "top_p", "top_k"]
)
def test_training_on_another_distribution_than_the_sampled_one_is_refused_but_measuring_is_not(
    lit, ppo_options, tmp_path, sampling
):
    options = ppo_options(1, sampling={"max_new_tokens": 8} | sampling)
    with pytest.raises(DataError, match=r"sampling.*(?s:.)*log-probabilities are those of all tokens"):
        lit("fit", tmp_path, copy.deepcopy(options))
    if "temperature" not in sampling:
        lit("validate", tmp_path, options)


def test_the_penalty_does_not_adapt_before_the_policy_learns(lit, ppo_options, tmp_path):
    kl = {"coefficient": 0.1, "target": 6.0, "horizon": 6}
    lit("fit", tmp_path, ppo_options(4, kl=kl, settings=SETTINGS | {"critic_warmup": 3}))
    assert [row["train/kl_coefficient"] for row in lines(tmp_path)] == pytest.approx([0.1] * 4)


def test_a_policy_may_be_measured_by_another_reward_than_it_was_trained_for(lit, ppo_options, taste, tmp_path):
    lit("fit", tmp_path, ppo_options(1))
    other = {"class_path": "lit_rlhf.rewards.PythonReward", "init_args": {"function": f"{taste}.shortness"}}
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    lit("validate", tmp_path / "b", ppo_options(1, reward=other), "--ckpt_path", checkpoint)
    with pytest.raises(DataError, match="reward"):
        lit("fit", tmp_path / "c", ppo_options(2, reward=other), "--ckpt_path", checkpoint)


def test_a_critic_with_another_vocabulary_is_refused(lit, ppo_options, tiny_reward_model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_reward_model, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, another = list(vocabulary)[40:42]
    vocabulary[one], vocabulary[another] = vocabulary[another], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"option critic: .*other has another vocabulary"):
        lit("fit", tmp_path / "run", ppo_options(1, critic=str(other)))


def test_a_run_that_ended_with_an_epoch_goes_on_training(lit, ppo_options, tmp_path):
    options = ppo_options(6) | {"checkpoint": {"every_n_train_steps": 1}}  # four batches are an epoch
    whole = lit("fit", tmp_path / "whole", copy.deepcopy(options)).model
    lit("fit", tmp_path / "parts", ppo_options(4) | {"checkpoint": {"every_n_train_steps": 1}})
    checkpoint = str(tmp_path / "parts" / "checkpoints" / "last.ckpt")
    resumed = lit("fit", tmp_path / "parts", options, "--ckpt_path", checkpoint).model
    assert [row["step"] for row in lines(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    for key, value in weights(whole).items():
        assert torch.equal(value, resumed.networks.state_dict()[key]), key


def test_running_statistics_of_the_reward_go_on_where_they_were(lit, ppo_options, tiny_reward_model, tmp_path):
    scalar = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model}}
    reward = {"class_path": "lit_rlhf.rewards.ScaledReward", "init_args": {"inner": scalar, "decay": 0.9}}
    options = ppo_options(4, reward=reward) | {"checkpoint": {"every_n_train_steps": 1}}
    lit("fit", tmp_path / "whole", copy.deepcopy(options))
    first = copy.deepcopy(options)
    first["trainer"]["max_steps"] = 2
    lit("fit", tmp_path / "parts", first)
    lit("fit", tmp_path / "parts", options, "--ckpt_path", str(tmp_path / "parts" / "checkpoints" / "last.ckpt"))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    stds = [row["train/reward/running_std"] for row in lines(tmp_path / "whole")]
    assert len(set(stds)) == 4
