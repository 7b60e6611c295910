"""The rows of claims and the list of claims, as HTML: a strip for each shows where its interval lies."""

from html import escape
from typing import Any

from research.claims import verdict_text
from research.report.charts import listed, ticks
from research.report.wording import (
    CLASSES,
    ROWS,
    counts,
    home,
    interval,
    label,
    number,
    paper_of,
    words,
)

Claims = list[dict[str, Any]]
_WIDTH, _HEIGHT, _ROOM = 280, 46, 10


def scoreboard(claims: Claims) -> str:
    """How many claims hold, by verdict."""
    found = counts(claims)
    tiles = "".join(
        f'<div class="tile {CLASSES[verdict]}"><b>{count}</b><span>{verdict}</span></div>'
        for verdict, count in found.items()
    )
    return f'<div class="tiles">{tiles}</div>{_bar(found)}'


def _bar(found: dict[str, int]) -> str:
    parts = "".join(
        f'<i class="{CLASSES[verdict]}" style="flex:{count}" title="{count} {verdict}"></i>'
        for verdict, count in found.items()
        if count
    )
    return f'<div class="bar">{parts}</div>'


def row_list(claims: Claims, seconds: dict[str, float]) -> str:
    """The rows: title, paper, how many claims have which verdict, the command that measures them.

    Args:
        claims: All claims.
        seconds: Processor seconds of the parts that each row needs.
    """
    items = []
    for row, about in ROWS.items():
        mine = [claim for claim in claims if row in claim["rows"]]
        if not mine:
            continue
        found = counts(mine)
        paper = f'<span class="paper">{escape(about.paper)}</span>' if about.paper else ""
        took = f"about {max(seconds[row] / 60, 1):.0f} min of one core" if row in seconds else ""
        seeds = max(claim["seeds"] for claim in mine)
        time = f"{took} for {seeds} seeds" if took and seeds else took
        items.append(
            f'<li><a class="tag" href="#claims" data-row="{row}">{label(row)}</a>'
            f'<div class="row-main"><h3>{escape(about.title)}</h3>'
            f'<p>{paper}<span class="words">{words(found)}</span></p>{_bar(found)}</div>'
            f'<div class="command"><code>make study NAME={row}</code><button type="button" class="copy" '
            f'data-copy="make study NAME={row}" aria-label="Copy the command of {label(row)}">copy</button>'
            f"<small>{time}</small></div>{_headline(mine, about.headline)}</li>"
        )
    return f'<ol class="rows">{"".join(items)}</ol>'


def _headline(claims: Claims, wanted: str) -> str:
    """The claim that says most about a row, with its effect."""
    claim = next((each for each in claims if each["id"] == wanted), None)
    if claim is None:
        return ""
    pill = f'<span class="pill {CLASSES[claim["verdict"]]}">{claim["verdict"]}</span>'
    effect = f"{number(claim['effect'])} {interval(claim['ci_low'], claim['ci_high'])}"
    paper = "" if claim["paper"] == "–" else f"; paper: {escape(claim['paper'])}"
    return (
        f'<p class="headline"><a href="#{escape(claim["id"])}">{pill} {escape(claim["claim"])}'
        f"<small>{escape(claim['measured'])}: {effect}{paper}</small></a></p>"
    )


def claim_list(claims: Claims) -> str:
    """All claims, one under the other; the page's script filters and orders them."""
    return (
        f'<ol class="claims" id="claim-list">{"".join(_claim(place, each) for place, each in enumerate(claims))}</ol>'
    )


def _claim(place: int, claim: dict[str, Any]) -> str:
    verdict = CLASSES[claim["verdict"]]
    data = {
        "place": place,
        "rows": " ".join(claim["rows"]),
        "paper": paper_of(claim),
        "verdict": verdict,
        "evidence": f"{evidence(claim):.3f}",
    }
    attributes = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in data.items())
    paper = "" if claim["paper"] == "–" else f'<p class="said"><b>paper</b> {escape(claim["paper"])}</p>'
    return (
        f'<li class="claim" id="{escape(claim["id"])}" {attributes}>'
        f'<div class="claim-text"><p class="claim-head"><a class="tag" href="#{escape(claim["id"])}">'
        f"{label(home(claim))}</a> {escape(claim['claim'])}</p>{paper}"
        f'<p class="said"><b>measured</b> {escape(claim["measured"])}</p></div>'
        f'<div class="claim-strip">{strip(claim)}</div>'
        f'<div class="claim-verdict"><span class="pill {verdict}">{verdict_text(claim)}</span>'
        f'<span class="effect"><b>{number(claim["effect"])}</b> {interval(claim["ci_low"], claim["ci_high"])}</span>'
        "</div>"
        f"{_details(claim)}</li>"
    )


def _details(claim: dict[str, Any]) -> str:
    p = number(claim["sign_p"])
    late = claim.get("measured_before")
    entries = {
        "criterion": claim["criterion"],
        "stated": f"after {late} parts had been measured" if late else "before anything was measured",
        "Student, 95 %": interval(claim["ci_low"], claim["ci_high"]),
        "bootstrap, 95 %": interval(claim["bootstrap_low"], claim["bootstrap_high"]),
        "sign test": f"p = {p}, one-sided, {claim['seeds']} seeds",
        "seeds": listed(claim["values"]),
        "likely reason": claim["note"] if claim["verdict"] != "holds" else "",
        "to be known": claim["remark"],
    }
    body = "".join(f"<dt>{name}</dt><dd>{escape(str(text))}</dd>" for name, text in entries.items() if text)
    return f"<details><summary>criterion, seeds, tests</summary><dl>{body}</dl></details>"


def evidence(claim: dict[str, Any]) -> float:
    """How far the effect lies inside the region where the claim holds, in half widths of its interval; 0 unknown."""
    if claim["ci_low"] is None or claim["ci_high"] == claim["ci_low"]:
        return 0.0
    half = (claim["ci_high"] - claim["ci_low"]) / 2
    inside = [] if claim["low"] is None else [claim["effect"] - claim["low"]]
    inside += [] if claim["high"] is None else [claim["high"] - claim["effect"]]
    return min(inside) / half if inside else 0.0


def strip(claim: dict[str, Any]) -> str:
    """Where the interval lies: the region in which the claim holds shaded, a dot for every seed."""
    bounds = [claim[name] for name in ("low", "high") if claim[name] is not None]
    ends = [claim[name] for name in ("ci_low", "ci_high", "bootstrap_low", "bootstrap_high") if claim[name] is not None]
    every = [*bounds, *ends, *claim["values"]]
    if not claim["values"]:
        return '<p class="nothing">not measured</p>'
    low, high = min(every), max(every)
    margin = 0.08 * ((high - low) or 1.0)
    low, high = low - margin, high + margin

    def px(x: float) -> float:
        return _ROOM + (x - low) / (high - low) * (_WIDTH - 2 * _ROOM)

    left = px(low if claim["low"] is None else claim["low"])
    right = px(high if claim["high"] is None else claim["high"])
    style = CLASSES[claim["verdict"]]
    parts = [f'<rect class="region" x="{left:.1f}" y="2" width="{max(right - left, 0):.1f}" height="28"/>']
    parts += [f'<line class="level" x1="{px(b):.1f}" x2="{px(b):.1f}" y1="2" y2="30"/>' for b in bounds]
    for first, last, y, kind in (("ci_low", "ci_high", 16, "span"), ("bootstrap_low", "bootstrap_high", 25, "boot")):
        if claim[first] is not None:
            x1, x2 = px(claim[first]), px(claim[last])
            parts.append(f'<line class="{kind} {style}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}"/>')
    parts += [f'<circle class="seed" cx="{px(value):.1f}" cy="8" r="2.2"/>' for value in claim["values"]]
    parts.append(f'<circle class="mean {style}" cx="{px(claim["effect"]):.1f}" cy="16" r="4.5"/>')
    shown = [x for x in ticks(low, high, 4) if low <= x <= high]
    parts += [
        f'<text class="tick" x="{min(max(px(x), 14), _WIDTH - 14):.1f}" y="43" text-anchor="middle">'
        f"{f'{x:.6g}'.replace('-', '−')}</text>"
        for x in shown
    ]
    tip = (
        f"{number(claim['effect'])} {interval(claim['ci_low'], claim['ci_high'])} by Student's t; bootstrap "
        f"{interval(claim['bootstrap_low'], claim['bootstrap_high'])}; sign test p = {number(claim['sign_p'])}; "
        f"seeds: {listed(claim['values'])}; {claim['criterion'].split(';')[0]}"
    )
    name = escape(f"{claim['claim']}: {verdict_text(claim)}")
    head = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}" tabindex="0" data-tip="{escape(tip)}">'
    )
    return head + "".join(parts) + "</svg>"
