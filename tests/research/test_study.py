import json
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.statistics import bootstrap_interval, student_interval
from research.claims import Claim, judged, rejudged, verdict
from research.studies import PPOStudy, RewardStudy, Seq2SeqStudy
from research.study import Study, study
from research.study_results import markdown, verdict_picture, write_measurements


class Coins(Study):
    """A study that is over at once: the share of heads, and a part that names the seed."""

    name = "coins"
    parts = ("heads", "names")
    claims = (
        Claim("fair", "The coin is fair", "–", "share of heads", lambda m: m["heads"], low=0.4, high=0.6),
        Claim("named", "Every seed has its name", "–", "name minus seed", lambda m: m["name"] - m["of"], -0.5, 0.5),
        Claim("silent", "Nobody measures this", "–", "nothing", lambda m: None, low=0.0, note="never looked"),
    )

    def __init__(self, seeds, tosses=100):
        self.seeds, self.tosses = seeds, tosses

    def settings(self):
        return {"tosses": self.tosses}

    def prepare(self, folder):
        (folder / "coin").write_text("round")

    def measure(self, part, seed, folder):
        assert (folder / "coin").read_text() == "round"
        with (folder / "log").open("a") as file:
            file.write(f"{part} {seed}\n")
        if part == "names":
            return {"name": seed, "of": seed}
        return {"heads": float(np.random.default_rng(seed).integers(0, 2, self.tosses).mean())}

    def draw(self, measurements, summary, folder):
        verdict_picture(summary, folder / "verdicts.png")


@pytest.mark.parametrize(
    ("interval", "region", "expected"),
    [
        ((0.1, 0.2), (0, math.inf), "holds"),
        ((-0.1, 0.2), (0, math.inf), "undecided"),
        ((-0.2, -0.1), (0, math.inf), "does not hold"),
        ((-0.01, 0.01), (-0.02, 0.02), "holds"),
        ((0.01, 0.03), (-0.02, 0.02), "undecided"),
        ((0.03, 0.04), (-0.02, 0.02), "does not hold"),
        ((0.0, 0.0), (0, math.inf), "does not hold"),
        ((None, None), (0, math.inf), "undecided"),
    ],
)
def test_a_verdict_says_where_the_interval_lies(interval, region, expected):
    assert verdict([interval], *region) == expected


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0.1, 0.2), (0.05, 0.3)], "holds"),
        ([(0.1, 0.2), (-0.05, 0.3)], "undecided"),
        ([(-0.3, -0.2), (-0.9, -0.1)], "does not hold"),
        ([(0.1, 0.2), (None, None)], "undecided"),
    ],
)
def test_all_intervals_must_agree(intervals, expected):
    assert verdict(intervals, 0.0, math.inf) == expected


def test_intervals_on_either_side_of_a_region_say_nothing():
    assert verdict([(-0.3, -0.2), (0.2, 0.3)], -0.1, 0.1) == "undecided"


@pytest.mark.parametrize(
    ("values", "low", "high", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.2, 1.0], 0.0, math.inf, "holds"),
        ([-1.0, -1.1, -0.9, -1.2, -1.0], 0.0, math.inf, "does not hold"),
        ([1.0, 1.1, 0.9, 1.2], 0.0, math.inf, "undecided"),  # four seeds on one side may be an accident
        ([9.0, 9.1, 8.9, 9.2, 9.0, 9.3, 8.8, -0.5], 0.0, math.inf, "holds"),  # of eight one may differ
        ([9.0, 9.1, 8.9, 9.2, -0.5], 0.0, math.inf, "undecided"),
        ([9.0, 0.1, 0.1, 0.1, 0.1], 0.0, math.inf, "undecided"),  # Student's interval reaches below
        ([0.01, -0.01, 0.0, 0.015, -0.015], -0.05, 0.05, "holds"),
        ([0.09, 0.1, 0.11, 0.1, 0.1], -0.05, 0.05, "does not hold"),
        ([], 0.0, math.inf, "undecided"),
    ],
)
def test_a_verdict_takes_both_intervals_and_the_sign_test(values, low, high, expected):
    found = judged(values, low, high)
    assert found["verdict"] == expected
    mirrored = judged([-value for value in values], -high, -low)
    assert mirrored["verdict"] == expected
    assert mirrored["sign_p"] == found["sign_p"]


def test_a_verdict_is_rarely_wrong_where_nothing_is_there():
    generator = np.random.default_rng(3)
    found = [judged(list(generator.normal(size=5)), 0.0, math.inf)["verdict"] for _ in range(400)]
    assert np.mean([each != "undecided" for each in found]) < 0.05


def test_students_interval_covers_the_mean_of_five_values_as_often_as_it_says():
    generator = np.random.default_rng(0)
    intervals = [student_interval(generator.normal(1.0, 2.0, 5)) for _ in range(2000)]
    assert 0.935 < np.mean([low <= 1.0 <= high for low, high in intervals]) < 0.965
    assert student_interval(np.array([1.0])) == (None, None)


def test_long_tables_of_students_quantiles_go_over_into_the_normal_one():
    widths = []
    for n in (29, 30, 31, 60, 1000):
        values = np.resize([1.0, -1.0], n)
        low, high = student_interval(values)
        widths.append((high - low) / 2 * math.sqrt(n) / values.std(ddof=1))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(1.96, abs=0.01)


def test_a_study_measures_every_part_of_every_seed_once_and_judges(tmp_path):
    seeds = [3, 4, 5, 6, 7]
    summary = study(Coins(seeds), str(tmp_path / "out"), processes=1)
    again = study(Coins([*seeds, 8]), str(tmp_path / "out"), processes=2)
    measured = sorted((tmp_path / "out" / "log").read_text().split("\n")[:-1])
    assert measured == sorted(f"{part} {seed}" for part in ("heads", "names") for seed in (*seeds, 8))
    fair, named, silent = summary["claims"]
    shares = [np.random.default_rng(seed).integers(0, 2, 100).mean() for seed in seeds]
    assert fair["values"] == shares
    assert fair["effect"] == pytest.approx(np.mean(shares))
    assert (fair["ci_low"], fair["ci_high"]) == pytest.approx(student_interval(np.array(shares)))
    assert (named["verdict"], silent["verdict"]) == ("holds", "undecided")
    assert again["claims"][0]["seeds"] == 6
    needed = {"id", "claim", "paper", "effect", "ci_low", "ci_high", "seeds", "verdict", "criterion"}
    assert all(needed <= row.keys() for row in again["claims"])
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == again
    assert (tmp_path / "out" / "verdicts.png").exists()


def test_other_settings_begin_anew_and_keep_the_old_figures_aside(tmp_path):
    study(Coins([1]), str(tmp_path / "out"), processes=1)
    study(Coins([1], tosses=10), str(tmp_path / "out"), processes=1)
    assert (tmp_path / "out~1" / "seed-1" / "heads.json").exists()
    assert json.loads((tmp_path / "out" / "settings.json").read_text()) == {"tosses": 10}


def test_the_table_names_claims_criteria_and_what_did_not_hold(tmp_path):
    text = markdown(study(Coins([1, 2]), str(tmp_path / "out"), processes=1))
    assert "| The coin is fair |" in text
    assert "Student's and a bootstrap's, lie above 0.4 and below 0.6, and the sign test agrees" in text
    assert "never looked" in text


def test_a_criterion_that_was_changed_after_measuring_says_so(tmp_path, monkeypatch):
    before = study(Coins([1, 2]), str(tmp_path / "out"), processes=1)
    fair, *others = Coins.claims
    monkeypatch.setattr(Coins, "claims", [replace(fair, low=0.3), *others])
    after = study(Coins([1, 2]), str(tmp_path / "out"), processes=1)
    assert [row["measured_before"] for row in before["claims"]] == [0, 0, 0]
    assert [row["measured_before"] for row in after["claims"]] == [4, 0, 0]
    assert after["claims"][1]["stated"] == before["claims"][1]["stated"]
    assert "Stated after 4 parts had been measured" in markdown(after)
    assert "had been measured" not in markdown(before)


class Dice(Coins):
    """The same with rows of claims: ``s1`` needs one part, ``s10`` another, which builds on the first."""

    parts = ("names", "heads")
    after: ClassVar = {"heads": "names"}
    rows: ClassVar = {"s1": ("names",), "s10": ("heads",)}
    claims = (
        Claim("s1_named", "Every seed has its name", "–", "name minus seed", lambda m: m["name"] - m["of"], -0.5, 0.5),
        Claim("s2_unseen", "The coin is fair", "–", "share of unseen heads", lambda m: m["heads"], low=0.4, high=0.6),
    )


def test_a_row_measures_what_its_claims_need_and_the_study_goes_on_from_there(tmp_path):
    folder = tmp_path / "out"
    row = study(Dice([1, 2]), str(folder), processes=1, only="s1")
    assert [claim["id"] for claim in row["claims"]] == ["s1_named"]
    assert (folder / "log").read_text().split() == ["names", "1", "names", "2"]
    assert not (folder / "summary.json").exists()
    assert json.loads((folder / "summary_s1.json").read_text()) == row
    assert "row S1" in (folder / "summary_s1.md").read_text()
    whole = study(Dice([1, 2]), str(folder), processes=1)
    assert (folder / "log").read_text().split("\n")[2:-1] == ["heads 1", "heads 2"]
    assert len(whole["claims"]) == 2
    assert [claim["measured_before"] for claim in whole["claims"]] == [0, 0]


def test_a_part_that_builds_on_another_brings_it_along_and_comes_second(tmp_path):
    row = study(Dice([1, 2]), str(tmp_path / "out"), processes=1, only="s10")
    assert (tmp_path / "out" / "log").read_text().split("\n")[:-1] == ["names 1", "names 2", "heads 1", "heads 2"]
    assert [claim["id"] for claim in row["claims"]] == ["s2_unseen"]


def test_an_unknown_row_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(DataError, match="s1, s10"):
        study(Dice([1]), str(tmp_path / "out"), only="s3")


def test_the_tidy_table_has_every_figure_of_every_part_and_seed(tmp_path):
    study(Coins([1, 2]), str(tmp_path / "out"), processes=1)
    table = pd.read_parquet(tmp_path / "out" / "measurements.parquet")
    assert list(table.columns) == ["study", "part", "seed", "figure", "value"]
    found = {(row.part, row.seed, row.figure): row.value for row in table.itertuples()}
    heads = {seed: np.random.default_rng(seed).integers(0, 2, 100).mean() for seed in (1, 2)}
    assert found == {
        **{("heads", seed, "heads"): heads[seed] for seed in (1, 2)},
        **{("names", seed, name): seed for seed in (1, 2) for name in ("name", "of")},
    }
    assert set(table["study"]) == {"coins"}


def test_nested_figures_are_named_by_their_place(tmp_path):
    found = {"a": {"0.1": [1, 2.5, None]}, "b": True, "c": "text"}
    write_measurements("any", [{"part": "p", "seed": 3, "found": found}], tmp_path / "table.parquet")
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert dict(zip(table["figure"], table["value"], strict=True)) == {"a/0.1/0": 1.0, "a/0.1/1": 2.5, "b": 1.0}
    write_measurements("any", [], tmp_path / "empty.parquet")
    assert len(pd.read_parquet(tmp_path / "empty.parquet")) == 0


def test_a_summary_says_what_it_was_made_with(tmp_path):
    summary = study(Coins([1, 2]), str(tmp_path / "out"), processes=1)
    assert summary["seeds"] == [1, 2]
    assert {"python", "torch", "lightning", "transformers", "numpy", "lit-rlhf"} == summary["versions"].keys()
    assert [(row["part"], row["seed"]) for row in summary["parts"]] == [
        (part, seed) for part in ("heads", "names") for seed in (1, 2)
    ]
    assert all(row["seconds"] >= 0 for row in summary["parts"])
    assert summary["class"].endswith("Coins")


def test_what_a_verdict_goes_by_is_that_of_the_values_alone(tmp_path):
    summary = study(Coins([1, 2, 3]), str(tmp_path / "out"), processes=1)
    fair, _, silent = summary["claims"]
    assert (fair["bootstrap_low"], fair["bootstrap_high"]) == bootstrap_interval(np.array(fair["values"]), draws=10_000)
    assert fair["sign_p"] == 0.125
    assert silent["bootstrap_low"] is silent["sign_p"] is None
    added = judged([], -math.inf, math.inf)
    older = summary | {
        "claims": [{k: v for k, v in row.items() if k not in added} for row in summary["claims"]],
    }
    assert rejudged(older) == summary
    assert "undecided at 0 seeds" in markdown(summary)


@pytest.mark.parametrize("family", [RewardStudy, Seq2SeqStudy, PPOStudy])
def test_every_claim_belongs_to_a_row_whose_parts_are_known(family):
    assert {claim.row for claim in family.claims} | {"s10"} == set(family.rows)
    assert {part for parts in family.rows.values() for part in parts} <= set(family.parts)
    assert any("s10" in claim.rows for claim in family.claims)


def test_make_knows_the_studies_of_every_row():
    families = {"reward": RewardStudy, "seq2seq": Seq2SeqStudy, "ppo": PPOStudy}
    makefile = (CONFIGS.parents[1] / "Makefile").read_text("utf-8")
    stated = {row: words.split() for row, words in re.findall(r"^STUDIES_(\w+)\s*:= (.+)$", makefile, re.MULTILINE)}
    rows = [f"s{number}" for number in range(1, 11)] + ["over"]
    assert stated == {row: [name for name, family in families.items() if row in family.rows] for row in rows}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["NAME=s7", "SIZE=quick"], ["reward_quick.yaml --only s7", "ppo_quick.yaml --only s7"]),
        (["NAME=s1"], ["reward.yaml --only s1"]),
        (["NAME=seq2seq"], ["seq2seq.yaml"]),
    ],
)
def test_make_runs_a_row_in_each_of_its_studies(tmp_path, words, expected):
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nshift 2\necho "$@"\n')
    program.chmod(0o755)
    command = ["make", "-s", "-C", str(CONFIGS.parents[1]), "study", "STAMP=", f"BIN={tmp_path}", *words]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in said.splitlines() if line.startswith("study")]
    assert lines == [f"study -c configs/studies/{each}" for each in expected]


@pytest.mark.parametrize("words", [[], ["NAME=s11"], ["NAME=s1", "SIZE=tiny"]])
def test_make_names_the_studies_where_it_is_given_another_name_or_none(tmp_path, words):
    command = ["make", "-s", "-C", str(CONFIGS.parents[1]), "study", "STAMP=", f"BIN={tmp_path}", *words]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "NAME is reward, seq2seq, ppo, s1 to s10, or over" in ended.stderr


CONFIGS = Path(__file__).parents[2] / "configs" / "studies"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_study_can_be_built(file):
    from lit_rlhf.cli import commands

    parser = commands._parser(study, "study")
    built = parser.instantiate(parser.parse_args(["-c", str(file)]))
    assert isinstance(built.study, Study)
    assert len(built.study.seeds) >= (2 if file.stem.endswith("_quick") else 5)
    assert len({claim.id for claim in built.study.claims}) == len(built.study.claims)
    assert built.out.startswith("runs/studies/")


@pytest.mark.parametrize("kind", [RewardStudy, Seq2SeqStudy, PPOStudy])
def test_a_claim_can_be_read_alone(kind):
    """The report filters and orders them, so none may lean on the one before."""
    sentences = [claim.claim for claim in kind.claims]
    assert len(set(sentences)) == len(sentences)
    assert [text for text in sentences if re.match(r"(And|It|They|So|While|With (it|them)|By|Less)\b", text)] == []
