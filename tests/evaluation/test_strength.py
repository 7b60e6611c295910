import json

import numpy as np
import pytest

from lit_rlhf.cli import main
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.strength import table_rows
from lit_rlhf.evaluation.strength import print_strength, strength, strength_report
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.rewards import ScalarRewardModule
from lit_rlhf.rewards.voters import Voting
from lit_rlhf.world import Annotator, WorldPairs


def table(size=200, noise=0.5, seed=0):
    """A table whose strengths know the true label up to some noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(size):
        right = bool(generator.random() < 0.75)
        differences = (1.0 if right else -1.0) + noise * generator.normal(size=4)
        numbers = {"mean": float(differences.mean()), "std": float(differences.std())}
        rows.append({"differences": differences.tolist(), **numbers, "true_label": right, "judge_label": None})
    return rows


def test_the_bins_hold_every_pair_once_in_ascending_order():
    rows = table(203)
    bins = strength_report(rows)["bins"]
    assert sum(each["n"] for each in bins) == 203
    assert {each["n"] for each in bins} == {20, 21}
    assert [each["mean"] for each in bins] == sorted(each["mean"] for each in bins)
    mean = sum(each["n"] * each["mean"] for each in bins) / 203
    assert mean == pytest.approx(np.mean([row["mean"] for row in rows]))


def test_agreement_and_area_tell_how_well_strength_finds_wrong_labels():
    clear, noisy = (strength_report(table(noise=noise)) for noise in (0.1, 50.0))
    shares = [share["share"] for share in clear["true_label"]["agreement"]]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert clear["true_label"]["area_under_roc"] == 1
    assert clear["share_negative"] == pytest.approx(clear["true_label"]["share_wrong"])
    assert abs(noisy["true_label"]["area_under_roc"] - 0.5) < 0.15
    assert "judge_label" not in clear


def test_pairs_that_the_judge_did_not_see_do_not_count():
    rows = table(40)
    for i, row in enumerate(rows):
        row["true_label"] = None
        row["judge_label"] = i < 10 if i < 20 else None
    report = strength_report(rows)
    assert "true_label" not in report
    assert sum(share["n"] for share in report["judge_label"]["agreement"]) == 20
    assert report["judge_label"]["share_wrong"] == 0.5


def test_the_screen_shows_every_bin_and_the_area(capsys):
    report = strength_report(table())
    print_strength(report)
    shown = capsys.readouterr().out
    assert f"{report['true_label']['area_under_roc']:.3f}" in shown
    assert all(f"{each['mean']:+.2f}" in shown for each in report["bins"])


def test_the_command_writes_table_report_and_picture(tiny_model, tmp_path):
    pairs = WorldPairs(24, seed=1, annotator=Annotator(flip_rate=0.25))
    voting = Voting(voters=2, trainer={"accelerator": "cpu", "enable_progress_bar": False})
    data = PreferenceDataModule(pairs, batch_size=8, val_fraction=0.2)
    report = strength(data, str(tmp_path), ScalarRewardModule(tiny_model, Optimizer(lr=1e-3)), voting)
    assert json.loads((tmp_path / "strength.json").read_text()) == report
    assert report["pairs"] == len(data.train_rows)
    assert report["voters"] == 2
    assert (tmp_path / "strength.png").stat().st_size > 10_000


def test_scores_of_the_data_need_no_voter_and_come_from_the_command_line(tiny_model, tmp_path):
    rows = [
        {
            "chosen": [f"Question {i}?", "Yes."],
            "rejected": [f"Question {i}?", "No."],
            "chosen score list": [i, i + 1.0],
            "rejected score list": [5.0, 5.0],
            "mean preference difference": i - 4.5,
            "GPT4 label": int(i > 4),
        }
        for i in range(10)
    ]
    file = tmp_path / "scored.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main_args = ["strength", "--out", str(tmp_path / "out"), "--data.sources", str(file)]
    with pytest.raises(SystemExit) as stopped:
        main([*main_args, "--data.tokenizer", tiny_model, "--data.val_fraction", "0"])
    assert stopped.value.code == 0
    found = {row["mean"] for row in table_rows(tmp_path / "out" / "table")}
    assert found == {i - 4.5 for i in range(10)}
    report = json.loads((tmp_path / "out" / "strength.json").read_text())
    assert report["judge_label"]["area_under_roc"] == 1
