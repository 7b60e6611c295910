"""Steps on numbers that are not finite are refused; what led to them is written aside."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.networks.finite import StepGuard, _norm
from lit_rlhf.policy import PPOModule, SFTModule
from lit_rlhf.rewards import MetaRewardModule, PythonReward, ScalarRewardModule

NAN = float("nan")


def demonstrations(model: str, **more) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 32}}
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": model, "optimizer": {"lr": 1e-3}}},
        "data": {"sources": source, "batch_size": 8, "val_fraction": 0.0},
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1},
    } | more


def prompts(policy: str, function: str = "lit_rlhf.world.gold_reward", **more) -> dict:
    reward = {"class_path": "lit_rlhf.rewards.PythonReward", "init_args": {"function": function}}
    model = {"policy": policy, "reward": reward, "sampling": {"max_new_tokens": 4}, "settings": {"minibatch_size": 2}}
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 12}}
    return {
        "model": {"class_path": "PPOModule", "init_args": model},
        "data": {"sources": source, "batch_size": 4, "val_fraction": 0.0, "max_length": 80},
        "trainer": {"max_steps": 3, "log_every_n_steps": 1},
    } | more


@pytest.fixture
def bad_at(monkeypatch):
    """Multiply a module's loss by a number at some steps, the first being 1."""

    def install(module: type, method: str, factor: float, *steps: int) -> None:
        original = getattr(module, method)

        def changed(self, *given):
            found = original(self, *given)
            by = factor if self.global_step + 1 in steps else 1.0
            return (found[0] * by, *found[1:]) if isinstance(found, tuple) else found * by

        monkeypatch.setattr(module, method, changed)

    return install


def weights(cli) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in cli.model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("factor", [NAN, float("inf")])
def test_a_step_whose_loss_is_not_finite_stops_the_run_and_its_batch_is_written_aside(
    lit, tiny_model, tmp_path, bad_at, factor
):
    bad_at(SFTModule, "loss", factor, 3)
    with pytest.raises(
        NotFiniteError, match=r"step 3: loss (nan|inf)[\s\S]*refused/step-3\.json[\s\S]*guard\.action skip"
    ):
        lit("fit", tmp_path, demonstrations(tiny_model))
    told = json.loads((tmp_path / "refused" / "step-3.json").read_text())
    assert (told["step"], told["module"]) == (3, "SFTModule")
    assert told["gradients"]
    tensors = load_file(tmp_path / "refused" / "step-3.safetensors")
    assert tensors["batch0.sequences.ids"].shape[0] == 8


def test_a_gradient_that_is_not_finite_is_enough(lit, tiny_model, tmp_path, monkeypatch):
    def spoil(self):
        if self.global_step == 1:
            parameter = next(self.network.parameters())
            parameter.grad[0] = NAN

    monkeypatch.setattr(SFTModule, "on_after_backward", spoil)
    with pytest.raises(NotFiniteError, match="norm of the gradient nan"):
        lit("fit", tmp_path, demonstrations(tiny_model))
    assert len(json.loads((tmp_path / "refused" / "step-2.json").read_text())["gradients"]) == 1


def test_a_step_that_is_skipped_changes_nothing_and_counts(lit, tiny_model, tmp_path, bad_at):
    bad_at(SFTModule, "loss", NAN, 4)
    given = demonstrations(tiny_model, guard={"action": "skip"})
    shorter = demonstrations(tiny_model, trainer={"max_epochs": 1, "limit_train_batches": 3})
    shorter["model"]["init_args"]["optimizer"] |= {"schedule": "constant", "warmup": 0.0}
    given["model"]["init_args"]["optimizer"] |= {"schedule": "constant", "warmup": 0.0}
    skipped = lit("fit", tmp_path / "skipped", given)
    assert skipped.trainer.global_step == 4
    assert equal(weights(skipped), weights(lit("fit", tmp_path / "shorter", shorter)))


def test_too_many_skipped_steps_in_a_row_stop_the_run(lit, tiny_model, tmp_path, bad_at):
    bad_at(SFTModule, "loss", NAN, 1, 3, 4)
    with pytest.raises(NotFiniteError, match="2 in a row"):
        lit("fit", tmp_path, demonstrations(tiny_model, guard={"action": "skip", "most": 2}))
    assert sorted(path.name for path in (tmp_path / "refused").glob("*.json")) == [
        f"step-{step}.json" for step in (1, 3, 4)
    ]


def test_all_batches_whose_gradients_are_added_up_are_written(lit, tiny_model, tmp_path, bad_at):
    bad_at(SFTModule, "loss", NAN, 2)
    trainer = {"max_epochs": 1, "accumulate_grad_batches": 2}
    with pytest.raises(NotFiniteError):
        lit("fit", tmp_path, demonstrations(tiny_model, trainer=trainer))
    tensors = load_file(tmp_path / "refused" / "step-2.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"batch0", "batch1"}


@pytest.mark.parametrize("module", [PPOModule, ScalarRewardModule])
def test_every_way_of_training_is_guarded(lit, tiny_model, tmp_path, bad_at, module):
    if module is PPOModule:
        bad_at(PPOModule, "losses", NAN, 2)
        given, rows = prompts(tiny_model), 4
    else:
        bad_at(ScalarRewardModule, "training_loss", NAN, 2)
        given, rows = demonstrations(tiny_model), 8
        given["model"]["class_path"] = "ScalarRewardModule"
        given["data"]["sources"]["class_path"] = "lit_rlhf.world.WorldPairs"
    with pytest.raises(NotFiniteError, match="step 2: loss nan"):
        lit("fit", tmp_path, given)
    told = json.loads((tmp_path / "refused" / "step-2.json").read_text())
    assert len(told["records"]) == rows
    assert told["records"][0]["prompt"][0]["content"]
    assert MetaRewardModule.training_loss is ScalarRewardModule.training_loss


def test_a_reward_that_is_not_finite_stops_the_run_before_anything_is_learned(lit, tiny_model, tmp_path, monkeypatch):
    asked = []

    def now_and_then(self, completions):
        asked.append(len(completions))
        return torch.full((len(completions),), NAN if len(asked) == 2 else 1.0)

    monkeypatch.setattr(PythonReward, "_score", now_and_then)
    with pytest.raises(NotFiniteError, match=r"gave no finite number for prompt[\s\S]*refused/step-2\.json"):
        lit("fit", tmp_path / "stop", prompts(tiny_model))
    asked.clear()
    cli = lit("fit", tmp_path / "skip", prompts(tiny_model, guard={"action": "skip"}))
    assert cli.trainer.global_step == 3
    assert all(bool(each.isfinite().all()) for each in weights(cli).values())
    assert [path.name for path in (tmp_path / "skip" / "refused").glob("*.json")] == ["step-2.json"]


def test_a_guard_that_is_never_needed_changes_no_number(lit, tiny_model, tmp_path, monkeypatch):
    guarded = lit("fit", tmp_path / "guarded", demonstrations(tiny_model))
    monkeypatch.setattr(StepGuard, "on_before_optimizer_step", lambda *given: None)
    assert equal(weights(guarded), weights(lit("fit", tmp_path / "bare", demonstrations(tiny_model))))
    assert not (tmp_path / "guarded" / "refused").exists()


def test_a_row_of_no_steps_is_refused():
    with pytest.raises(DataError, match=r"guard\.most: is 0"):
        StepGuard(most=0)


def test_large_gradients_in_half_precision_are_finite():
    """Their squares are not."""
    gradients = [torch.full((3,), 40000.0, dtype=torch.float16), torch.full((2, 2), -30000.0, dtype=torch.float16)]
    assert float(_norm(gradients)) == pytest.approx((3 * 4e4**2 + 4 * 3e4**2) ** 0.5, rel=1e-3)
    gradients[1][0, 1] = torch.inf
    assert not bool(_norm(gradients).isfinite())
