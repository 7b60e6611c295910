import json
import os
from pathlib import Path

import pytest

from lit_rlhf.cli.commands import dispatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.leaderboard import leaderboard

REAL = Path(os.environ.get("LIT_RLHF_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
JUDGES = REAL / "tables" / "judgebench_rm_scores.jsonl"


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ours(model: str, scores: list, **change) -> list[dict]:
    """Rows as `evaluate` writes them: pairs of two subsets by turns."""
    fixed = {"model": model, "format": "reward-bench", "gold": [1, 0], "lengths": [9, 4]} | change
    return [
        fixed | {"id": f"q{place}", "digest": f"{place:016x}", "subset": "xy"[place % 2], "scores": given}
        for place, given in enumerate(scores)
    ]


WIN, LOSS, TIE = [1, 0], [0, 1], [1, 1]


def test_two_models_on_the_rows_that_both_have(tmp_path, capsys):
    one = write(tmp_path / "one.jsonl", ours("one", [WIN, WIN, LOSS, TIE, None, WIN]))
    two = write(tmp_path / "two.jsonl", ours("two", [LOSS, WIN, LOSS, LOSS, WIN])[::-1])
    result = leaderboard([one, two], str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "leaderboard.json").read_text()) == result
    assert (result["rows"], result["left_out"]) == (4, {"one": 2, "two": 1})
    assert [result["models"][name]["overall"]["share"] for name in ("one", "two")] == [2.5 / 4, 1 / 4]
    first = result["comparisons"][0]
    assert (first["figure"], first["difference"], first["n"]) == ("all rows", 0.375, 4)
    assert (first["first_better"], first["second_better"], first["equal"]) == (2, 0, 2)
    assert [each["figure"] for each in result["comparisons"]] == ["all rows", "x", "y"]
    assert all(each["p"] <= each["p_holm"] <= 1 for each in result["comparisons"])
    assert result["baselines"]["longest"]["overall"]["share"] == 1.0
    assert result["baselines"]["shortest"]["overall"]["share"] == 0.0
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 comparisons were made" in shown
    assert "choose the figure before you look" in shown
    assert "longest wins" in shown


def test_other_peoples_tables_are_compared_with_ours_by_id(tmp_path):
    rows = [
        {"id": place, "subset": name, "scores_chosen": 1.0, "scores_rejected": 0.0} for place, name in enumerate("xyx")
    ]
    mine = [row | {"id": place, "digest": "d"} for place, row in enumerate(ours("mine", [WIN, LOSS, LOSS]))]
    files = [write(tmp_path / "theirs.jsonl", rows), write(tmp_path / "mine.jsonl", mine)]
    result = leaderboard(files, str(tmp_path))
    assert list(result["models"]) == ["theirs", "mine"]
    assert [each["overall"]["share"] for each in result["models"].values()] == [1, pytest.approx(1 / 3)]
    assert result["models"]["theirs"]["file"] == files[0]


def test_without_ids_the_texts_tell_the_rows_and_equal_ones_are_paired_in_order(tmp_path):
    bare = lambda model, scores: [  # noqa: E731
        row | {"id": None, "digest": "same", "subset": "x"} for row in ours(model, scores)
    ]
    files = [
        write(tmp_path / f"{name}.jsonl", bare(name, given)) for name, given in (("a", [WIN, LOSS]), ("b", [LOSS, WIN]))
    ]
    result = leaderboard(files, str(tmp_path))
    assert result["rows"] == 2
    assert (result["comparisons"][0]["first_better"], result["comparisons"][0]["second_better"]) == (1, 1)


def test_figures_can_be_chosen_before_looking(tmp_path):
    files = [
        write(tmp_path / f"{name}.jsonl", ours(name, given)) for name, given in (("a", [WIN] * 9), ("b", [LOSS] * 9))
    ]
    (only,) = leaderboard(files, str(tmp_path), figures="all rows")["comparisons"]
    assert only["p"] == only["p_holm"] == pytest.approx(2 / 2**9)
    several = leaderboard(files, str(tmp_path), figures="[x, all rows]")["comparisons"]
    assert [each["figure"] for each in several] == ["all rows", "x"]
    with pytest.raises(DataError, match=r"option figures: there is no figure 'z'\n.*all rows, subset, x, y"):
        leaderboard(files, str(tmp_path), figures="z")


def test_a_known_benchmark_shows_both_ways_of_counting(tmp_path, capsys):
    rows = ours("one", [WIN, TIE, LOSS, TIE])
    named = [
        row | {"subset": name} for row, name in zip(rows, ["hep-go", "hep-go", "math-prm", "donotanswer"], strict=True)
    ]
    result = leaderboard(write(tmp_path / "one.jsonl", named), str(tmp_path))
    figures = result["models"]["one"]
    assert result["benchmark"] == "RewardBench"
    assert figures["official"]["sections"]["Reasoning"]["score"] == pytest.approx(0.5 * 164 / 1148)
    assert figures["ours"]["sections"]["Reasoning"]["share"] == pytest.approx(0.75 * 164 / 1148)
    assert (result["comparisons"], result["warning"]) == ([], "")
    shown = " ".join(capsys.readouterr().out.split())
    assert "official score (partial)" in shown
    assert "official Reasoning" in shown
    assert "ours: score" in shown


REFUSED = {
    "no rows in common": lambda rows: [row | {"subset": "other"} for row in rows],
    "is not the same question as at .*one.jsonl:1: 2 responses .* there, 3 of best-of-n here": lambda rows: [
        row | {"gold": [1, 0, 0], "lengths": None, "scores": [1, 0, 0], "format": "best-of-n"} for row in rows
    ],
    "is not the same question as at .*: other responses are right there": lambda rows: [
        row | {"gold": [0, 1]} for row in rows
    ],
    "is not the same question as at .*: its texts are others there": lambda rows: [
        row | {"digest": "1"} for row in rows
    ],
    r"two.jsonl:1: has no id": lambda rows: [row | {"id": None, "digest": None} for row in rows],
    r"two.jsonl:2: id 'q0' of subset 'x' is there twice, first at .*two.jsonl:1": lambda rows: [
        row | {"id": "q0", "subset": "x", "digest": None} for row in rows
    ],
    "no row has scores of every model": lambda rows: [row | {"scores": None} for row in rows],
}


@pytest.mark.parametrize("message", REFUSED)
def test_tables_that_do_not_belong_together_are_refused(tmp_path, message):
    one = write(tmp_path / "one.jsonl", ours("one", [WIN, LOSS]))
    two = write(tmp_path / "two.jsonl", REFUSED[message](ours("two", [WIN, LOSS])))
    with pytest.raises(DataError, match=message):
        leaderboard([one, two], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(tmp_path, capsys):
    for name, given in (("a", WIN), ("b", LOSS)):
        write(tmp_path / f"scores_{name}.jsonl", ours(name, [given] * 4))
    words = ["--tables", str(tmp_path / "scores_*.jsonl"), "--out", str(tmp_path / "out"), "--figures", "all rows"]
    assert dispatch(["leaderboard", *words]) == 0
    assert "+1.000 [+1.000, +1.000]" in capsys.readouterr().out
    assert dispatch(["leaderboard", "--tables", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out")]) == 1
    assert "not found" in capsys.readouterr().err


@pytest.mark.skipif(not JUDGES.is_file(), reason="published scores of real models are not here")
def test_published_scores_give_the_published_accuracies(tmp_path):
    result = leaderboard(str(JUDGES), str(tmp_path), figures="score")
    assert result["benchmark"] == "JudgeBench"
    assert (result["rows"], set(result["left_out"].values())) == (350, {0})
    official = {name.partition("/")[2]: each["official"]["score"] for name, each in result["models"].items()}
    assert {name: f"{score:.3f}" for name, score in official.items()} == {
        "GRM-Gemma-2B-rewardmodel-ft": "0.594",
        "Skywork-Reward-Llama-3.1-8B": "0.623",
        "Skywork-Reward-Gemma-2-27B": "0.643",
        "internlm2-7b-reward": "0.594",
        "internlm2-20b-reward": "0.634",
    }
    ours_of_27b = result["models"]["Skywork/Skywork-Reward-Gemma-2-27B"]["ours"]["score"]["share"]
    assert ours_of_27b == pytest.approx((225 + 3 / 2) / 350)  # three ties
    assert len(result["comparisons"]) == 10
