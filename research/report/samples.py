"""Answers before and after training, side by side, as HTML."""

from html import escape
from pathlib import Path
from typing import Any

from lit_rlhf.evaluation.heatmap import TokenRow, heatmap_body
from research.report.sources import read_lines
from research.report.wording import number

PER_SOURCE = 3
_NAMES = {"sft": "SFT (before)", "ppo": "PPO", "contrastive_ppo": "contrastive PPO"}
_SOURCES = {"world": "seen kinds of prompts", "unseen_topics": "unseen topics", "unseen_wording": "unseen wording",
            "unseen_combinations": "unseen combinations"}  # fmt: skip


def chosen(rows: list[dict[str, Any]], per_source: int = PER_SOURCE) -> list[list[dict[str, Any]]]:
    """Prompts evenly spaced over each source, not picked by what was answered: the answers of every policy to each.

    Args:
        rows: Of ``samples.jsonl``: policy, source, prompt, response, rewards; for every policy in the same order.
        per_source: How many prompts of each source.
    """
    by: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        by.setdefault(row.get("source", ""), {}).setdefault(row["policy"], []).append(row)
    found = []
    for policies in by.values():
        n = min(len(of_policy) for of_policy in policies.values())
        shown = min(per_source, n)
        places = [i * n // shown for i in range(shown)]
        groups = ([of_policy[place] for of_policy in policies.values()] for place in places)
        found += [group for group in groups if len({row["prompt"] for row in group}) == 1]
    return found


def sample_cards(demo: Path | None) -> str:
    """A card for each prompt with what every policy answered; where there is nothing, the command that makes it.

    Args:
        demo: The experiment's folder.
    """
    groups = chosen(read_lines(demo / "samples.jsonl")) if demo else []
    if not groups:
        return '<p class="nothing">No samples here: <code>make demo</code> makes them.</p>'
    return '<div class="cards">' + "".join(_card(group) for group in groups) + "</div>"


def _card(group: list[dict[str, Any]]) -> str:
    source = group[0].get("source", "")
    answers = "".join(
        f'<div class="answer"><p class="who">{escape(_name(row["policy"]))}{_worth(row, group[0])}</p>'
        f"<blockquote>{escape(row['response']) or '<i>(nothing)</i>'}</blockquote></div>"
        for row in group
    )
    kind = f'<span class="kind">{escape(_SOURCES.get(source) or source)}</span>' if source else ""
    return f'<article class="card">{kind}<h3>{escape(group[0]["prompt"])}</h3>{answers}</article>'


def _name(policy: str) -> str:
    return _NAMES.get(policy) or policy


def _worth(row: dict[str, Any], first: dict[str, Any]) -> str:
    what = next((name for name in ("gold_reward", "proxy_reward") if name in row), None)
    if what is None:
        return ""
    change = row[what] - first[what]
    style = "holds" if change > 1e-6 else "fails" if change < -1e-6 else "open"
    return f'<span class="worth {style}">{what.split("_")[0]} {number(row[what], signed=True)}</span>'


def heat_section(maps: dict[str, list[TokenRow]]) -> str:
    """Heat-maps, one below the other.

    Args:
        maps: By what their colours are.
    """
    shown = {title: rows for title, rows in maps.items() if rows}
    if not shown:
        return '<p class="nothing">No token rewards here: <code>make study NAME=s9</code> makes them.</p>'
    return "".join(
        f'<details class="heat-box"{" open" * (not place)}><summary>{escape(title)}</summary>'
        f'<div class="heat">{heatmap_body(rows)}</div></details>'
        for place, (title, rows) in enumerate(shown.items())
    )
