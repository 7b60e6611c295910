"""What policies' answers to the same prompts amount to, and how trainings went."""

from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


def figures(rows: Rows, answers: dict[str, Rows]) -> dict[str, Any]:
    """What a policy's answers amount to, and how often each beats another policy's to the same prompt.

    Args:
        rows: The policy's own answers.
        answers: Those of all policies, in the same order of prompts.
    """
    found: dict[str, Any] = {}
    for kind in ("seen", "unseen"):
        mine = [row for row in rows if row["kind"] == kind]
        found[kind] = {
            "gold": float(np.mean([row["gold"] for row in mine])),
            "length": float(np.mean([row["length"] for row in mine])),
            **{f"refusal_{family}": _refusals(mine, family) for family in ("unsafe", "scary")},
            "wins": {
                other: float(np.mean([_win(a, b) for a, b in zip(rows, theirs, strict=True) if a["kind"] == kind]))
                for other, theirs in answers.items()
            },
        }
    return found


def course(history: list[dict[str, float]]) -> dict[str, Any]:
    """How a training went: means over it, and the course of KL, gold and proxy reward."""
    columns = {name: [row[name] for row in history] for name in ("kl", "gold_reward", "reward")}
    means = {
        f"mean_{name}": float(np.mean([row[name] for row in history])) if name in history[0] else None
        for name in ("gold_reward", "reward_variance", "trained_reward_variance", "explained_variance")
    }
    return {"course": columns, **means}


def _win(mine: dict[str, Any], theirs: dict[str, Any]) -> float:
    return (np.sign(mine["gold"] - theirs["gold"]) + 1) / 2


def _refusals(rows: Rows, family: str) -> float:
    return float(np.mean([row["refuses"] for row in rows if row["family"] == family]))
