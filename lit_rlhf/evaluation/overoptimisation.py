"""Signs that policy optimisation goes wrong, looked for in the metrics of its iterations."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Row = dict[str, float]
"""One logged iteration: ``step`` and metrics by name, as a run's ``metrics.jsonl`` holds them."""

EDGE = 5  # logged iterations at the start and at the end that are compared
WINDOW = 10  # logged iterations of which a spike, a useless critic or a fall of the gold reward stands out


class Rule(NamedTuple):
    """A sign to look for.

    Attributes:
        metric: What it is a sign in.
        check: Says what is wrong and what to try, of iterations up to the latest one; None where nothing is wrong.
    """

    metric: str
    check: Callable[[Sequence[Row]], str | None]


class Sign(NamedTuple):
    """A sign that was found.

    Attributes:
        name: Of its rule.
        metric: What it is a sign in.
        step: Iteration that showed it first.
        message: What it means, and what to try.
    """

    name: str
    metric: str
    step: int
    message: str


def longer_responses(rows: Sequence[Row]) -> str | None:
    """The proxy rises while length explodes.

    The mean length of the last 5 iterations is more than 1.5 times that of the first 5, and the mean proxy reward is
    higher by more than 2 standard errors.
    """
    if len(rows) < 2 * EDGE:
        return None
    lengths, proxies = _edges(rows, "train/response_length"), _edges(rows, "train/reward")
    before, now = lengths[0].mean(), lengths[1].mean()
    if now > 1.5 * before and _higher(proxies[1], proxies[0]) > 2:
        return (
            f"the proxy reward rises while responses grow from {before:.0f} to {now:.0f} tokens: the policy may have "
            "found that the reward model likes length. Read generations.jsonl; try LengthPenalty, a larger "
            "kl.coefficient or an earlier checkpoint."
        )
    return None


def falling_gold(rows: Sequence[Row]) -> str | None:
    """The true reward falls while the proxy rises; looked for after every 10th iteration.

    Of the blocks of 10 iterations before the last 10, take the one with the highest gold reward. The last 10 have a
    lower gold reward by more than 3 standard errors (the best of many blocks is partly luck) and a higher proxy reward
    by more than 2.
    """
    if len(rows) % WINDOW or len(rows) < 2 * WINDOW:
        return None
    golds, proxies = (_column(rows, name).reshape(-1, WINDOW) for name in ("train/gold_reward", "train/reward"))
    best = int(golds[:-1].mean(1).argmax())
    if _higher(golds[best], golds[-1]) > 3 and _higher(proxies[-1], proxies[best]) > 2:
        return (
            "the gold reward falls while the proxy reward rises: the reward model is over-optimised. Gold was best "
            f"around iteration {rows[best * WINDOW + WINDOW // 2]['step']:.0f}, {golds[best].mean():.2f} against "
            f"{golds[-1].mean():.2f} now: take a checkpoint from there, or try a larger kl.coefficient, an ensemble or "
            "a contrastive reward."
        )
    return None


def leaping_kl(rows: Sequence[Row]) -> str | None:
    """The policy leaps away: KL per response is more than twice the largest of the 10 iterations before, and 1 nat."""
    if len(rows) <= WINDOW:
        return None
    *earlier, now = _column(rows[-WINDOW - 1 :], "train/kl")
    before = np.max(earlier)
    if now > max(2 * before, before + 1):
        return (
            f"KL leaps to {now:.1f} nats per response, at most {before:.1f} in the {WINDOW} iterations before: one "
            "update has changed the policy a lot. Look at train/ratio_max and train/policy_grad_norm; try a smaller "
            "learning rate, fewer settings.epochs or a smaller settings.clip."
        )
    return None


def useless_critic(rows: Sequence[Row]) -> str | None:
    """The critic explains less than nothing: its explained variance is below 0 in each of the last 10 iterations."""
    if len(rows) < WINDOW or not (_column(rows[-WINDOW:], "train/explained_variance") < 0).all():
        return None
    return (
        f"the critic's explained variance has been below 0 for {WINDOW} iterations: advantages would be less noisy "
        "without it. Try settings.critic_warmup, another critic_lr, a critic from the reward model's directory, or "
        "advantages that need none (LeaveOneOut)."
    )


def collapsing_entropy(rows: Sequence[Row]) -> str | None:
    """The policy has lost its variety: the mean entropy of the last 5 iterations is below a fifth of the first 5's."""
    if len(rows) < 2 * EDGE:
        return None
    before, now = (values.mean() for values in _edges(rows, "train/entropy"))
    if now < before / 5:
        return (
            f"entropy has fallen from {before:.2f} to {now:.2f} nats per token: the policy hardly explores any more "
            "and cannot get out of what it does now. Look at train/distinct_responses; try settings.entropy_bonus, a "
            "larger kl.coefficient or a smaller learning rate."
        )
    return None


RULES: dict[str, Rule] = {
    "longer_responses": Rule("train/response_length", longer_responses),
    "falling_gold": Rule("train/gold_reward", falling_gold),
    "leaping_kl": Rule("train/kl", leaping_kl),
    "useless_critic": Rule("train/explained_variance", useless_critic),
    "collapsing_entropy": Rule("train/entropy", collapsing_entropy),
}


def new_signs(rows: Sequence[Row], known: Collection[str] = ()) -> list[Sign]:
    """Signs that the latest of these iterations shows.

    Args:
        rows: Training iterations as they were logged, oldest first.
        known: Names of rules that need not be asked again.
    """
    with np.errstate(invalid="ignore"):  # of a run that has diverged
        found = [(name, rule.metric, rule.check(rows)) for name, rule in RULES.items() if name not in known]
    return [Sign(name, metric, int(rows[-1]["step"]), message) for name, metric, message in found if message]


def first_signs(rows: Sequence[Row]) -> list[Sign]:
    """Each sign when it was first seen."""
    signs: dict[str, Sign] = {}
    for end in range(1, len(rows) + 1):
        signs |= {sign.name: sign for sign in new_signs(rows[:end], signs)}
    return list(signs.values())


def _column(rows: Sequence[Row], name: str) -> Values:
    """A metric of all rows; NaN where one lacks it, which no rule takes for a sign."""
    return np.array([row.get(name, np.nan) for row in rows])


def _edges(rows: Sequence[Row], name: str) -> tuple[Values, Values]:
    """A metric at the start and at the end."""
    return _column(rows[:EDGE], name), _column(rows[-EDGE:], name)


def _higher(values: Values, others: Values) -> float:
    """How much higher a mean is, in standard errors of the difference."""
    difference = values.mean() - others.mean()
    error = np.sqrt(values.var(ddof=1) / len(values) + others.var(ddof=1) / len(others))
    return difference / error if error > 0 else np.sign(difference) * np.inf if difference else 0.0
