"""Charts as SVG text: lines and rows of intervals, narrow enough for a phone, with a text for each point."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import floor, isfinite, log10

import numpy as np

from lit_rlhf.evaluation.statistics import student_interval
from research.report.wording import interval, number

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 38
"""Margins of charts with two axes."""


@dataclass
class Line:
    """A line of a chart.

    Attributes:
        name: What the legend calls it; lines of one name are listed once.
        x: Places.
        y: Values.
        colour: Number of its colour.
        dashed: Whether it is dashed: the papers' figures.
        low: Lower ends of its band, if it has one.
        high: Upper ends.
        thin: One of many.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 1
    dashed: bool = False
    low: Sequence[float] = field(default_factory=list)
    high: Sequence[float] = field(default_factory=list)
    thin: bool = False


def over_seeds(name: str, x: Sequence[float], table: Sequence[Sequence[float]], colour: int = 1) -> Line:
    """The means of ``(seeds, points)`` with Student's interval over seeds as a band."""
    columns = np.array(table, dtype=float)
    ends = [student_interval(column) for column in columns.T]
    low, high = ([end[i] for end in ends if end[i] is not None] for i in (0, 1))
    return Line(name, x, columns.mean(0).tolist(), colour, low=low, high=high)  # type: ignore[arg-type]


def line_chart(lines: list[Line], x_label: str, y_label: str, at: float | None = None) -> str:
    """Lines over a common axis.

    Args:
        lines: The lines.
        x_label: What stands below.
        y_label: What the values are; for those who listen.
        at: A level to be marked.
    """
    xs = [float(x) for line in lines for x in line.x]
    ys = [float(y) for line in lines for y in (*line.y, *line.low, *line.high) if isfinite(y)]
    ys += [] if at is None else [at]
    places = sorted(set(xs))
    few = len(places) <= 10 and all(x.is_integer() for x in places)
    x_ticks, y_ticks = places if few else ticks(min(xs), max(xs), 6), ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])

    def px(x: float) -> float:
        return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{_tick(y)}</text>'
        for y in y_ticks
    ]
    parts += [
        f'<text class="tick" x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_tick(x)}</text>'
        for x in x_ticks
        if x_low <= x <= x_high
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    if at is not None:
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(at):.1f}" y2="{py(at):.1f}"/>')
    for line in lines:
        parts += _drawn(line, px, py)
    return _svg(parts, HEIGHT, f"{y_label} over {x_label}") + legend(lines)


def _drawn(line: Line, px: Callable[[float], float], py: Callable[[float], float]) -> list[str]:
    points = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
    style = f"c{line.colour}" + " dashed" * line.dashed + " thin" * line.thin
    found = []
    if len(line.low) == len(line.x):
        upper = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.high, strict=True)]
        lower = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.low, strict=True)]
        found.append(f'<polygon class="band c{line.colour}" points="{" ".join([*upper, *lower[::-1]])}"/>')
    found.append(f'<polyline class="line {style}" points="{" ".join(points)}"/>')
    for number_, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
        span = f" {interval(line.low[number_], line.high[number_])}" if len(line.low) == len(line.x) else ""
        tip = f"{line.name}, at {_tick(x)}: {number(y)}{span}"
        found.append(_dot(px(x), py(y), 0.0 if line.thin else 3.0, f"c{line.colour}", tip))
    return found


def interval_chart(rows: Sequence[tuple[str, Sequence[float], int]], at: float, what: str) -> str:
    """One row for each name: the mean, Student's interval, and a dot for every seed.

    Args:
        rows: Name, values of the seeds, number of the colour.
        at: A level to be marked, such as 0.
        what: What the values are.
    """
    ends = {name: student_interval(np.array(values, dtype=float)) for name, values, _ in rows}
    every = [at, *(float(v) for _, values, _ in rows for v in values), *(e for end in ends.values() for e in end if e)]
    low, high = min(every), max(every)
    room, top = 12, 4
    height = top + 40 * len(rows) + 30

    def px(x: float) -> float:
        return room + (x - low) / ((high - low) or 1) * (WIDTH - 2 * room)

    parts = [f'<line class="level" x1="{px(at):.1f}" x2="{px(at):.1f}" y1="{top}" y2="{height - 26}"/>']
    for place, (name, values, colour) in enumerate(rows):
        y = top + 40 * place + 25
        mean, (start, end) = float(np.mean(values)), ends[name]
        tip = f"{name}: {number(mean, signed=True)} {interval(start, end)}; seeds: {listed(values)}"
        parts.append(f'<text class="name" x="{room}" y="{y - 10}">{escape(name)}</text>')
        if start is not None and end is not None:
            parts.append(f'<line class="span c{colour}" x1="{px(start):.1f}" x2="{px(end):.1f}" y1="{y}" y2="{y}"/>')
        parts += [f'<circle class="seed" cx="{px(value):.1f}" cy="{y + 8}" r="2"/>' for value in values]
        parts.append(_dot(px(mean), y, 4.5, f"c{colour}", tip))
    for x in ticks(low, high, 5):
        if low <= x <= high:
            anchor = f'x="{px(x):.1f}" y="{height - 10}" text-anchor="middle"'
            parts.append(f'<text class="tick" {anchor}>{_tick(x)}</text>')
    return _svg(parts, height, what)


def listed(values: Sequence[float]) -> str:
    """The values of the seeds, one after the other."""
    return "  ".join(number(value) for value in values)


def legend(lines: list[Line]) -> str:
    """What each colour is."""
    names = {line.name: line for line in lines}
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li><i class="c{line.colour}{" dashed" * line.dashed}"></i>{escape(name)}</li>'
        for name, line in names.items()
    )
    return f'<ul class="legend">{items}</ul>'


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round places from below ``low`` to above ``high``, about ``most`` of them."""
    reach = (high - low) or 1.0
    raw = reach / most
    power = 10.0 ** floor(log10(raw))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= raw)
    first = floor(low / step + 1e-9)
    count = int(np.ceil((high - first * step) / step - 1e-9))
    return [round((first + i) * step, 10) for i in range(count + 1)]


def _dot(x: float, y: float, size: float, style: str, tip: str) -> str:
    drawn = f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>' if size else ""
    return f'{drawn}<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="9" data-tip="{escape(tip)}"/>'


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _svg(parts: list[str], height: float, what: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(what)}">'
    return head + "".join(parts) + "</svg>"
