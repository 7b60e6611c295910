import math

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.nn import Parameter

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.optimizer import Optimizer, total_steps

SCHEDULES = ("constant", "linear", "cosine")


@pytest.mark.parametrize(
    ("options", "named"),
    [({"lr": -1e-3}, "lr"), ({"betas": (0.9, 1.0)}, "betas"), ({"weight_decay": -0.1}, "weight_decay"),
     ({"warmup": 3}, "warmup"), ({"lr": math.nan}, "lr")],
)  # fmt: skip
def test_what_cannot_train_is_refused_by_name(options, named):
    with pytest.raises(DataError, match=f"optimizer, {named}: expected"):
        Optimizer(**options)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_under_mixed_precision(precision):
    """Lightning refuses it for fused optimisers, as if they had to be told of a loss scaler."""
    from lightning.pytorch.plugins import MixedPrecision

    weight = Parameter(torch.ones(3))
    optimizer = Optimizer(lr=0.1).build([weight], 1)["optimizer"]
    weight.grad = torch.full((3,), 5.0)
    plugin = MixedPrecision(precision, "cpu")
    plugin.clip_gradients(optimizer, 1.0, gradient_clip_algorithm=GradClipAlgorithmType.NORM)
    assert float(weight.grad.norm()) == pytest.approx(1.0, abs=1e-4)
    optimizer.step()
    assert bool((weight < 1).all())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (1000, 0.03), (7, 0.5), (10, 0.0)])
def test_the_rate_rises_to_its_peak_and_follows_the_schedule(schedule, total, warmup):
    optimizer = Optimizer(warmup=warmup, schedule=schedule)
    factors = [optimizer.factor(step, total) for step in range(total + 1)]
    rising = [factor for step, factor in enumerate(factors) if step < warmup * total]
    falling = factors[len(rising) :]
    assert all(0 < factor < 1 for factor in rising), "no step is wasted on a rate of zero"
    assert rising == sorted(set(rising))
    assert falling == sorted(falling, reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)
    if schedule == "constant":
        assert set(falling) == {1.0}
    else:
        assert falling[-1] == pytest.approx(0, abs=1e-12)
        assert falling[0] == 1 or not float(warmup * total).is_integer()


@pytest.mark.parametrize(("schedule", "shares"), [("linear", (0.75, 0.5, 0.25)), ("cosine", (0.853553, 0.5, 0.146447))])
def test_the_fall_passes_through_known_points(schedule, shares):
    optimizer = Optimizer(warmup=0.2, schedule=schedule)
    found = [optimizer.factor(step, 1000) for step in (400, 600, 800)]
    assert found == pytest.approx(shares, abs=1e-6)


def test_steps_beyond_the_planned_ones_stay_at_the_end():
    assert Optimizer(schedule="linear").factor(150, 100) == 0
    assert Optimizer(schedule="cosine").factor(150, 100) == pytest.approx(0, abs=1e-12)
    assert Optimizer(schedule="constant").factor(150, 100) == 1


def test_without_a_known_end_the_rate_stays_at_its_peak():
    assert {Optimizer(schedule="constant").factor(step, math.inf) for step in (0, 1, 10**6)} == {1.0}


def test_each_group_follows_the_schedule_from_its_own_peak():
    policy, critic = Parameter(torch.ones(3)), Parameter(torch.ones(2))
    settings = Optimizer(lr=1e-3, betas=(0.8, 0.9), weight_decay=0.1, warmup=0.25, schedule="linear")
    built = settings.build([{"params": [policy]}, {"params": [critic], "lr": 5e-2}], total_steps=8)
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    assert built["lr_scheduler"]["interval"] == "step"
    assert all(group["betas"] == (0.8, 0.9) and group["weight_decay"] == 0.1 for group in optimizer.param_groups)
    for step in range(9):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([1e-3 * settings.factor(step, 8), 5e-2 * settings.factor(step, 8)])
        policy.grad, critic.grad = torch.ones(3), torch.ones(2)
        optimizer.step()
        scheduler.step()


def test_weights_move_by_the_rate_of_the_step():
    """Adam's first step has the size of the rate, whatever the gradient."""
    weight = Parameter(torch.zeros(4))
    settings = Optimizer(lr=0.01, warmup=0.5, schedule="constant")
    optimizer = settings.build([weight], total_steps=10)["optimizer"]
    weight.grad = torch.tensor([5.0, -3.0, 0.1, -100.0])
    optimizer.step()
    rate = 0.01 * settings.factor(0, 10)
    assert weight.tolist() == pytest.approx([-rate, rate, -rate, rate], rel=1e-3)


# ---------------------------------------------------------------------- the length of a run


class Counting(LightningModule):
    """Learns nothing and counts the optimiser steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return 0.0 * self.weight

    def configure_optimizers(self):
        self.planned, self.estimated = total_steps(self.trainer), self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), 0.1)


class ElevenBatches(LightningDataModule):
    """A loader of eleven batches."""

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(22), batch_size=2)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 2}, 22),
        ({"max_epochs": 2, "max_steps": 15}, 15),
        ({"max_epochs": 1, "max_steps": 15}, 11),
        ({"max_epochs": -1, "max_steps": 15}, 15),
        ({"max_epochs": 2, "limit_train_batches": 4}, 8),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 10),
        ({"max_epochs": 2, "limit_train_batches": 100}, 22),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 8),
        ({"max_epochs": 2, "accumulate_grad_batches": 3, "max_steps": 5}, 5),
    ],
)
def test_the_planned_steps_are_those_that_are_taken(options, steps):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer, module = Trainer(enable_checkpointing=False, **quiet, **options), Counting()
    trainer.fit(module, datamodule=ElevenBatches())
    assert module.planned == module.estimated == trainer.global_step == steps


def test_a_run_without_a_limit_has_no_planned_end():
    trainer = Trainer(max_epochs=-1, logger=False, enable_checkpointing=False, accelerator="cpu")
    assert total_steps(trainer) == math.inf
