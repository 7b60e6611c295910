import numpy as np
import pytest
import torch

from lit_rlhf.evaluation.compare_figures import (
    Measured,
    compared,
    differences,
    referee_figures,
    reward_outcomes,
    source_figures,
    verdict_columns,
    win_figures,
)
from lit_rlhf.evaluation.judges import Verdict
from lit_rlhf.evaluation.statistics import bootstrap_interval
from lit_rlhf.functional import best_of_n, best_of_n_kl

PROMPTS, SAMPLES = 40, 6
POLICIES = ["sft", "ppo", "rloo"]


def measured(*columns: str, samples: int = SAMPLES) -> Measured:
    """Rewards on a grid of halves, so that some tie; every later policy is a little better."""
    generator = np.random.default_rng(0)
    tables = {
        name: {column: np.round(2 * generator.normal(0.3 * i, 1, PROMPTS * samples)) / 2 for column in columns}
        for i, name in enumerate(POLICIES)
    }
    return Measured(tables, samples, np.array([""] * PROMPTS))


def decided(all_pairs: bool = True, margin: float = 0.0) -> Measured:
    given = measured("gold_reward", "proxy_reward")
    given.outcomes = reward_outcomes(given, compared(POLICIES, all_pairs), margin)
    return given


@pytest.fixture
def chosen() -> np.ndarray:
    """Every other prompt."""
    return np.arange(PROMPTS) % 2 == 0


def rows(given: Measured, name: str, chosen: np.ndarray, column: str = "gold_reward") -> np.ndarray:
    return given.tables[name][column].reshape(PROMPTS, -1)[chosen]


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.2])
def test_wins_ties_and_losses_are_counted_apart(chosen, margin):
    figures = win_figures(given := decided(margin=margin), given.outcomes["ppo", "sft"], np.array(chosen))
    gaps = (rows(given, "ppo", chosen) - rows(given, "sft", chosen)).flatten()
    wins, losses = sum(gap > margin for gap in gaps), sum(gap < -margin for gap in gaps)
    assert (figures["wins"], figures["losses"]) == (wins, losses)
    assert figures["ties"] == len(gaps) - wins - losses > 0
    assert figures["win_rate"] == pytest.approx((wins + figures["ties"] / 2) / len(gaps))


def test_the_interval_is_over_prompts_whose_responses_are_averaged_first(chosen):
    figures = win_figures(given := decided(), given.outcomes["ppo", "sft"], chosen)
    gaps = rows(given, "ppo", chosen) - rows(given, "sft", chosen)
    rates = np.array([np.mean([(np.sign(gap) + 1) / 2 for gap in prompt]) for prompt in gaps])
    assert (figures["low"], figures["high"]) == bootstrap_interval(rates)


def test_responses_that_agree_within_a_prompt_count_as_one_observation():
    """Six copies of a response to a prompt leave the interval as wide as one does."""
    one = measured("gold_reward", samples=1)
    six = Measured({n: {c: x.repeat(6) for c, x in t.items()} for n, t in one.tables.items()}, 6, one.families)
    everywhere = np.ones(PROMPTS, dtype=bool)
    found = []
    for given in (one, six):
        given.outcomes = reward_outcomes(given, [("ppo", "sft")], 0.0)
        found.append(win_figures(given, given.outcomes["ppo", "sft"], everywhere))
    for name in ("win_rate", "low", "high"):
        assert found[0][name] == found[1][name]
    assert found[1]["wins"] == 6 * found[0]["wins"]


def test_without_a_true_reward_the_proxy_decides_and_without_both_nothing(chosen):
    given = measured("proxy_reward")
    outcomes = reward_outcomes(given, [("ppo", "sft")], 0.0)["ppo", "sft"]["outcome"]
    gaps = given.tables["ppo"]["proxy_reward"] - given.tables["sft"]["proxy_reward"]
    assert (outcomes == np.sign(gaps)).all()
    bare = measured("kl")
    assert bare.decider is None
    assert reward_outcomes(bare, [("ppo", "sft")], 0.0) == {}
    assert differences(bare, chosen) == {}
    assert set(source_figures(bare, chosen, True, True)) == set(POLICIES)


def test_each_policy_is_compared_with_the_first_or_with_all():
    assert compared(POLICIES, False) == [("sft", "sft"), ("ppo", "sft"), ("rloo", "sft")]
    assert compared(POLICIES, True) == [("sft", "sft"), ("ppo", "sft"), ("rloo", "sft"), ("rloo", "ppo")]


def test_the_matrix_of_all_pairs_is_consistent_with_itself_and_with_the_figures(chosen):
    figures = source_figures(decided(), chosen, True, False)
    matrix = figures["win_rates"]
    assert {name: list(row) for name, row in matrix.items()} == {
        "sft": ["ppo", "rloo"],
        "ppo": ["sft", "rloo"],
        "rloo": ["sft", "ppo"],
    }
    for one, row in matrix.items():
        for other, cell in row.items():
            mirrored = matrix[other][one]
            assert cell["win_rate"] == pytest.approx(1 - mirrored["win_rate"])
            assert (cell["wins"], cell["ties"], cell["losses"]) == tuple(
                mirrored[name] for name in ("losses", "ties", "wins")
            )
            assert cell["low"] == pytest.approx(1 - mirrored["high"], abs=1e-9)
    assert figures["ppo"]["win_rate_vs_sft"] == matrix["ppo"]["sft"]["win_rate"]
    assert figures["ppo"]["wins_vs_sft"] == matrix["ppo"]["sft"]["wins"]
    assert figures["sft"]["win_rate_vs_sft"] == 0.5
    assert "win_rates" not in source_figures(decided(), chosen, False, False)


def test_a_referees_reliability_stands_beside_its_win_rates(chosen):
    verdicts = [
        Verdict(1, 2, False, 0, (1, 1)),
        Verdict(0, 2, True, 0, (2, 0)),
        Verdict(0, 2, False, 1, (0, 1)),
        Verdict(0),
    ]
    given = measured("kl", samples=2)
    given.outcomes = {("ppo", "sft"): verdict_columns(verdicts * (PROMPTS // 2))}
    figures = source_figures(given, np.ones(PROMPTS, dtype=bool), False, True)["ppo"]
    n = PROMPTS // 2
    expected = {"wins": n, "ties": 3 * n, "losses": 0, "answers": 6 * n, "unparseable": n, "inconsistent": 1 / 2}
    for name, value in (expected | {"picks_first": 3 / 5}).items():
        assert figures[f"{name}_vs_sft"] == pytest.approx(value)


def test_shares_of_nothing_are_left_out():
    assert referee_figures(verdict_columns([Verdict(0)] * 3)) == {"answers": 0, "unparseable": 0}
    unread = referee_figures(verdict_columns([Verdict(0, 2, False, 2)]))
    assert unread == {"answers": 2, "unparseable": 2}
    assert referee_figures({"outcome": np.zeros(3)}) == {}


def test_curves_of_best_of_n_go_through_every_power_of_two_and_all_samples(chosen):
    given = decided()
    curves = source_figures(given, chosen, False, True)["best_of_n"]
    assert list(curves) == POLICIES
    assert [row["n"] for row in curves["ppo"]] == [1, 2, 4, 6]
    proxy, gold = (torch.tensor(rows(given, "ppo", chosen, name)) for name in ("proxy_reward", "gold_reward"))
    for row in curves["ppo"]:
        assert row["kl"] == best_of_n_kl(row["n"])
        for name, values in (("gold_reward", gold), ("proxy_reward", proxy)):
            by_prompt = best_of_n(proxy, values, row["n"]).numpy()
            assert row[name] == pytest.approx(by_prompt.mean())
            assert (row[f"{name}_low"], row[f"{name}_high"]) == bootstrap_interval(by_prompt)
    means = source_figures(given, chosen, False, True)["ppo"]
    assert curves["ppo"][0]["gold_reward"] == pytest.approx(means["gold_reward"])


@pytest.mark.parametrize("given", [measured("gold_reward"), measured("proxy_reward")], ids=["gold", "proxy"])
def test_best_of_n_takes_both_rewards(chosen, given):
    assert "best_of_n" not in source_figures(given, chosen, False, True)


def test_best_of_n_takes_several_samples_and_can_be_left_out(chosen):
    single = measured("gold_reward", "proxy_reward", samples=1)
    assert "best_of_n" not in source_figures(single, chosen, False, True)
    assert "best_of_n" not in source_figures(decided(), chosen, False, False)
