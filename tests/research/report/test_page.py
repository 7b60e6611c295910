"""The report of the committed results, opened in a real headless browser without a network."""

import importlib.util
from pathlib import Path

import pytest

from research.report import report
from research.report.sources import find_studies

_spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
browser_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser_module)

RESULTS = Path(__file__).parents[3] / "docs" / "results"
PROGRAM = browser_module.find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome here; LIT_RLHF_BROWSER may name one"),
    pytest.mark.xdist_group("browser"),
]

SMALL_TEXT = """[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('#tip')
  && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
    const scale = e.ownerSVGElement ? e.getScreenCTM().a : 1;
    return [parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent.slice(0, 40)]; })
  .filter(([size]) => size < 10)"""
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('nav, pre, #tip')
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const found = rgb(getComputedStyle(e).backgroundColor);
    if (found[3] > 200) return found; } return [255, 255, 255]; };
  const kinds = 'p, dd, dt, h1, h2, h3, a, .pill, .worth, .tile b, small, code, figcaption, b[title]';
  return [...document.querySelectorAll(kinds)]
    .filter(e => e.checkVisibility() && e.textContent.trim()).map(e => {
      const [one, other] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
      return [(Math.max(one, other) + .05) / (Math.min(one, other) + .05), e.outerHTML.slice(0, 80)]; })
    .filter(([ratio]) => ratio < 4.4).slice(0, 5); })()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report(str(tmp_path_factory.mktemp("report")), [str(RESULTS)], [str(RESULTS / "demo")])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = browser_module.Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def claims() -> list[dict]:
    return [row for study in find_studies([str(RESULTS)]) for row in study.summary["claims"]]


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_without_errors_asks_for_nothing_and_is_legible(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.run("document.querySelectorAll('#claim-list > li').length") == len(claims())
    assert browser.complaints() == []
    assert [url for url in browser.asked_for() if not url.startswith("data:")] == [page.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(TOO_WIDE) == []
    assert browser.run(SMALL_TEXT) == []
    assert browser.run(CONTRAST) == []


def test_claims_are_filtered_ordered_and_found(browser, page):
    browser.open(page, 1300)
    shown = "[...document.querySelectorAll('#claim-list > li')].filter(e => !e.hidden).map(e => e.id)"
    choose = "(e => {{ e.value = {1!r}; e.dispatchEvent(new Event('input')); }})(document.getElementById({0!r}))"
    everything = browser.run(shown)
    browser.run(choose.format("verdict", "fails"))
    assert set(browser.run(shown)) == {row["id"] for row in claims() if row["verdict"] == "does not hold"}
    browser.run(choose.format("verdict", ""))
    browser.run(choose.format("row", "s10"))
    assert set(browser.run(shown)) == {row["id"] for row in claims() if "s10" in row["rows"]}
    browser.run(choose.format("row", ""))
    browser.run(choose.format("search", "simcse unseen"))
    assert 0 < len(browser.run(shown)) < 10
    browser.run("document.querySelector('#filters [type=reset]').click()")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run(shown) == everything
    browser.run(choose.format("order", "verdict"))
    verdicts = {row["id"]: row["verdict"] for row in claims()}
    ordered = [verdicts[name] for name in browser.run(shown)]
    assert ordered == sorted(ordered, key=["holds", "does not hold", "undecided"].index)
    browser.run("document.querySelector('.rows [data-row=s3]').click()")
    assert {name.split("_")[0] for name in browser.run(shown)} == {"s3"}
    assert browser.complaints() == []


def test_resting_on_a_strip_or_a_point_tells_its_figures(browser, page):
    browser.open(page, 1300)
    row = next(row for row in claims() if row["id"] == "s2_weakest")
    browser.point("#s2_weakest .claim-strip svg")
    said = browser.run("document.getElementById('tip').textContent")
    assert f"{row['effect']:.3f}" in said
    assert all(f"{value:.3f}" in said for value in row["values"])
    box = "(b => [b.left, b.top, b.right, b.width, b.height])(document.getElementById('tip').getBoundingClientRect())"
    left, top, right, width, height = browser.run(box)
    assert left >= 0
    assert top >= 0
    assert right <= 1300
    assert width > 150
    assert height > 20
    browser.point("figure .hit")
    assert browser.run("document.getElementById('tip').textContent") not in ("", said)
    browser.point("h1")
    assert browser.run("document.getElementById('tip').hidden")


def test_the_button_turns_light_into_dark(browser, page):
    browser.open(page, 1300)
    colour = "getComputedStyle(document.body).backgroundColor"
    before = browser.run(colour)
    browser.run("document.getElementById('theme').click()")
    assert browser.run(colour) != before
    browser.run("document.getElementById('theme').click()")
    assert browser.run(colour) == before
