"""Responses with every token coloured by a number of its own, such as its reward or its advantage: HTML and PNG."""

import html
import math
import os
import re
import textwrap
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.evaluation.pictures import pyplot
from lit_rlhf.policy.diagnostics import special_tokens, token_texts

NEGATIVE, POSITIVE, UNKNOWN = (222, 92, 70), (70, 148, 204), "#d0d0d0"
"""Red and blue, which colour-blind people tell apart, both light enough for black text; grey for no number."""
NO_TEXT = "∎"
"""Stands for a token without text of its own."""

CUT_OFF = "… cut off at the limit"
"""Stands behind a response that did not come to its end."""

_LEGEND = f"· blank   ⏎ line break   {NO_TEXT} no text of its own   framed: special"


@dataclass
class TokenRow:
    """One response.

    Attributes:
        title: What stands above it, such as the prompt.
        tokens: The text of each token; they join to the response.
        values: One number per token; above 0 is good.
        special: Whether each token is a special one, such as the end of a turn; none is, where the list is empty.
        truncated: Whether the response was cut off at the limit.

    Raises:
        ValueError: If there is not one value per token.
    """

    title: str
    tokens: list[str]
    values: list[float]
    special: list[bool] = field(default_factory=list)
    truncated: bool = False

    def __post_init__(self) -> None:
        """Check the lengths."""
        if len(self.tokens) != len(self.values):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.values)} values for {self.title[:60]!r}")
        self.special = self.special or [False] * len(self.tokens)

    @classmethod
    def of(cls, row: dict[str, Any], what: str) -> "TokenRow":
        """From a row of ``generations.jsonl``, which older versions wrote without ``special`` and ``truncated``.

        Args:
            row: One response.
            what: Name of the numbers, such as ``token_rewards``.
        """
        return cls(row["prompt"], row["tokens"], row[what], row.get("special", []), row.get("truncated", False))


def token_rows(completions: Completions, values: Tensor, renderer: Renderer, n: int | None = None) -> list[TokenRow]:
    """Rows of sampled responses, each below its prompt's last message.

    Args:
        completions: The responses.
        values: One number per response token ``(N, T)``; those at padding are left out.
        renderer: Turns tokens into text, one by one.
        n: How many rows; None takes all.
    """
    rows = zip(
        completions.records[:n],
        token_texts(completions, renderer, n),
        values[:n].tolist(),
        special_tokens(completions, renderer, n),
        completions.truncated[:n].tolist(),
        strict=True,
    )
    return [
        TokenRow(record.prompt[-1].content, tokens, row[: len(tokens)], special, truncated)
        for record, tokens, row, special, truncated in rows
    ]


def _limit(rows: list[TokenRow]) -> float:
    """Largest size of a value in any row: the end of the scale."""
    return max((abs(value) for row in rows for value in row.values if math.isfinite(value)), default=0.0)


def _colour(value: float, limit: float) -> str:
    """White at 0, linearly to red or blue at the ends of the scale."""
    if not math.isfinite(value):
        return UNKNOWN
    share = abs(value) / limit if limit else 0.0
    red, green, blue = (round(255 + share * (end - 255)) for end in (NEGATIVE if value < 0 else POSITIVE))
    return f"#{red:02x}{green:02x}{blue:02x}"


# ---------------------------------------------------------------------- HTML

_PAGE_STYLE = """
:root{color-scheme:light}
body{margin:0 auto;padding:12px 16px;max-width:46rem;background:#fff;color:#111;font:16px/1.9 system-ui,sans-serif}
h1{font-size:1.1rem;margin:0 0 .5rem}
"""
_BODY_STYLE = """
h2{font-size:.95rem;line-height:1.4;font-weight:600;margin:1.2rem 0 .3rem;white-space:pre-wrap}
p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
b{font-weight:400;padding:2px 0;border-radius:3px;box-shadow:0 0 0 .5px #0004;-webkit-box-decoration-break:clone;
box-decoration-break:clone}
i{font-style:normal}
.s::before,.n::before,.e::before{color:#0006}
.s::before{content:"·";position:absolute}
.n::before{content:"⏎"}
.e::before{content:"∎"}
.t{font:.78em/1.9 ui-monospace,monospace;margin:0 2px;box-shadow:0 0 0 1.5px #000a}
em{color:#555;font-size:.85rem;user-select:none}
.scale{display:flex;justify-content:space-between;height:14px;border:1px solid #0003;border-radius:3px;background:BAR}
.ends{display:flex;justify-content:space-between;font-size:.85rem;line-height:1.5;font-variant-numeric:tabular-nums}
small{color:#555;line-height:1.5;display:block;white-space:pre-wrap}
"""


class Page(str):
    """A page of HTML: a string that a notebook shows as what it means, in a frame, so that styles stay inside."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self)}" style="width:100%;height:28em;border:0"></iframe>'


def heatmap_html(rows: list[TokenRow], heading: str = "") -> Page:
    """A page of its own, needing nothing from elsewhere: red tokens are penalised, blue ones rewarded.

    All rows share one scale, symmetric around 0. A token's value shows when the pointer rests on it. Blanks and line
    breaks are marked, but copied text is the response itself. Special tokens are framed, each a cell of its own; a
    response that did not come to its end says so.

    Args:
        rows: The responses.
        heading: What stands at the top of the page.
    """
    title = html.escape(heading)
    top = f"<h1>{title}</h1>" if title else ""
    return Page(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title or 'Tokens'}</title><style>{_PAGE_STYLE}{heatmap_style()}</style></head><body>"
        f"{top}{heatmap_body(rows)}</body></html>"
    )


def heatmap_style() -> str:
    """The style of `heatmap_body`, for pages that put it inside a rule of their own."""
    return _BODY_STYLE.replace("BAR", f"linear-gradient(90deg,{_colour(-1, 1)},#fff,{_colour(1, 1)})")


def heatmap_body(rows: list[TokenRow]) -> str:
    """What `heatmap_html` shows, as a part of another page: scale, legend and responses.

    Args:
        rows: The responses.
    """
    limit = _limit(rows)
    ends = "".join(f"<span>{text}</span>" for text in _ends(limit))
    body = "".join(f"<h2>{html.escape(row.title)}</h2><p>{_spans(row, limit)}{_cut_off(row)}</p>" for row in rows)
    return f'<div class="scale"></div><div class="ends">{ends}</div><small>{_LEGEND}</small>{body}'


def _ends(limit: float) -> tuple[str, str, str]:
    return f"−{limit:.3g} penalised", "0", f"rewarded +{limit:.3g}"


def _spans(row: TokenRow, limit: float) -> str:
    frame = {True: ' class="t"', False: ""}
    return "".join(
        f'<b style="background:{_colour(value, limit)}"{frame[special]} title="{value:+.4g}">{_visible(token)}</b>'
        for token, value, special in zip(row.tokens, row.values, row.special, strict=True)
    )


def _cut_off(row: TokenRow) -> str:
    return f"<em> {CUT_OFF}</em>" if row.truncated else ""


def _visible(token: str) -> str:
    """Escaped text whose blanks and line breaks bring a mark that is drawn, but is no text."""
    text = html.escape(token).replace(" ", '<i class="s"> </i>').replace("\n", '<i class="n"></i>\n')
    return text or '<i class="e"></i>'


# ---------------------------------------------------------------------- PNG

_COLUMNS, _FONT = 64, 10.0  # characters per line; points
_DPI = 144  # at which a character of that size is 12 whole pixels wide: others would be rounded, and drift
_WIDTH, _HEIGHT = 12 / _DPI, 36 / _DPI  # a character's cell, inches
_MARGIN = 0.2
_TEXT = {"family": "DejaVu Sans Mono", "fontsize": _FONT, "va": "center", "parse_math": False}


def heatmap_png(rows: list[TokenRow], path: str | Path, heading: str = "") -> None:
    """The same as a picture, tokens wrapped into lines; the file appears whole or not at all.

    Scripts that Matplotlib's own font lacks, such as Chinese, come out as boxes: for those take the HTML.

    Args:
        rows: The responses.
        path: The file to write.
        heading: What stands at the top.
    """
    plt, limit = pyplot(), _limit(rows)
    titles = [textwrap.wrap(row.title, _COLUMNS, max_lines=6, placeholder=" …") for row in rows]
    chunks = [_chunks(row) for row in rows]
    sizes = zip(titles, chunks, strict=True)
    heights = [len(title) + 1.6 + max((each[0] for each in found), default=0) for title, found in sizes]
    lines = 3.6 + bool(heading) + sum(heights)
    size = (_COLUMNS * _WIDTH + 2 * _MARGIN, lines * _HEIGHT + 2 * _MARGIN)
    figure = plt.figure(figsize=size)
    axis = figure.add_axes((_MARGIN / size[0], _MARGIN / size[1], 1 - 2 * _MARGIN / size[0], 1 - 2 * _MARGIN / size[1]))
    axis.set(xlim=(0, _COLUMNS), ylim=(lines, 0))
    axis.axis("off")
    top = _draw_scale(axis, heading, limit)
    for title, found, height in zip(titles, chunks, heights, strict=True):
        for number, text in enumerate(title):
            axis.text(0, top + number + 0.5, text, weight="bold", **_TEXT)
        for line, column, text, value, special in found:
            _draw_token(axis, top + len(title) + line, column, text, _colour(value, limit), special)
        top += height
    partial = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(partial, format="png", dpi=min(_DPI, 60_000 / size[1]))  # pictures end at 65,536 pixels
    plt.close(figure)
    partial.replace(path)


def _chunks(row: TokenRow) -> list[tuple[int, int, str, float, bool]]:
    """Where each token stands: line, column, what is shown of it, its value, whether it is special.

    Long tokens come in several parts.
    """
    found: list[tuple[int, int, str, float, bool]] = []
    line = column = 0
    shown_at_end = [(CUT_OFF, math.nan, False)] if row.truncated else []
    for token, value, special in [*zip(row.tokens, row.values, row.special, strict=True), *shown_at_end]:
        for part in re.findall(rf"\n|[^\n]{{1,{_COLUMNS}}}", token) or [NO_TEXT]:
            shown = "⏎" if part == "\n" else "".join(each if each.isprintable() else "▯" for each in part)
            if column + len(shown) > _COLUMNS:
                line, column = line + 1, 0
            found.append((line, column, shown, value, special))
            line, column = (line + 1, 0) if part == "\n" else (line, column + len(shown))
    return found


def _draw_token(axis: Any, top: float, column: int, text: str, colour: str, special: bool) -> None:
    """A coloured field with its text, framed if it is a special token; marks for blanks and line breaks are grey."""
    from matplotlib.patches import Rectangle

    edge, width = ("#333333", 1.2) if special else ("#999999", 0.4)
    axis.add_patch(Rectangle((column, top + 0.06), len(text), 0.88, facecolor=colour, edgecolor=edge, linewidth=width))
    for run in re.finditer(r" |[^ ]+", text):
        mark = run[0] in (" ", "⏎", NO_TEXT)
        shown = "·" if run[0] == " " else run[0]
        axis.text(column + run.start(), top + 0.5, shown, color="#888888" if mark else "black", **_TEXT)


def _draw_scale(axis: Any, heading: str, limit: float) -> float:
    """Heading, scale and legend; returns the line below them."""
    from matplotlib.patches import Rectangle

    top = 0.0
    if heading:
        axis.text(0, 0.4, heading, weight="bold", **_TEXT)
        top = 1.0
    for number in range(_COLUMNS):
        colour = _colour(2 * (number + 0.5) / _COLUMNS - 1, 1.0)
        axis.add_patch(Rectangle((number, top + 0.1), 1, 0.7, facecolor=colour, edgecolor="none"))
    for x, side, text in zip((0, _COLUMNS / 2, _COLUMNS), ("left", "center", "right"), _ends(limit), strict=True):
        axis.text(x, top + 1.3, text, ha=side, **_TEXT)
    axis.text(0, top + 2.3, _LEGEND, color="#666666", **_TEXT)
    return top + 3.3
