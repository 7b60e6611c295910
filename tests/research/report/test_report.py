"""The report as HTML and Markdown: what it says, what it is made of, and what it does where something is missing."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from research.report import FAMILIES, report
from research.report.charts import Line, interval_chart, line_chart, ticks
from research.report.claim_list import evidence
from research.report.figures import FIGURES, figures_of
from research.report.markdown import results_markdown
from research.report.samples import chosen
from research.report.sources import find_demo, find_studies
from research.report.wording import ROWS, SCOPE, words
from research.study_results import write_measurements

DOCS = Path(__file__).parents[3] / "docs"
RESULTS = DOCS / "results"
CLAIMS = {claim.id for study in FAMILIES.values() for claim in study.claims}


class Page(HTMLParser):
    """Tags with attributes, in order; complains of tags that are not closed."""

    VOID = ("meta", "link", "input", "br", "img", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return Page(report(str(folder), [str(RESULTS)], [str(RESULTS / "demo")]).read_text("utf-8"))


def test_the_page_is_closed_and_needs_nothing_from_elsewhere(page):
    assert page.open == []
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "data", "poster"} & attributes.keys(), tag
        if tag == "link":
            assert attributes["href"].startswith("data:")
        elif "href" in attributes:
            assert tag == "a"
    style = "".join(page.text)
    assert "@import" not in style
    assert not re.search(r"url\(\s*['\"]?(?!data:|#)", style)


def test_every_claim_stands_there_once_with_its_verdict_and_a_strip(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(ids) >= CLAIMS
    strips = [a["data-tip"] for tag, a in page.tags if tag == "svg" and "data-tip" in a]
    assert len(strips) == len(CLAIMS)
    shown = [a for tag, a in page.tags if a.get("class") == "claim"]
    assert {a["id"]: a["data-verdict"] for a in shown} == {
        row["id"]: {"holds": "holds", "does not hold": "fails", "undecided": "open"}[row["verdict"]]
        for study in find_studies([str(RESULTS)])
        for row in study.summary["claims"]
    }


def test_the_page_says_where_unseen_kinds_of_prompts_stand_and_every_row_has_some(page):
    assert SCOPE in "".join(page.text)
    kinds = {claim.row for study in FAMILIES.values() for claim in study.claims if "unseen" in claim.effect}
    assert kinds >= {"s1", "s2", "s3", "s4", "s5", "s6", "s8", "s9", "s10"}
    assert any("MetaRM" in claim.claim for study in FAMILIES.values() for claim in study.claims if "s10" in claim.rows)


def test_links_within_the_page_lead_somewhere(page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    inside = [a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")]
    assert len(inside) > len(CLAIMS)
    assert set(inside) <= ids


def test_every_row_of_the_studies_has_its_command_and_a_headline_that_exists(page):
    copied = [a["data-copy"] for _, a in page.tags if "data-copy" in a]
    assert copied == [f"make study NAME={row}" for row in ROWS]
    assert {about.headline for about in ROWS.values()} <= CLAIMS


def test_every_figure_is_drawn_from_the_committed_tables():
    for study in find_studies([str(RESULTS)]):
        found = figures_of(study)
        assert len(found) == len(FIGURES[study.name])
        assert all("nan" not in figure.body for figure in found)


def test_what_the_texts_say_is_escaped(tmp_path):
    shutil.copytree(RESULTS / "reward", tmp_path / "reward")
    path = tmp_path / "reward" / "summary.json"
    summary = json.loads(path.read_text("utf-8"))
    summary["claims"][0] |= {"claim": "<script>alert(1)</script>", "remark": "a < b & c"}
    path.write_text(json.dumps(summary), "utf-8")
    text = report(str(tmp_path / "out"), [str(tmp_path)], [str(tmp_path / "none")]).read_text("utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "a &lt; b &amp; c" in text


def test_ones_own_results_come_before_those_of_the_repository(tmp_path):
    shutil.copytree(RESULTS / "ppo", tmp_path / "ppo")
    found = find_studies([str(tmp_path), str(RESULTS)])
    assert [each.folder.parent for each in found] == [RESULTS, RESULTS, tmp_path]


def test_without_results_the_command_that_makes_them_is_named(tmp_path):
    with pytest.raises(DataError, match="make study NAME=reward"):
        report(str(tmp_path), [str(tmp_path)])


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "summary.json").write_text('{"claims": [{"id": 1}]}')
    with pytest.raises(DataError, match=r"ppo/summary\.json"):
        find_studies([str(tmp_path)])


def test_an_older_summary_without_tables_is_shown_without_figures(tmp_path):
    shutil.copytree(RESULTS / "seq2seq", tmp_path / "seq2seq")
    (tmp_path / "seq2seq" / "measurements.parquet").unlink()
    path = tmp_path / "seq2seq" / "summary.json"
    summary = json.loads(path.read_text("utf-8"))
    new = ("rows", "bootstrap_low", "bootstrap_high", "sign_p", "verdict", "criterion")
    old = [{name: value for name, value in row.items() if name not in new} for row in summary["claims"]]
    kept = {name: summary[name] for name in ("study", "settings", "seconds", "date")}
    path.write_text(json.dumps(kept | {"claims": old, "versions": {"python": "3.11", "torch": "2"}}), "utf-8")
    assert find_studies([str(tmp_path)])[0].summary["claims"] == summary["claims"]
    text = report(str(tmp_path / "out"), [str(tmp_path)], [str(tmp_path)]).read_text("utf-8")
    assert "No tables of figures here" in text
    assert "make demo" in text


def test_measurements_come_back_from_the_tidy_table_as_they_were(tmp_path):
    shutil.copytree(RESULTS / "ppo", tmp_path / "ppo")
    found = {"flips": {"0.1": {"course": {"kl": [0.5, 1.5]}}}, "rounds": {"10": 1.0, "2": {"a/b~1": 3.0}}}
    rows = [{"part": "flips", "seed": seed, "found": found} for seed in (3, 4)]
    write_measurements("ppo", rows, tmp_path / "ppo" / "measurements.parquet")
    assert find_studies([str(tmp_path)])[0].measurements == [found, found]


def test_samples_are_evenly_spaced_and_of_one_prompt_each():
    rows = [
        {"policy": policy, "source": source, "prompt": f"{source} {i}", "response": policy}
        for source, n in (("a", 9), ("b", 2))
        for policy in ("sft", "ppo")
        for i in range(n)
    ]
    groups = chosen(rows, per_source=3)
    assert [group[0]["prompt"] for group in groups] == ["a 0", "a 3", "a 6", "b 0", "b 1"]
    assert all([row["policy"] for row in group] == ["sft", "ppo"] for group in groups)
    assert chosen([]) == []
    assert chosen([row for group in groups for row in group], per_source=3) == groups


def test_a_demo_is_the_first_folder_with_samples(tmp_path):
    assert find_demo([str(tmp_path), str(RESULTS / "demo")]) == RESULTS / "demo"
    assert find_demo([str(tmp_path)]) is None


def test_the_committed_markdown_is_that_of_the_committed_results(monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    assert (DOCS / "results.md").read_text("utf-8") == results_markdown(find_studies(["docs/results"]), Path("docs"))


def test_the_committed_tables_and_summaries_agree():
    for study in find_studies([str(RESULTS)]):
        claims = {claim.id: claim for claim in FAMILIES[study.name].claims}
        for row in study.summary["claims"]:
            # S5 may be measured on fewer seeds than the rest of its study.
            measured = [m for m in study.measurements if not row["id"].startswith("s5") or "denoised" in m]
            values = [claims[row["id"]].measure(m) for m in measured]
            assert values == pytest.approx(row["values"], abs=1e-9), row["id"]


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(3, 8))
def test_ticks_are_round_enclose_what_is_shown_and_are_not_many(low, reach, most):
    found = ticks(low, low + reach, most)
    steps = np.diff(found)
    assert found[0] <= low + 1e-6 * reach
    assert found[-1] >= low + reach * (1 - 1e-6)
    assert len(found) <= most + 3
    assert steps == pytest.approx(steps[0], rel=1e-4, abs=1e-9)


def test_evidence_is_in_half_widths_of_the_interval():
    row = {"effect": 3.0, "ci_low": 2.0, "ci_high": 4.0, "low": 1.0, "high": None}
    assert evidence(row) == 2.0
    assert evidence(row | {"high": 2.5}) == -0.5
    assert evidence(row | {"ci_low": None, "ci_high": None}) == 0.0


def test_charts_stay_within_their_frame():
    wild = [1e-9, -5.0, 1e4, math.pi]
    for chart in (
        line_chart([Line("a", [0, 1, 2, 3], wild), Line("b", [1], [2.0])], "x", "y", at=0.0),
        interval_chart([("one", wild, 1), ("two", [1.0], 2)], 0.0, "y"),
    ):
        _, _, width, height = map(float, re.search(r'viewBox="([^"]+)"', chart)[1].split())
        assert all(0 <= float(x) <= width for x in re.findall(r'\bc?x\d?="([^"]+)"', chart))
        assert all(0 <= float(y) <= height for y in re.findall(r'\bc?y\d?="([^"]+)"', chart))


def test_numbers_of_verdicts_are_plain_english():
    assert words({"holds": 1, "does not hold": 2, "undecided": 0}) == "1 holds, 2 do not hold"
