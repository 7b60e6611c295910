import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store
from lit_rlhf.evaluation.evaluate import evaluate_pairs
from lit_rlhf.evaluation.pictures import pyplot
from lit_rlhf.evaluation.round_pictures import print_rounds, rounds_picture
from lit_rlhf.evaluation.rounds import Round, rounds, sample_spread
from lit_rlhf.rewards import RewardModel
from lit_rlhf.world import WorldPairs

PROMPTS = ("Tell me about a city.", "How do I bake bread?", "Write a short poem.")
ANSWERS = (["Yes.", "No.", "Yes."], ["A city is big.", "It is.", "Maybe not."], ["a", "b", "c"])


def pairs() -> PreferenceDataModule:
    return PreferenceDataModule(WorldPairs(4), WorldPairs(24, split="val"), batch_size=8, max_length=128)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [
        {"messages": [{"role": "user", "content": prompt}], "responses": answers, "truncated": [False] * 3}
        for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)
    ]


@pytest.fixture(scope="module")
def models(tiny_reward_model, tmp_path_factory) -> tuple[str, str]:
    """A reward model, and one that says the opposite, with another spread."""
    other = Path(shutil.copytree(tiny_reward_model, tmp_path_factory.mktemp("rewards") / "other"))
    weights = load_file(other / "model.safetensors")
    save_file(weights | {"score.weight": -weights["score.weight"]}, other / "model.safetensors", {"format": "pt"})
    content = json.loads((other / "config.json").read_text())
    content["calibration"]["std"] = 4.0
    (other / "config.json").write_text(json.dumps(content))
    return tiny_reward_model, str(other)


def comparison(path: Path, proxy: float) -> str:
    """A comparison's file, as far as the report reads it."""
    bounds = {"win_rate_vs_sft_low": 0.3, "win_rate_vs_sft_high": 0.9}
    start = {"gold_reward": 1.0, "proxy_reward": -3.0, "kl": 0.0, "response_length": 9.0, "win_rate_vs_sft": 0.5}
    policy = {**start, "gold_reward": 1.5, "proxy_reward": proxy, "win_rate_vs_sft": 0.75, **bounds}
    path.write_text(json.dumps({"sft": start, "ppo": policy, "splits": {}, "differences": {}, "samples": 1}))
    return str(path)


@pytest.fixture(scope="module")
def report(models, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    store = Store(folder / "store")
    store.begin({"k": 3})
    store.write_part(0, rows)
    store.finish(1)
    left = [
        Round("meta", 1, comparison(folder / "1.json", -2.5), str(store.directory), models[0], models[1]),
        Round("plain", 1, comparison(folder / "2.json", -1.0), str(store.directory), models[0], models[0]),
        Round("meta", 2, comparison(folder / "3.json", -4.0), str(store.directory), models[1], models[0]),
    ]
    return rounds(left, pairs(), str(folder / "out")), folder, left


def test_the_spread_is_that_of_each_prompts_scores_in_units_of_the_model(models, rows):
    for path, unit in zip(models, (1.0, 4.0), strict=True):
        model = RewardModel.load(path)
        scores = [[model.score([row["messages"]], [text])[0] for text in row["responses"]] for row in rows]
        expected = np.mean([np.std(each) for each in scores]) / unit
        assert sample_spread(model, rows) == pytest.approx(expected, abs=1e-5)
        assert expected > 0.001


def test_the_spread_of_prompts_with_different_numbers_of_responses(models, rows):
    model = RewardModel.load(models[0])
    parts = [sample_spread(model, [row]) for row in rows]
    fewer = [rows[0], {**rows[1], "responses": ["A city is big."], "truncated": [False]}, rows[2]]
    assert sample_spread(model, fewer) == pytest.approx((parts[0] + 0 + parts[2]) / 3, abs=1e-5)


def test_every_round_has_figures_of_its_policy_and_of_its_reward_models(report, models, rows):
    figures = report[0]["rounds"]
    assert {arm: list(each) for arm, each in figures.items()} == {"meta": ["0", "1", "2"], "plain": ["0", "1"]}
    assert figures["meta"]["0"]["win_rate"] == 0.5
    assert [figures["meta"][number]["proxy_gain"] for number in "012"] == [0.0, 0.5, -1.0]
    assert figures["plain"]["1"]["proxy_gain"] == 2.0
    first = figures["meta"]["1"]
    assert (first["win_rate"], first["win_rate_low"], first["win_rate_high"]) == (0.75, 0.3, 0.9)
    assert first["distinct_samples"] == pytest.approx((2 + 3 + 3) / 3)
    for when, path in zip(("before", "after"), models, strict=True):
        model = RewardModel.load(path)
        measured = evaluate_pairs(model, pairs())[0]["figures"]
        assert first[f"spread_{when}"] == pytest.approx(sample_spread(model, rows))
        assert first[f"accuracy_{when}"] == pytest.approx(measured["accuracy"])
        assert first[f"accuracy_{when}_low"] == pytest.approx(measured["accuracy_low"])
        assert first[f"true_accuracy_{when}"] == pytest.approx(measured["true_accuracy"])
    assert first["accuracy_before"] != first["accuracy_after"]
    assert first["spread_before"] != first["spread_after"] == figures["meta"]["2"]["spread_before"]
    assert figures["plain"]["1"]["spread_before"] == figures["plain"]["1"]["spread_after"]


def test_the_report_is_a_file_and_a_picture(report):
    result, folder, _ = report
    assert json.loads((folder / "out" / "rounds.json").read_text()) == result
    assert (folder / "out" / "rounds.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_each_arm_and_leaves_out_what_was_not_measured(report, monkeypatch, tmp_path):
    plt = pyplot()
    monkeypatch.setattr(plt, "close", lambda figure: None)
    rounds_picture(report[0]["rounds"], tmp_path / "all.png")
    axes = {axis.get_title().replace("\n", " "): axis for axis in plt.gcf().axes if axis.get_visible()}
    (spread,) = [axis for title, axis in axes.items() if title.startswith("spread")]
    assert [list(line.get_xdata()) for line in spread.lines] == [[1, 2], [1, 2], [1.06], [1.06]]
    assert spread.lines[0].get_color() == spread.lines[1].get_color() != spread.lines[2].get_color()
    assert list(axes["win rate against SFT"].lines[0].get_ydata()) == [0.5, 0.75, 0.75]
    plt.close("all")
    few = {
        arm: {number: {"kl": each["kl"]} for number, each in rounds.items()}
        for arm, rounds in report[0]["rounds"].items()
    }
    rounds_picture(few, tmp_path / "few.png")
    assert len(plt.gcf().axes) == 1
    plt.close("all")


def test_the_table_has_a_row_per_round(report, capsys):
    print_rounds(report[0]["rounds"])
    shown = capsys.readouterr().out
    rows = [line.split()[:2] for line in shown.splitlines() if line.split()[:1] in (["meta"], ["plain"], ["SFT"])]
    assert rows == [["SFT", "1.00"], ["meta", "1"], ["meta", "2"], ["plain", "1"]]
    assert shown.count("1.50") == 3
    assert "refusal" not in shown


def test_what_cannot_be_reported_on_is_named(report, tmp_path):
    left = report[2]
    with pytest.raises(DataError, match="no rounds"):
        rounds([], pairs(), str(tmp_path))
    with pytest.raises(DataError, match="round 1 of 'meta' occurs twice"):
        rounds([left[0], left[0]], pairs(), str(tmp_path))
    for name, text in (("a.json", "{"), ("b.json", '{"sft": {"response_length": 1}}'), ("c.json", "[1, 2]")):
        (tmp_path / name).write_text(text)
        broken = Round("meta", 1, str(tmp_path / name), left[0].samples, left[0].reward, left[0].reward)
        with pytest.raises(DataError, match="no comparison of two policies") as raised:
            rounds([broken], pairs(), str(tmp_path))
        assert name in str(raised.value)
    assert not (tmp_path / "rounds.json").exists()
