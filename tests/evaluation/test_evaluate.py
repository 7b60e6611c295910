import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch

from lit_rlhf.cli.commands import call, dispatch
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.evaluation.benchmarks import Item
from lit_rlhf.evaluation.evaluate import benchmark_scores, evaluate, evaluate_pairs
from lit_rlhf.evaluation.leaderboard import leaderboard
from lit_rlhf.rewards import RewardModel
from lit_rlhf.world import WorldPairs

STYLES = {"a": "Yes.", "b": "Yes, it is so, as was said.", "c": "- Yes.\n- It is so, as was said.\n- And that is all."}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def by_length(monkeypatch):
    """A reward model on which the answer is known: the longer, the better."""
    monkeypatch.setattr(RewardModel, "score", lambda self, prompts, responses: [float(len(each)) for each in responses])


@pytest.fixture
def no_pictures(monkeypatch):
    """Numbers alone: drawing takes longer than everything else here."""
    for name in ("benchmark_picture", "pairs_picture", "features_picture"):
        monkeypatch.setattr(f"lit_rlhf.evaluation.evaluate.{name}", lambda *args: None)


def pairs() -> PreferenceDataModule:
    return PreferenceDataModule(WorldPairs(150, seed=1), val_fraction=0.4, val_batch_size=16, max_length=90)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """One file of each format."""
    folder = tmp_path_factory.mktemp("benchmarks")
    records = list(islice(WorldPairs(12, seed=5).records(), 12))
    rows = [
        {"prompt": r.prompt[-1].content, "chosen": r.chosen, "rejected": r.rejected, "subset": "ab"[i % 2]}
        for i, r in enumerate(records)
    ]
    lists = [row | {"chosen": [row["chosen"]], "rejected": [row["rejected"], "No.", "Yes."]} for row in rows]
    styles = list(STYLES.values())
    styled = [{"prompt": row["prompt"], "chosen": styles, "rejected": styles, "domain": "chat"} for row in rows]
    named = {"pairs": rows, "lists": lists, "styled": styled}
    return [write(folder / f"{name}.jsonl", each) for name, each in named.items()]


@pytest.fixture(scope="module")
def evaluation(tiny_reward_model, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep" / "folder"
    return evaluate(tiny_reward_model, str(out), pairs(), files, batch_size=5, device="cpu"), out


def test_everything_is_written_and_returned(evaluation, files, tiny_reward_model):
    result, out = evaluation
    assert json.loads((out / "evaluation.json").read_text()) == result
    scores = {f"scores_{name}.jsonl" for name in ("pairs", "lists", "styled")}
    assert scores <= {path.name for path in out.iterdir()}
    pictures = {path.name for path in out.iterdir()} - {"evaluation.json", "data.json"} - scores
    benchmarks = {f"benchmark_{name}.png" for name in ("pairs", "lists", "styled")}
    assert pictures == {"pairs.png", "features.png"} | benchmarks
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert result["model"] == tiny_reward_model
    assert result["calibration"]["data"] == "test"
    formats = [each["format"] for each in result["benchmarks"].values()]
    assert formats == ["reward-bench", "best-of-n", "rm-bench"]


def test_pairs_are_measured_as_training_does(evaluation, tiny_reward_model, lit, tmp_path):
    result = evaluation[0]["pairs"]
    model = {"class_path": "ScalarRewardModule", "init_args": {"model": tiny_reward_model}}
    source = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 150, "seed": 1}}
    data = {"sources": source, "val_fraction": 0.4, "val_batch_size": 16, "max_length": 90}
    logged = lit("validate", tmp_path, {"model": model, "data": data}).trainer.callback_metrics
    assert result["counts"]["kept"] > 20
    for name, value in result["figures"].items():
        assert logged[f"val/{name}"].item() == pytest.approx(value, abs=1e-4)
    assert sum(row["n"] for row in result["tables"]["by_length_gap"]) == result["counts"]["kept"]


def test_features_come_back_with_the_figures(tiny_reward_model):
    model, data = RewardModel.load(tiny_reward_model), pairs()
    figures, (chosen, rejected) = evaluate_pairs(model, data)
    assert chosen.shape == rejected.shape == (figures["counts"]["kept"], model.network.head.in_features)
    record = data.val_rows[0].record
    torch.testing.assert_close(chosen[:1], model.features([record.prompt], [record.chosen or ""]))


def test_benchmark_shares_are_those_of_scores_taken_one_by_one(evaluation, files, tiny_reward_model):
    model = RewardModel.load(tiny_reward_model)
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    right = {"a": 0, "b": 0}
    for row in rows:
        scores = [model.score([row["prompt"]], [row[name]])[0] for name in ("chosen", "rejected")]
        right[row["subset"]] += scores[0] > scores[1]
    figures = next(iter(evaluation[0]["benchmarks"].values()))
    for name, successes in right.items():
        assert (figures["subsets"][name]["share"], figures["subsets"][name]["n"]) == (successes / 6, 6)


def test_the_scores_of_every_row_are_written(evaluation, files, tiny_reward_model):
    result, out = evaluation
    model = RewardModel.load(tiny_reward_model)
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    written = [json.loads(line) for line in (out / "scores_pairs.jsonl").read_text().splitlines()]
    assert [row["location"] for row in written] == [f"{files[0]}:{place + 1}" for place in range(len(rows))]
    for row, found in zip(rows, written, strict=True):
        scores = model.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]])
        assert found["scores"] == pytest.approx(scores, abs=1e-4)
        assert found["lengths"] == [len(row["chosen"]), len(row["rejected"])]
        assert (found["subset"], found["gold"], found["model"]) == (row["subset"], [1, 0], tiny_reward_model)
    again = leaderboard(str(out / "scores_pairs.jsonl"), str(out / "board"))
    assert again["models"][tiny_reward_model]["overall"] == result["benchmarks"]["pairs"]["overall"]
    assert again["baselines"] == result["benchmarks"]["pairs"]["baselines"]
    shutil.rmtree(out / "board")


def test_a_public_benchmark_is_shown_by_both_ways_of_counting(
    tiny_reward_model, tmp_path, by_length, no_pictures, capsys
):
    row = {"prompt": "Hi", "chosen": "long", "rejected": "no"}
    rows = [row | {"subset": "hep-go"}, row | {"subset": "hep-go", "rejected": "same"}, row | {"subset": "math-prm"}]
    result = evaluate(tiny_reward_model, str(tmp_path), benchmarks=write(tmp_path / "bench.jsonl", rows))
    figures = result["benchmarks"]["bench"]
    assert (figures["official"]["score"], figures["ours"]["score"]["share"]) == (
        pytest.approx(1 - 82 / 1148),
        pytest.approx(1 - 41 / 1148),
    )
    assert figures["baselines"]["shortest"]["ours"]["score"]["share"] == pytest.approx(41 / 1148)
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "share, ours",
        "official",
        "longest wins",
        "shortest wins",
        "Reasoning",
        "official: RewardBench, score",
    ):
        assert words in shown
    assert "partial, not to be set beside published scores: no rows of alpacaeval-easy" in shown
    assert "hep-go 2 of 164" in shown
    assert "ours: equal scores count half" in shown


def test_a_model_that_likes_length_finds_the_lower_left_easy(
    tiny_reward_model, files, tmp_path, by_length, no_pictures, capsys
):
    result = evaluate(tiny_reward_model, str(tmp_path), benchmarks=files[2])
    figures = result["benchmarks"]["styled"]["overall"]
    shares = [[cell["share"] for cell in row] for row in figures["matrix"]]
    assert shares == [[0.5, 0, 0], [1, 0.5, 0], [1, 1, 0.5]]  # equal texts tie
    assert [figures[name]["share"] for name in ("easy", "normal", "hard")] == [1, 0.5, 0]
    shown = capsys.readouterr().out
    assert "easy" in shown
    assert "0.500 [" in shown
    assert "easy 1.000, normal 0.000, hard 0.000" in shown  # officially, where equal scores are wrong


def test_equal_texts_tie_whatever_stands_beside_them(tiny_reward_model):
    model = RewardModel.load(tiny_reward_model, batch_size=2)
    prompts = [(Message("user", f"Is it {'very ' * i}cold?"),) for i in range(4)]
    items = [Item(prompt, ("Yes.", "No, it is not.", "Yes."), (1, 0, 0)) for prompt in prompts]
    for scores in benchmark_scores(model, items):
        assert scores is not None
        assert scores[0] == scores[2] != scores[1]


def test_texts_beyond_the_limit_take_their_row_out(tiny_reward_model, monkeypatch):
    model = RewardModel.load(tiny_reward_model)
    prompt = (Message("user", "Hi"),)
    items = [Item(prompt, ("yes", "no"), (1, 0)), Item(prompt, ("yes", "no " * 5), (1, 0))]
    lengths = model.lengths([prompt] * 2, ["no", "no " * 5])
    assert [each is None for each in benchmark_scores(model, items, lengths[1] - 1)] == [False, True]
    assert [each is None for each in benchmark_scores(model, items, lengths[1])] == [False, False]
    beyond = [items[0], Item(prompt, ("yes", "no " * model.positions), (1, 0))]  # type: ignore[operator]
    assert [each is None for each in benchmark_scores(model, beyond)] == [False, True]
    assert benchmark_scores(model, items, 1) == [None, None]


def test_rows_that_are_too_long_are_reported(tiny_reward_model, files, tmp_path, by_length, no_pictures, capsys):
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    rows[4]["rejected"] *= 100
    file = write(tmp_path / "long.jsonl", rows)
    figures = evaluate(tiny_reward_model, str(tmp_path), benchmarks=file)["benchmarks"]["long"]
    assert (figures["rows"], figures["over_length"], figures["overall"]["n"]) == (12, 1, 11)
    assert figures["subsets"]["a"]["over_length"] == 1
    assert "1 left out as too long" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_gives_no_numbers_is_refused(tiny_reward_model, files, tmp_path, monkeypatch):
    monkeypatch.setattr(RewardModel, "score", lambda self, prompts, responses: [float("nan")] * len(responses))
    with pytest.raises(DataError, match="no numbers"):
        evaluate(tiny_reward_model, str(tmp_path), benchmarks=files[0])


def test_there_has_to_be_something_to_measure(tiny_reward_model, tmp_path):
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate(tiny_reward_model, str(tmp_path))
    with pytest.raises(DataError, match="no validation pairs"):
        evaluate(tiny_reward_model, str(tmp_path), PreferenceDataModule(WorldPairs(9), val_fraction=0.0))


@pytest.mark.parametrize("joined", [True, False])
def test_from_the_command_line(tiny_reward_model, files, tmp_path, by_length, no_pictures, joined, capsys):
    words = ["evaluate", "--model", tiny_reward_model, "--out", str(tmp_path), "--format", "best-of-n"]
    listed = [f"[{files[1]}, {files[1]}]"] if joined else [files[1]]
    data = ["--data.sources.class_path", "lit_rlhf.world.WorldPairs", "--data.sources.init_args.size", "60"]
    assert dispatch([*words, "--benchmarks", *listed, *data, "--data.val_fraction", "0.5"]) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(result["benchmarks"]) == ["lists", "lists~2"][: 1 + joined]
    assert result["pairs"]["counts"]["kept"] > 10
    assert "validation pairs" in capsys.readouterr().out


def test_from_an_experiment(tiny_reward_model, files, tmp_path, by_length, no_pictures):
    options = {"model": tiny_reward_model, "out": str(tmp_path), "benchmarks": files[:2], "max_length": 64}
    result = call("evaluate", options=options)
    assert list(result["benchmarks"]) == ["pairs", "lists"]


def test_a_bad_row_is_a_message_without_a_traceback(tiny_reward_model, tmp_path, capsys):
    file = write(tmp_path / "bad.jsonl", [{"prompt": "Hi", "chosen": "a", "rejected": 5, "subset": "x"}])
    words = ["--model", tiny_reward_model, "--out", str(tmp_path / "out"), "--benchmarks", file]
    assert dispatch(["evaluate", *words]) == 1
    error = capsys.readouterr().err
    assert f"{file}:1: field 'rejected': expected text, found a number" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()  # before the model is loaded or anything written


def test_help_explains_the_formats(capsys):
    with pytest.raises(SystemExit):
        dispatch(["evaluate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("--benchmarks", "rm-bench", "best-of-n", "reward-bench", "below the diagonal"):
        assert words in shown


def test_a_log_shows_how_far_it_is(tiny_reward_model, files, tmp_path, no_pictures, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    result = evaluate(tiny_reward_model, str(tmp_path), pairs(), files[:1], device="cpu")
    said = [line.getMessage().rsplit(",", 1)[0] for line in caplog.records if "(100%)" in line.getMessage()]
    count = result["pairs"]["counts"]["kept"]
    assert said[0] == f"evaluate: pair {count}/{count} (100%)"
    assert said[1].startswith("evaluate: response ")


def test_scores_do_not_depend_on_how_many_are_asked_for_at_a_time(tiny_reward_model, monkeypatch):
    words = ("tea", "rain", "snow")
    items = [Item((Message("user", f"Say {word}."),), (word, f"{word}, yes."), (1, 0)) for word in words]
    model = RewardModel.load(tiny_reward_model, batch_size=1)
    whole = benchmark_scores(model, items)
    monkeypatch.setattr("lit_rlhf.evaluation.evaluate._AT_A_TIME", 2)
    assert benchmark_scores(model, items) == [pytest.approx(scores, abs=1e-6) for scores in whole]
