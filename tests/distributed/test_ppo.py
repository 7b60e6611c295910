"""Policy optimisation on two processes: the numbers of one process that has all rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import export, load_model
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.networks.together import counts_of_all, failing_together, sum_of_all
from lit_rlhf.rewards.reward import SequenceReward
from lit_rlhf.world import WorldPrompts
from tests.distributed.processes import connect
from tests.distributed.strategies import STRATEGIES


def world(kind: str, size: int, **options) -> dict:
    return {"class_path": f"lit_rlhf.world.{kind}", "init_args": {"size": size, **options}}


@pytest.fixture(scope="module")
def restless(tiny_model, tmp_path_factory) -> str:
    """A tiny random policy that ends many of its responses early, and some at once."""
    model = load_model(tiny_model, "causal")
    renderer = Renderer.load(tiny_model)
    model.config.tie_word_embeddings = False
    head = model.get_input_embeddings().weight.detach().clone()
    head[renderer.eos_id] *= 30.0
    model.lm_head.weight = torch.nn.Parameter(head)
    return str(export(model, renderer, tmp_path_factory.mktemp("restless") / "model"))


def options(model: str, scorer: str, processes: int, strategy: str | None = None, **module) -> dict:
    """Iterations of six prompts in minibatches of four; the last one of an epoch has a single prompt."""
    scalar = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": scorer, "batch_size": 2}}
    given = {
        "policy": model,
        "critic": scorer,
        "reward": {"class_path": "lit_rlhf.rewards.ScaledReward", "init_args": {"inner": scalar}},
        "judge": {"class_path": "lit_rlhf.rewards.GoldReward"},
        "sampling": {"max_new_tokens": 12},
        "settings": {"minibatch_size": 4 // processes, "epochs": 2, "critic_warmup": 1, "entropy_bonus": 0.01},
        "kl": {"coefficient": 0.1, "target": 2.0, "horizon": 30},
        "optimizer": {"lr": 1e-3, "schedule": "constant", "warmup": 0.0},
    }
    trainer: dict[str, Any] = {"max_steps": 4, "log_every_n_steps": 1, "val_check_interval": 2}
    if strategy is not None:
        trainer |= {"devices": 2, "strategy": STRATEGIES[strategy]}
    return {
        "model": {"class_path": "PPOModule", "init_args": given | module},
        "data": {
            "sources": world("WorldPrompts", 13),
            "val_sources": world("WorldPrompts", 5, split="val"),
            "batch_size": 6 // processes,
            "max_length": 80,
        },
        "trainer": {**trainer, "check_val_every_n_epoch": None},
        "checkpoint": {"every_n_train_steps": 2, "save_top_k": -1, "filename": "{step}"},
    }


def train(folder: str, given: dict, *words: str) -> tuple[torch.Tensor, float]:
    """Run ``fit``; gives the state of the module's random numbers, and its KL coefficient."""
    from lit_rlhf.cli.stage import run_stage

    quiet = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    given = {**given, "trainer": {"default_root_dir": folder, **quiet, **given["trainer"]}}
    given["export"] = {"directory": f"{folder}/model"}
    Path(folder).mkdir(parents=True, exist_ok=True)
    config = Path(folder) / f"options-{id(given)}.yaml"  # each process has its own
    config.write_text(json.dumps(given))
    module: Any = run_stage(["fit", "-c", str(config), *words]).model
    return module.generator.get_state(), module.kl_coefficient


def trained_and_resumed(folder: str, given: dict) -> tuple[torch.Tensor, float]:
    """A whole run, and one that goes on from its second step in ``folder/resumed``."""
    found = train(folder, given)
    (checkpoint,) = Path(folder, "checkpoints").glob("step=2*")
    train(f"{folder}/resumed", given, "--ckpt_path", str(checkpoint))
    return found


def lines(folder: Path) -> list[dict]:
    return without_throughput((folder / "metrics.jsonl").read_text())


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def assert_equal_runs(one: Path, two: Path) -> None:
    for ours, theirs in zip(lines(one), lines(two), strict=True):
        extremes = {name for name in ours if name.endswith(("_max", "_min"))}  # of a single token
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert theirs[name] == pytest.approx(value, abs=1e-5, rel=1e-4 if name in extremes else 1e-5), name
    for name, value in weights(one).items():
        # Adam moves a weight whose gradient is rounding noise by a whole step, one way or the other.
        apart = (weights(two)[name] - value).abs() > 1e-5 + 1e-4 * value.abs()
        assert apart.float().mean() < 2e-3, name


def demonstrations(processes: int) -> dict:
    data = {"sources": world("WorldDemonstrations", 16), "val_fraction": 0.0}
    given = {"class_path": "lit_rlhf.data.datamodule.PreferenceDataModule", "init_args": data}
    init_args = {"data": given, "batch_size": 6 // processes}
    return {"class_path": "lit_rlhf.policy.Demonstrations", "init_args": init_args}


def test_two_processes_with_ddp_train_as_one(pair, restless, tiny_reward_model, tmp_path):
    def given(processes: int, strategy: str | None = None) -> dict:
        beside = demonstrations(processes)
        found = options(restless, tiny_reward_model, processes, strategy, demonstrations=beside)
        # Some rows at a time: their gradients are added up before the processes tell each other.
        found["model"]["init_args"]["settings"]["micro_batch_size"] = None if processes == 1 else 1
        return found

    state, coefficient = train(str(tmp_path / "one"), given(1))
    both = pair.run(train, str(tmp_path / "two"), given(2, "ddp"))
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    rows = [row for row in lines(tmp_path / "two") if "train/kl" in row]
    assert any(1 < row["train/response_length"] < 12 for row in rows), "some responses are longer than others"
    assert [row["train/first_ratio"] for row in rows] == [1.0] * 4
    assert coefficient != 0.1
    for theirs, other in both:
        assert torch.equal(theirs, state)
        assert other == pytest.approx(coefficient)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_two_processes_split_every_network_train_as_one_and_resume(
    pair, restless, tiny_reward_model, tmp_path, strategy, lora
):
    """Checkpoints of FSDP2 in one file, all others in parts."""
    scored = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": tiny_reward_model, "scale": 0.5}}
    module = {"critic": None, "lora": {"r": 4}} if lora else {"reward": scored, "judge": scored}
    train(str(tmp_path / "one"), options(restless, tiny_reward_model, 1, **module))
    given = options(
        restless, tiny_reward_model, 2, "fsdp2_in_parts" if lora and strategy == "fsdp2" else strategy, **module
    )
    pair.run(trained_and_resumed, str(tmp_path / "two"), given)
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    behind = [row for row in lines(tmp_path / "two") if row["step"] > 2]
    assert lines(tmp_path / "two" / "resumed") == behind
    for name, value in weights(tmp_path / "two").items():
        assert torch.equal(weights(tmp_path / "two" / "resumed")[name], value)


# ---------------------------------------------------------------------- what fails on one process


class Unlucky(SequenceReward):
    """The length of a response; NaN for one prompt of the world, or an error of its own."""

    def __init__(self, raises: bool = False) -> None:
        super().__init__()
        self.raises = raises

    def scores(self, completions: Completions) -> torch.Tensor:
        return self.remembered(completions, self._lengths)

    def _lengths(self, completions: Completions) -> torch.Tensor:
        bad = torch.tensor([record.prompt_hash == self.unlucky for record in completions.records])
        if self.raises and bool(bad.any()):
            raise ConnectionError("the reward's server hung up")
        return completions.sequences.response_length.float().masked_fill(bad, torch.nan)

    @property
    def unlucky(self) -> str:
        return list(WorldPrompts(13).records())[7].prompt_hash


def guarded(model: str, scorer: str, processes: int, strategy: str | None = None, **unlucky: Any) -> dict:
    inner = {"class_path": "tests.distributed.test_ppo.Unlucky", "init_args": unlucky}
    scaled = {"class_path": "lit_rlhf.rewards.ScaledReward", "init_args": {"inner": inner}}
    return options(model, scorer, processes, strategy, reward=scaled) | {"guard": {"action": "skip"}}


def failure(folder: str, given: dict) -> str:
    try:
        train(folder, given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_two_processes_leave_out_a_rollout_that_one_of_them_cannot_learn_from(
    pair, restless, tiny_reward_model, tmp_path
):
    train(str(tmp_path / "one"), guarded(restless, tiny_reward_model, 1))
    pair.run(train, str(tmp_path / "two"), guarded(restless, tiny_reward_model, 2, "ddp"))
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    steps = [path.stem for path in sorted((tmp_path / "one" / "refused").glob("*.json"))]
    assert 1 <= len(steps) <= 3
    written = {path.stem for path in (tmp_path / "two" / "refused").glob("*.json")}
    assert written == {f"{step}-process-{number}" for step in steps for number in (0, 1)}


def test_an_error_on_one_process_ends_both_with_its_message(pair, restless, tiny_reward_model, tmp_path):
    given = guarded(restless, tiny_reward_model, 2, "ddp", raises=True)
    found = sorted(pair.run(failure, str(tmp_path), given, limit=60))
    assert [found[0].partition(":")[0], found[1].partition(":")[0]] == ["ConnectionError", "DataError"]
    assert all("the reward's server hung up" in each for each in found)
    assert "on process" in found[1]


def nested(failing: dict[int, str]) -> list[str]:
    """What is raised where some processes fail before or in an inner guard; then all must be able to meet again."""
    connect()
    number, found = torch.distributed.get_rank(), []
    for kind in (NotFiniteError, ValueError):
        try:
            with failing_together(torch.device("cpu")):
                if failing.get(number) == "outer":
                    raise kind(f"{number} outer")
                with failing_together(torch.device("cpu")):
                    if failing.get(number) == "inner":
                        raise kind(f"{number} inner")
                sum_of_all(torch.ones(3))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        found.append(str(counts_of_all(number + 1, torch.device("cpu"))))
    return found


@pytest.mark.parametrize("failing", [{0: "outer"}, {1: "outer"}, {1: "inner"}, {0: "outer", 1: "inner"}], ids=str)
def test_an_error_before_an_inner_meeting_is_told_once_to_all(pair, failing):
    for number, found in enumerate(pair.run(nested, failing, limit=20)):
        assert found[1] == found[3] == "[1, 2]"
        speaker = number if number in failing else 1 - number
        text = f"{speaker} {failing[speaker]}"
        assert all(text in each for each in (found[0], found[2]))
        assert found[0].startswith("NotFiniteError")
        assert found[2].startswith("ValueError" if number in failing else "DataError")


def diverged(model: str, number: int) -> str:
    connect()
    policy, mine = load_model(model, "causal"), torch.distributed.get_rank() == number
    calls = []

    def spoil(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * torch.nan if mine and len(calls) > 2 else output

    policy.lm_head.register_forward_hook(spoil)
    rows = slice(4) if torch.distributed.get_rank() == 0 else slice(4, 7)
    generator = torch.Generator().manual_seed(3)
    with pytest.raises(DataError) as caught:
        sample(policy, PROMPTS[rows], LENGTHS[rows], 10**6, Sampling(20), generator, 1, len(PROMPTS[rows]))
    return str(caught.value)


@pytest.mark.parametrize("number", [0, 1])
def test_a_policy_that_diverges_on_one_process_is_told_on_both(pair, restless, number):
    found = pair.run(diverged, restless, number, limit=60)
    assert "so no token can be drawn" in found[number]
    assert "so no token can be drawn on another process" in found[1 - number]


# ---------------------------------------------------------------------- sampling


PROMPTS, LENGTHS = torch.arange(35).reshape(7, 5) + 3, torch.tensor([5, 4, 3, 5, 5, 2, 5])


def drawn(model: str, first: int, k: int) -> tuple:
    """What this process draws for its prompts: the first so many, or the others."""
    connect()
    rank = torch.distributed.get_rank()
    rows = slice(first) if rank == 0 else slice(first, 7)
    counted = len(PROMPTS[rows])
    rows = rows if counted else slice(1)  # one stands in
    generator = torch.Generator().manual_seed(3)
    eos = Renderer.load(model).eos_id
    found = sample(load_model(model, "causal"), PROMPTS[rows], LENGTHS[rows], eos, Sampling(20), generator, k, counted)
    return found[0].response_lists()[: counted * k], found[1][: counted * k], generator.get_state()


@pytest.mark.parametrize(("first", "k"), [(4, 1), (1, 3), (0, 2)])
def test_two_processes_draw_what_one_would_draw(pair, restless, first, k):
    generator, eos = torch.Generator().manual_seed(3), Renderer.load(restless).eos_id
    sequences, truncated = sample(load_model(restless, "causal"), PROMPTS, LENGTHS, eos, Sampling(20), generator, k)
    (ours, cut, state), (theirs, other_cut, other_state) = pair.run(drawn, restless, first, k)
    assert ours + theirs == sequences.response_lists()
    assert len(set(map(len, ours + theirs))) > 2
    assert torch.equal(torch.cat([cut, other_cut]), truncated)
    assert torch.equal(state, generator.get_state())
    assert torch.equal(other_state, generator.get_state())
