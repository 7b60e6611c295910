"""How fast a run is, as metrics that no other run has in common."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from lit_rlhf.cli import throughput
from lit_rlhf.cli.checkpoints import Checkpoint
from lit_rlhf.cli.throughput import Throughput, without_throughput
from lit_rlhf.data.batches import PairBatch, PromptBatch, ResponseBatch, Sequences
from lit_rlhf.policy.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Time stands still unless it is moved."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class Module:
    """Takes down what is logged."""

    device, view = torch.device("cpu"), "pairs"

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def log_dict(self, figures, batch_size) -> None:
        self.logged.append(figures)


def run(clock, module, batches, every: int = 2, seconds: float = 2.0, trouble=None) -> list[dict]:
    """Steps of so many seconds, one for each batch; ``trouble`` is what else takes time, behind each."""
    saving = Checkpoint()
    trainer = SimpleNamespace(
        global_step=0,
        log_every_n_steps=every,
        checkpoint_callbacks=[saving],
        fit_loop=SimpleNamespace(_should_accumulate=lambda: False),
    )
    callback = Throughput()
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    for number, batch in enumerate(batches):
        clock.now += seconds
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, batch, number)  # type: ignore[arg-type]
        if trouble == "validation":
            callback.on_validation_start(trainer, module)  # type: ignore[arg-type]
            clock.now += 50.0
            saving.seconds += 7.0  # a checkpoint within it
            callback.on_validation_end(trainer, module)  # type: ignore[arg-type]
        elif trouble == "checkpoint":
            clock.now += 30.0
            saving.seconds += 30.0
    return module.logged


def rows(*lengths: int) -> Sequences:
    length = torch.tensor(lengths)
    return Sequences(torch.zeros(len(lengths), max(lengths), dtype=torch.long), length // 2, length)


def pairs(idle: bool = False) -> PairBatch:
    nothing = torch.zeros(2)
    return PairBatch(rows(3, 5), rows(4, 8), *[nothing] * 5, records=[], idle=idle)  # type: ignore[arg-type]


@pytest.mark.parametrize("trouble", [None, "validation", "checkpoint"])
def test_pairs_and_tokens_per_second_leave_validation_and_checkpoints_aside(clock, trouble):
    expected = {"perf/seconds_per_step": 2.0, "perf/pairs_per_second": 1.0, "perf/tokens_per_second": 10.0}
    assert run(clock, Module(), [pairs()] * 5, trouble=trouble) == [pytest.approx(expected)] * 2


def test_demonstrations_count_their_tokens(clock):
    expected = {"perf/seconds_per_step": 2.0, "perf/tokens_per_second": 5.5}
    assert run(clock, Module(), [ResponseBatch(rows(4, 7))] * 2) == [pytest.approx(expected)]


def test_a_row_that_stands_in_for_another_processs_counts_for_nothing(clock):
    (found,) = run(clock, Module(), [pairs(), pairs(idle=True)])
    assert found["perf/pairs_per_second"] == pytest.approx(0.5)


def test_a_policys_iteration_is_told_in_its_parts(clock):
    module = Module()
    module.view, module.stopwatch = "prompts", Stopwatch()  # type: ignore[attr-defined]
    for name, value in (("sampling", 2.0), ("scoring", 0.5), ("update", 1.0), ("generated_tokens", 30)):
        module.stopwatch.add(name, value)  # type: ignore[attr-defined]
    prompts = PromptBatch(torch.zeros(2, 3), torch.tensor([3, 3]), [])
    (found,) = run(clock, module, [prompts] * 2)
    assert found == {
        "perf/seconds_per_iteration": 2.0,
        "perf/sampling_seconds": 1.0,
        "perf/scoring_seconds": 0.25,
        "perf/update_seconds": 0.5,
        "perf/generated_tokens_per_second": 15.0,
    }


def test_a_history_without_figures_of_speed_is_what_equal_runs_have_in_common():
    lines = [{"step": 1, "train/loss": 0.5, "perf/seconds_per_step": 0.1}, {"step": 1, "val/loss": 0.4}]
    history = "".join(json.dumps(line) + "\n" for line in lines)
    assert without_throughput(history) == [{"step": 1, "train/loss": 0.5}, {"step": 1, "val/loss": 0.4}]


def options(model: str, kind: str) -> dict:
    sources = {"class_path": f"lit_rlhf.world.{kind}", "init_args": {"size": 16}}
    module = {
        "WorldDemonstrations": {"class_path": "SFTModule", "init_args": {"model": model}},
        "WorldPairs": {"class_path": "ScalarRewardModule", "init_args": {"model": model}},
        "WorldPrompts": {
            "class_path": "PPOModule",
            "init_args": {"policy": model, "sampling": {"max_new_tokens": 4}, "reward": {"class_path": "GoldReward"}},
        },
    }[kind]
    return {
        "model": module,
        "data": {"sources": sources, "batch_size": 4, "val_fraction": 0.25, "max_length": 128},
        "trainer": {"max_steps": 4, "max_epochs": -1, "log_every_n_steps": 2},
    }


@pytest.mark.parametrize("kind", ["WorldDemonstrations", "WorldPairs", "WorldPrompts"])
def test_every_run_writes_its_speed_into_the_history_and_not_onto_the_card(lit, tiny_model, tmp_path, kind):
    begin = time.perf_counter()
    given = options(tiny_model, kind) | {"export": {"directory": str(tmp_path / "model")}}
    cli = lit("fit", tmp_path, given)
    whole = time.perf_counter() - begin
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if any(name.startswith(throughput.PREFIX) for name in line)]
    assert [line["step"] for line in found] == [2, 4]
    unit = "iteration" if kind == "WorldPrompts" else "step"
    assert all(0 < line[f"perf/seconds_per_{unit}"] < whole for line in found)
    if kind == "WorldPrompts":
        for line in found:
            parts = sum(line[f"perf/{part}_seconds"] for part in ("sampling", "scoring", "update"))
            assert parts <= line["perf/seconds_per_iteration"]
            assert line["perf/generated_tokens_per_second"] > 0
    assert throughput.PREFIX not in (tmp_path / "model" / "README.md").read_text()
    assert cli.trainer.global_step == 4
