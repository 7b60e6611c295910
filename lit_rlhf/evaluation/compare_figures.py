"""What a comparison of policies comes to: means, win rates and best-of-n curves, with intervals over prompts."""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_rlhf.evaluation.judges import Verdict
from lit_rlhf.evaluation.statistics import Column, bootstrap_interval
from lit_rlhf.functional import best_of_n, best_of_n_kl

Table = dict[str, Column]
Figures = dict[str, float]


@dataclass
class Measured:
    """What was measured of every policy's responses to the same prompts; the first policy is what others are held to.

    Attributes:
        tables: For each policy its columns, each ``(prompts * samples,)``: the responses to one prompt stand together.
        samples: Responses per prompt.
        families: What kind of prompt each one is, "" where unknown ``(prompts,)``.
        outcomes: For each pair in `compared` its columns ``(prompts * samples,)``: ``outcome`` is 1 where the former's
            response wins, −1 where it loses and 0 for a tie. Empty where nothing decides.
    """

    tables: dict[str, Table]
    samples: int
    families: NDArray[np.str_]
    outcomes: dict[tuple[str, str], Table] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """Name of the policy that others are held to."""
        return next(iter(self.tables))

    @property
    def decider(self) -> str | None:
        """The column of rewards that decides: the true reward where known, else the proxy; None without either."""
        return next((name for name in ("gold_reward", "proxy_reward") if name in self.tables[self.first]), None)

    def by_prompt(self, values: Column, prompts: NDArray[np.bool_]) -> Column:
        """Rows of the chosen prompts, ``(chosen, samples)``."""
        return values.reshape(-1, self.samples)[prompts]


# ---------------------------------------------------------------------- who wins


def compared(policies: list[str], all_pairs: bool) -> list[tuple[str, str]]:
    """Pairs of policies that are compared: each with the first one, itself included; or also with every earlier one."""
    further = [(later, earlier) for earlier, later in combinations(policies[1:], 2)]
    return [(name, policies[0]) for name in policies] + (further if all_pairs else [])


def reward_outcomes(measured: Measured, pairs: list[tuple[str, str]], margin: float) -> dict[tuple[str, str], Table]:
    """Who wins by the deciding reward: differences of up to ``margin`` are ties. Empty where there is no reward."""
    column, outcomes = measured.decider, {}
    if column is None:
        return outcomes
    for one, other in pairs:
        difference = measured.tables[one][column] - measured.tables[other][column]
        outcomes[one, other] = {"outcome": np.where(np.abs(difference) <= margin, 0.0, np.sign(difference))}
    return outcomes


def verdict_columns(verdicts: list[Verdict]) -> Table:
    """A referee's verdicts as columns ``(N,)``."""
    columns = {
        "outcome": [verdict.outcome for verdict in verdicts],
        "answers": [verdict.answers for verdict in verdicts],
        "inconsistent": [verdict.inconsistent for verdict in verdicts],
        "unparseable": [verdict.unparseable for verdict in verdicts],
        "picked_first": [verdict.picked[0] for verdict in verdicts],
        "picked_second": [verdict.picked[1] for verdict in verdicts],
    }
    return {name: np.array(values, dtype=np.float64) for name, values in columns.items()}


def win_figures(measured: Measured, columns: Table, prompts: NDArray[np.bool_]) -> Figures:
    """Win rate with its interval, a tie counting half; wins, ties and losses by number of responses."""
    chosen = {name: measured.by_prompt(values, prompts) for name, values in columns.items()}
    outcome = chosen["outcome"]
    rate = ((outcome + 1) / 2).mean(1)
    low, high = bootstrap_interval(rate)
    counts = {name: int((outcome == value).sum()) for name, value in (("wins", 1), ("ties", 0), ("losses", -1))}
    return {"win_rate": float(rate.mean()), "low": low, "high": high, **counts, **referee_figures(chosen)}


def referee_figures(columns: Table) -> Figures:
    """How far a referee can be trusted; empty where rewards have decided.

    Args:
        columns: Of `verdict_columns`.

    Returns:
        ``answers`` that were needed; ``unparseable``, how many of them name none of the outcomes; ``inconsistent``, the
        share of the pairs with two readable answers on which the verdict changed with the order; ``picks_first``, how
        often the response that was shown first is named, among answers that name one: one half without such a bias.
        Shares of nothing are left out.
    """
    if "answers" not in columns:
        return {}
    sums = {name: float(values.sum()) for name, values in columns.items()}
    figures: Figures = {name: int(sums[name]) for name in ("answers", "unparseable")}
    readable = int(((columns["answers"] > 0) & (columns["unparseable"] == 0)).sum())
    picked = sums["picked_first"] + sums["picked_second"]
    figures |= {"inconsistent": sums["inconsistent"] / readable} if readable else {}
    return figures | ({"picks_first": sums["picked_first"] / picked} if picked else {})


# ---------------------------------------------------------------------- all figures


def source_figures(measured: Measured, prompts: NDArray[np.bool_], all_pairs: bool, best: bool) -> dict[str, Any]:
    """All figures over the chosen prompts: each policy's by name, then those about several.

    Args:
        measured: What was measured.
        prompts: Which prompts ``(prompts,)``.
        all_pairs: Whether ``win_rates`` holds the matrix of all pairs.
        best: Whether ``best_of_n`` holds the curves, where there are samples, a proxy and a true reward for them.
    """
    figures: dict[str, Any] = {name: _policy_figures(measured, name, prompts) for name in measured.tables}
    if all_pairs and measured.outcomes:
        figures["win_rates"] = _matrix(measured, prompts)
    if best and measured.samples > 1 and {"gold_reward", "proxy_reward"} <= measured.tables[measured.first].keys():
        figures["best_of_n"] = {name: _best_of_n(measured, table, prompts) for name, table in measured.tables.items()}
    return figures


def _policy_figures(measured: Measured, name: str, prompts: NDArray[np.bool_]) -> Figures:
    """Mean of every column, with the interval of what policies are judged by."""
    table, first, families = measured.tables[name], measured.first, measured.families[prompts]
    columns = {column: measured.by_prompt(values, prompts).mean(1) for column, values in table.items()}
    figures = {column: float(values.mean()) for column, values in columns.items()}
    for column in ("gold_reward", "proxy_reward"):
        if column in columns:
            figures[f"{column}_low"], figures[f"{column}_high"] = bootstrap_interval(columns[column])
    if (name, first) in measured.outcomes:
        wins = win_figures(measured, measured.outcomes[name, first], prompts)
        ends = {"low": f"win_rate_vs_{first}_low", "high": f"win_rate_vs_{first}_high"}
        figures |= {ends.get(key, f"{key}_vs_{first}"): value for key, value in wins.items()}
    if "refusal" in columns:
        named = [each for each in np.unique(families).tolist() if each]
        figures |= {f"refusal/{each}": float(columns["refusal"][families == each].mean()) for each in named}
    return figures


def _matrix(measured: Measured, prompts: NDArray[np.bool_]) -> dict[str, dict[str, Figures]]:
    """Win figures of every policy (first key) against every other one (second key)."""
    matrix: dict[str, dict[str, Figures]] = {name: {} for name in measured.tables}
    for (one, other), columns in measured.outcomes.items():
        if one != other:
            matrix[one][other] = win_figures(measured, columns, prompts)
            matrix[other][one] = win_figures(measured, columns | {"outcome": -columns["outcome"]}, prompts)
    return matrix


def _best_of_n(measured: Measured, table: Table, prompts: NDArray[np.bool_]) -> list[Figures]:
    """For n = 1, 2, 4, … and all samples: what the best one by the proxy is worth, and its KL divergence."""
    proxy, gold = (
        torch.from_numpy(measured.by_prompt(table[name], prompts)) for name in ("proxy_reward", "gold_reward")
    )
    sizes = sorted({measured.samples, *(2**power for power in range(measured.samples.bit_length()))})
    rows = []
    for n in sizes:
        row: Figures = {"n": n, "kl": best_of_n_kl(n)}
        for name, values in (("gold_reward", gold), ("proxy_reward", proxy)):
            worth = best_of_n(proxy, values, n).numpy()
            row[name] = float(worth.mean())
            row[f"{name}_low"], row[f"{name}_high"] = bootstrap_interval(worth)
        rows.append(row)
    return rows


def differences(measured: Measured, prompts: NDArray[np.bool_]) -> dict[str, Figures]:
    """Paired differences of the deciding reward between any two policies, prompt by prompt."""
    column = measured.decider
    if column is None:
        return {}
    found = {}
    for earlier, later in combinations(measured.tables, 2):
        paired = measured.tables[later][column] - measured.tables[earlier][column]
        values = measured.by_prompt(paired, prompts).mean(1)
        low, high = bootstrap_interval(values)
        found[f"{later} - {earlier}"] = {column: float(values.mean()), "low": low, "high": high}
    return found
