import math

import numpy as np
import pytest

from lit_rlhf.evaluation.overoptimisation import (
    RULES,
    Row,
    collapsing_entropy,
    falling_gold,
    first_signs,
    leaping_kl,
    longer_responses,
    new_signs,
    useless_critic,
)


def rows(**columns) -> list[Row]:
    """Iterations from columns of equal length; metrics are named without ``train/``."""
    length = len(next(iter(columns.values())))
    metrics = [{f"train/{name}": float(values[i]) for name, values in columns.items()} for i in range(length)]
    return [{"step": i + 1, **each} for i, each in enumerate(metrics)]


def noisy(values, seed: int = 0, size: float = 0.1) -> np.ndarray:
    return np.asarray(values, dtype=float) + size * np.random.default_rng(seed).standard_normal(len(values))


@pytest.mark.parametrize(
    ("lengths", "proxies", "found"),
    [
        ([20] * 5 + [31] * 5, [0.0] * 5 + [1.0] * 5, True),
        ([20] * 5 + [29] * 5, [0.0] * 5 + [1.0] * 5, False),  # not half as long again
        ([20] * 5 + [31] * 5, [0.0] * 10, False),  # the proxy does not rise
        ([20] * 5 + [31] * 5, [1.0] * 5 + [0.0] * 5, False),
        ([31] * 5 + [20] * 5, [0.0] * 5 + [1.0] * 5, False),
        ([20] * 5 + [31] * 4, [0.0] * 5 + [1.0] * 4, False),  # the two ends overlap
    ],
)
def test_longer_responses_are_a_sign_where_the_proxy_rises_with_them(lengths, proxies, found):
    message = longer_responses(rows(response_length=lengths, reward=noisy(proxies)))
    assert bool(message) == found
    assert not found or ("20" in message and "31" in message)  # type: ignore[operator]


def test_a_rise_of_the_proxy_within_its_noise_is_no_sign():
    proxies = [0.0, 1.0, 0.0, 1.0, 0.5, 0.2, 1.2, 0.1, 1.1, 0.9]  # means 0.5 and 0.7
    assert longer_responses(rows(response_length=[20] * 5 + [60] * 5, reward=proxies)) is None


def bend(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Gold that rises and then falls, and a proxy that rises throughout."""
    gold = np.concatenate([np.linspace(0, 1, n // 2), np.linspace(1, -1, n // 2)])
    return noisy(gold, 1), noisy(np.linspace(0, 3, n), 2)


def test_a_gold_reward_that_falls_while_the_proxy_rises_is_a_sign_and_its_best_place_is_named():
    gold, proxy = bend()
    signs = [sign for sign in first_signs(rows(gold_reward=gold, reward=proxy)) if sign.name == "falling_gold"]
    assert [sign.step for sign in signs] == [50]  # at 40, the last ten iterations are not yet far enough down
    assert "around iteration 26" in signs[0].message
    assert falling_gold(rows(gold_reward=gold, reward=proxy)) is not None


def test_gold_and_proxy_that_move_together_are_no_sign():
    gold, proxy = bend()
    for golds, proxies in ((gold, noisy(gold, 3)), (proxy, proxy), (noisy(np.zeros(60), 4), proxy)):
        signs = first_signs(rows(gold_reward=golds, reward=proxies))
        assert "falling_gold" not in {sign.name for sign in signs}


def test_where_nobody_knows_the_truth_nothing_is_said_of_it():
    assert falling_gold(rows(reward=bend()[1])) is None


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [(2.0, 4.1, True), (2.0, 3.9, False), (0.1, 0.9, False), (0.1, 1.2, True), (0.0, 0.5, False)],
)
def test_kl_leaps_where_it_doubles_by_a_nat_at_least(before, now, found):
    assert bool(leaping_kl(rows(kl=[0.0] * 5 + [before] * 10 + [now]))) == found


def test_a_leap_stands_out_from_ten_iterations_and_steady_growth_is_none():
    assert leaping_kl(rows(kl=[0.0] * 9 + [9.0])) is None
    assert leaping_kl(rows(kl=[9.0] + [1.0] * 10 + [5.0])) is not None  # the first is too long ago
    assert not first_signs(rows(kl=np.arange(40.0) ** 2))


def test_a_critic_is_useless_after_ten_iterations_below_zero():
    assert useless_critic(rows(explained_variance=[0.5] + [-0.1] * 10)) is not None
    assert useless_critic(rows(explained_variance=[-0.1] * 9)) is None
    assert useless_critic(rows(explained_variance=[-0.1] * 9 + [0.01])) is None
    assert useless_critic(rows(kl=[0.0] * 20)) is None  # there is none


def test_entropy_collapses_below_a_fifth_of_what_it_was():
    assert collapsing_entropy(rows(entropy=[2.0] * 5 + [1.0] * 5 + [0.39] * 5)) is not None
    assert collapsing_entropy(rows(entropy=[2.0] * 5 + [0.41] * 5)) is None
    assert collapsing_entropy(rows(entropy=[2.0] * 5 + [0.1] * 4)) is None


def test_signs_come_once_with_the_iteration_that_showed_them_first():
    history = rows(explained_variance=[-1.0] * 25, entropy=[2.0] * 15 + [0.1] * 10)
    signs = {sign.name: sign for sign in first_signs(history)}
    assert {name: sign.step for name, sign in signs.items()} == {"useless_critic": 10, "collapsing_entropy": 20}
    assert signs["useless_critic"].metric == "train/explained_variance"
    assert [sign.name for sign in new_signs(history, {"useless_critic"})] == ["collapsing_entropy"]
    assert {sign.step for sign in new_signs(history)} == {25}


def test_iterations_are_counted_by_their_own_numbers():
    history = [row | {"step": 10 * row["step"]} for row in rows(explained_variance=[-1.0] * 10)]
    assert [sign.step for sign in first_signs(history)] == [100]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_run_that_has_diverged_stops_no_rule(value):
    names = [rule.metric.removeprefix("train/") for rule in RULES.values()] + ["reward"]
    for columns in ({name: [value] * 20 for name in names}, {name: [1.0] * 15 + [value] * 5 for name in names}):
        first_signs(rows(**columns))


def test_every_message_says_what_to_try():
    gold, proxy = bend()
    columns = {"gold_reward": gold, "reward": proxy, "kl": [0.0] * 59 + [9.0], "explained_variance": [-1.0] * 60}
    columns |= {"entropy": [2.0] * 30 + [0.1] * 30, "response_length": [10.0] * 30 + [50.0] * 30}
    signs = first_signs(rows(**columns))
    assert {sign.name for sign in signs} == set(RULES)
    assert all("try" in sign.message.lower() for sign in signs)
