"""The GPU's measurements, for a tiny model on a CPU: that every row runs, and that they count right."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling, sample

ROOT = Path(__file__).parents[2]
TINY = ["--preset", "tiny", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny policy, and a reward model on the same weights."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.gpu.presets import PRESETS
        from benchmarks.gpu.training import prepare
    finally:
        sys.path.remove(str(ROOT))
    folder = tmp_path_factory.mktemp("gpu")
    prepare(folder, PRESETS["tiny"], "cpu")
    return folder


@pytest.fixture
def tiny():
    from benchmarks.gpu.presets import PRESETS

    return PRESETS["tiny"]


@pytest.fixture
def here(monkeypatch):
    """The command in this process, where starting others would take most of the time."""
    from benchmarks.gpu import __main__ as command

    monkeypatch.setattr(command, "alone", lambda measure, *arguments: measure(*arguments))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *TINY, *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            command.main()
        return stopped.value.code

    return run, command


def test_every_row_is_measured_and_written_down(here, tmp_path, capsys):
    run, command = here
    assert run("--out", tmp_path) == 0
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written["rows"]) == list(command.ROWS)
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    for name, figures in written["rows"].items():
        assert f"| {name} |" in table
        assert all(value > 0 for key, value in figures.items() if not key.endswith("peak_gib")), (name, figures)
    training = written["rows"]["training"]
    assert training["utilisation"] == pytest.approx(training["model_tflops"] / training["matrix_tflops"])


def test_a_row_that_fails_says_so_and_leaves_the_others_alone(here, tmp_path, monkeypatch):
    run, command = here

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(command.ROWS, "ppo", ("", broken, ""))
    assert run("--rows", "ppo", "rollout", "--out", tmp_path) == 1
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows["ppo"] == {"error": "RuntimeError: out of memory"}
    assert "ratio" in rows["rollout"]


@pytest.mark.slow
def test_the_command_runs_in_processes_of_its_own(tmp_path):
    words = [sys.executable, "-m", "benchmarks.gpu", *TINY, "--rows", "rollout_k8", "--out", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    assert json.loads((tmp_path / "results.json").read_text())["rows"]["rollout_k8"]["ratio"] > 0


def test_without_a_gpu_the_command_says_what_to_do(here, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert here[0]("--device", "cuda") == 2
    assert "--device cpu" in capsys.readouterr().err


def test_the_operations_of_a_step_are_those_that_a_counter_sees(folder, tiny):
    from benchmarks.gpu.presets import pairs

    data = pairs(folder, tiny, 1)
    data.load("pairs", str(folder / "policy"))
    batch = next(iter(data.train_dataloader()))
    rows = batch.chosen.joined(batch.rejected)
    assert rows.ids.shape == (2 * tiny.pairs, tiny.row)
    assert bool(rows.mask.all())  # no padding: the formula counts every token
    network = RewardNetwork(str(folder / "policy"))
    network.model.set_attn_implementation("eager")  # attention as products, all of them, masked or not
    with FlopCounterMode(display=False) as counter:
        network(rows).sum().backward()
    seen = {str(kind): flops for kind, flops in counter.get_flop_counts()["Global"].items()}
    attention = seen["aten.bmm"] / 2  # what the mask leaves
    assert tiny.training_flops(lora=False) == pytest.approx(seen["aten.mm"] + attention, rel=0.01)
    assert tiny.training_flops(lora=True) == pytest.approx(2 / 3 * seen["aten.mm"] + attention, rel=0.01)


def test_a_biased_head_ends_responses_with_the_probability_that_was_asked_for(folder, tiny):
    from benchmarks.gpu.rollout import tilt

    prompts, lengths = torch.randint(3, 200, (300, 4)), torch.full((300,), 4)
    means = {}
    for probability in (None, 0.25):
        model = AutoModelForCausalLM.from_pretrained(folder / "policy")
        end = model.config.eos_token_id
        tilt(model, end, probability)
        generator = torch.Generator().manual_seed(0)
        drawn, truncated = sample(model, prompts, lengths, end, Sampling(max_new_tokens=40), generator)
        means[probability] = float(drawn.response_length.float().mean())
        assert bool(truncated.all()) == (probability is None)
    assert means[None] == 40
    assert means[0.25] == pytest.approx(4, rel=0.25)


def test_tokens_are_counted_up_to_the_first_end():
    from benchmarks.gpu.rollout import response_tokens

    found = torch.randint(0, 4, (50, 9), generator=torch.Generator().manual_seed(0))
    by_hand = sum(row.index(2) + 1 if 2 in row else len(row) for row in found.tolist())
    assert response_tokens(found, 2) == by_hand


def test_prompts_padded_on_the_left_are_the_same_prompts():
    from benchmarks.gpu.rollout import left_padded

    ids, lengths = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([3, 2])
    left, mask = left_padded(ids, lengths, 2)
    assert left.tolist() == [[5, 6, 7], [2, 8, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 1, 1]]


def test_the_large_preset_has_about_a_billion_weights(tiny):
    from benchmarks.gpu.presets import PRESETS

    large = PRESETS["1b"]
    assert 0.9e9 < large.body_weights < 1.1e9
    assert (large.hidden, large.layers) == (2048, 16)
    longer = replace(tiny, layers=2 * tiny.layers)
    assert longer.training_flops(lora=False) == 2 * tiny.training_flops(lora=False)
