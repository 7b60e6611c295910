import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_rlhf.evaluation.statistics import student_interval
from lit_rlhf.evaluation.study import Claim, Study, markdown, study, verdict, verdict_picture


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
    assert verdict(*interval, *region) == expected


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
    summary = study(Coins([3, 4, 5]), str(tmp_path / "out"), processes=1)
    again = study(Coins([3, 4, 5, 6]), str(tmp_path / "out"), processes=2)
    measured = sorted((tmp_path / "out" / "log").read_text().split("\n")[:-1])
    assert measured == sorted(f"{part} {seed}" for part in ("heads", "names") for seed in (3, 4, 5, 6))
    fair, named, silent = summary["claims"]
    shares = [np.random.default_rng(seed).integers(0, 2, 100).mean() for seed in (3, 4, 5)]
    assert fair["values"] == shares
    assert fair["effect"] == pytest.approx(np.mean(shares))
    assert (fair["ci_low"], fair["ci_high"]) == pytest.approx(student_interval(np.array(shares)))
    assert (named["verdict"], silent["verdict"]) == ("holds", "undecided")
    assert again["claims"][0]["seeds"] == 4
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
    assert "holds if the 95 % interval over seeds of [share of heads] lies above 0.4 and below 0.6" in text
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
