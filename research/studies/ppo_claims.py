"""The claims of the study of policy optimisation, and the criteria by which each is judged, stated before any run."""

from collections.abc import Callable
from typing import Any

import numpy as np

from research.claims import Claim, Measurement

Measure = Callable[[Measurement], float]
Arm = Callable[[Measurement], dict[str, Any]]
FLIPS = ("0", "0.1", "0.2", "0.3", "0.4")
PAPER = "about +20 % over PPO by human judgement"


_LEVEL = (
    "A flip that has nothing to do with the prompt moves no prompt's level, and a critic that starts from the reward "
    "model knows that level already: there is nothing left to take off. Centring lowers the variance of the reward, "
    "but advantages are what is left when the critic's value is taken off, and these hardly change."
)
_USELESS = (
    "From 20 % of flips on, reward models of this size and number of pairs are too weak: plain PPO gains nothing over "
    "SFT, and loses at 30 %. Centring does not repair wrong preferences among the answers to one prompt."
)
_NOISY_BASELINE = (
    "One sampled answer is a noisy estimate of its prompt's level: its noise is added to the reward of every answer, "
    "and no critic can foresee it."
)
_SMALL = "The gain grows with the shift; a small one is lost in what five seeds differ by anyway."
_FRESH = "A fresh head on the policy's body learns the levels of a world this small within some iterations."
_PREDICTABLE = "Centring takes off the part that a critic can foresee; of what is left it explains less."
_FIVE_OFFLINE = (
    "With four answers a prompt RLOO meets a quarter of the prompts in an iteration; "
    "as many responses as the offline baselines cost let it train more than three times as long."
)
_METARM = (
    "Three rounds at this KL do not lead the policy away from what the pairs cover, which is what MetaRM is made for: "
    "the reward model that stays is as good a guide in the last round. Steps on the policy's own samples then only "
    "disturb it."
)


def flip(rate: str, name: str) -> Arm:
    """An arm under a flip rate."""
    return lambda m: m["flips"][rate][name]


def regime(name: str) -> Arm:
    """An arm of the regimes; the plain ones without anything special are those of the shared flip rate."""
    if name in ("ppo", "contrastive", "sft"):
        return flip("0", name)
    return lambda m: m["regimes"][name]


def smoothed(values: list[float], width: int = 5) -> np.ndarray:
    """Running means over ``width`` iterations."""
    width = min(width, len(values))
    return np.convolve(values, np.ones(width) / width, mode="valid")


def gold_at_kl(arm: dict[str, Any], grid: np.ndarray) -> np.ndarray:
    """Gold reward where the training first reached each KL, from running means; linear in between."""
    kl, gold = smoothed(arm["course"]["kl"]), smoothed(arm["course"]["gold_reward"])
    reached = np.maximum.accumulate(kl)
    kept = np.concatenate([[True], np.diff(reached) > 0])  # each KL once, where it was first reached
    return np.interp(grid, reached[kept], gold[kept])


def _final(first: Arm, second: Arm, kind: str = "seen", what: str = "gold") -> Measure:
    return lambda m: first(m)[kind][what] - second(m)[kind][what]


def _whole(first: Arm, second: Arm, what: str) -> Measure:
    return lambda m: first(m)[what] - second(m)[what]


def equal_kl(first: Arm, second: Arm) -> Measure:
    """Gold reward where both trainings have gone equally far, the first minus the second."""

    def measure(m: Measurement) -> float:
        one, other = first(m), second(m)
        reach = min(smoothed(one["course"]["kl"]).max(), smoothed(other["course"]["kl"]).max())
        start = max(smoothed(one["course"]["kl"])[0], smoothed(other["course"]["kl"])[0])
        grid = np.linspace(start, max(reach, start), 20)
        return float(np.mean(gold_at_kl(one, grid) - gold_at_kl(other, grid)))

    return measure


def _mean(measures: list[Measure]) -> Measure:
    return lambda m: float(np.mean([measure(m) for measure in measures]))


def _slope(m: Measurement) -> float:
    gains = [_final(flip(rate, "contrastive"), flip(rate, "ppo"))(m) for rate in FLIPS]
    return float(np.polyfit([float(rate) for rate in FLIPS], np.array(gains, dtype=float), 1)[0])


_GAIN = "gold reward on seen kinds of prompts at the end, minus plain PPO's"
_ALL = {rate: (flip(rate, "contrastive"), flip(rate, "ppo")) for rate in FLIPS}
MODELS = [
    Claim("s8_learnt", "With 40% of the labels flipped the reward model still learns something", "–",
          "accuracy on true labels", lambda m: m["accuracy"]["0.4"], low=0.5),
    Claim("over_learnt",
          "The reward model of few pairs that is over-optimised learns something, too", "–", "accuracy on true labels",
          lambda m: m["overoptimised"]["accuracy"], low=0.5),
]  # fmt: skip
NOISE = [
    *(Claim(f"s8_flips_{rate}", f"Contrastive rewards help with {float(rate):.0%} of the labels flipped", PAPER, _GAIN,
            _final(*arms), low=0.0, note=_LEVEL) for rate, arms in _ALL.items()),
    Claim("s8_flips",
          "Contrastive rewards help on average over the five flip rates", PAPER, _GAIN + ", mean over flip rates",
          _mean([_final(*arms) for arms in _ALL.values()]), low=0.0, note=_LEVEL, remark=_USELESS),
    Claim("s8_flips_unseen",
          "Contrastive rewards help on unseen kinds of prompts, on average over the flip rates", PAPER,
          "gold reward on unseen kinds of prompts at the end, minus plain PPO's, mean over flip rates",
          _mean([_final(*arms, kind="unseen") for arms in _ALL.values()]), low=0.0, note=_LEVEL),
    Claim("s8_flips_equal_kl", "Contrastive rewards help at equal KL, on average over the flip rates", PAPER,
          "gold reward in training where both have gone equally far, minus plain PPO's, mean over flip rates",
          _mean([equal_kl(*arms) for arms in _ALL.values()]), low=0.0, note=_LEVEL),
    Claim("s8_flips_mean", "Contrastive rewards help over the whole training, on average over the flip rates", PAPER,
          "gold reward, mean over all iterations and flip rates, minus plain PPO's",
          _mean([_whole(*arms, "mean_gold_reward") for arms in _ALL.values()]), low=0.0, note=_LEVEL),
    Claim("s8_flips_growth", "Contrastive rewards help more, the more labels are flipped", "derived: prompts that the "
          "reward model does not understand count less", "slope of the gain over the flip rate", _slope, low=0.0,
          note=_LEVEL),
    Claim("s8_improved", "With contrastive rewards more prompts are improved over the SFT policy", "–",
          "win rate against SFT by gold reward, ties half, minus plain PPO's, mean over flip rates",
          _mean([lambda m, a=a, b=b: a(m)["seen"]["wins"]["sft"] - b(m)["seen"]["wins"]["sft"]
                 for a, b in _ALL.values()]), low=0.0, note=_LEVEL),
    Claim("s8_variance", "Centring lowers the variance of the reward", "falls if τ² > σ²/k",
          "variance of the centred reward in training over that of the reward, mean over flip rates",
          _mean([lambda m, a=a: a(m)["mean_trained_reward_variance"] / a(m)["mean_reward_variance"]
                 for a, _ in _ALL.values()]), high=1.0),
    Claim("s8_explained", "The critic explains more of centred rewards", "–",
          "explained variance over the training, minus plain PPO's, mean over flip rates",
          _mean([_whole(*arms, "mean_explained_variance") for arms in _ALL.values()]), low=0.0, note=_PREDICTABLE),
]  # fmt: skip

_OFFSETS = {
    "words_half": "half a standard deviation, by its words",
    "words_one": "one standard deviation, by its words",
    "words_two": "two standard deviations, by its words",
    "prompt_two": "two standard deviations, at random",
}
_PLAIN = regime("contrastive")
OFFSETS = [
    *(Claim(f"s8_offset_{key}", f"Contrastive rewards help where the prompt shifts the reward by {how}",
            "any b(x) cancels", _GAIN, _final(_PLAIN, regime(f"offset_{key}")), low=0.0, note=_SMALL)
      for key, how in _OFFSETS.items()),
    *(Claim(f"s8_offset_{key}_scratch",
            f"Contrastive rewards help a fresh critic where the prompt shifts the reward by {how}",
            "any b(x) cancels", _GAIN,
            _final(regime("contrastive_scratch"), regime(f"offset_{key}_scratch")), low=0.0, note=_SMALL)
      for key, how in _OFFSETS.items() if key in ("words_two", "prompt_two")),
    Claim("s8_offset_growth",
          "Contrastive rewards help more, the more the prompt shifts the reward", "any b(x) cancels",
          "gain at two standard deviations, minus gain at half of one",
          _final(regime("offset_words_half"), regime("offset_words_two")), low=0.0),
    Claim("s8_offset_mean",
          "Contrastive rewards help over the whole training where the prompt shifts the reward by two "
          "standard deviations, by its words", "any b(x) cancels",
          "gold reward, mean over all iterations, minus plain PPO's, words, two standard deviations",
          _whole(_PLAIN, regime("offset_words_two"), "mean_gold_reward"), low=0.0),
    Claim("s8_offset_family_two",
          "Where the prompt's family decides the shift, a critic learns it, and contrastive rewards "
          "help no more than without", "control", "gain with the offset by family, minus gain without",
          _final(regime("ppo"), regime("offset_family_two")), low=-0.1, high=0.1),
]  # fmt: skip

CRITICS = [
    Claim("s8_scratch", "Contrastive rewards help a critic that starts from the policy's body and a fresh head", "–",
          _GAIN,
          _final(regime("contrastive_scratch"), regime("scratch")), low=0.0, note=_FRESH),
    Claim("s8_scratch_mean", "Contrastive rewards help a critic with a fresh head over the whole training", "–",
          "gold reward, mean over all iterations, minus plain PPO's",
          _whole(regime("contrastive_scratch"), regime("scratch"), "mean_gold_reward"), low=0.0, note=_FRESH),
    Claim("s8_stand_in",
          "With contrastive rewards a fresh critic does as well as plain PPO with one from the reward model", "–",
          "gold reward, mean over all iterations, minus that of plain PPO with a critic from the reward model",
          _whole(regime("contrastive_scratch"), regime("ppo"), "mean_gold_reward"), low=-0.05),
    Claim("s8_shifted", "A critic from the reward model is better shifted by the mean of the baselines", "–",
          "gold reward, mean over all iterations, minus without the shift",
          _whole(regime("contrastive_shifted"), _PLAIN, "mean_gold_reward"), low=0.0),
]  # fmt: skip

OFFLINE = "The contrastive arm has five offline responses per prompt on top, each generated once and used many times."
BASELINES = [
    *(Claim(f"s8_k{k}", f"k = {k} baselines help", PAPER, _GAIN, _final(arm, regime("ppo")), low=0.0,
            note=_NOISY_BASELINE if k == 1 else _LEVEL)
      for k, arm in ((1, regime("contrastive_k1")), (3, regime("contrastive_k3")), (5, _PLAIN),
                     (10, regime("contrastive_k10")))),
    Claim("s8_k_growth", "Ten baselines are better than one", "Var falls iff τ² > σ²/k",
          "gold reward, mean over all iterations, k = 10 minus k = 1",
          _whole(regime("contrastive_k10"), regime("contrastive_k1"), "mean_gold_reward"), low=0.0),
    Claim("s8_rloo", "Contrastive PPO is better than RLOO at equal responses in training", "–",
          "gold reward on seen kinds at the end, minus RLOO's", _final(_PLAIN, regime("rloo")), low=0.0,
          remark=OFFLINE),
    Claim("s8_rloo_longer",
          "Contrastive PPO is better than RLOO at equal generated responses, the baselines included", "–",
          "gold reward on seen kinds at the end, minus that of RLOO for as many more iterations",
          _final(_PLAIN, regime("rloo_longer")), low=0.0, note=_FIVE_OFFLINE),
    Claim("s8_reinforce", "Offline baselines in place of a critic are better than RLOO at equal responses in training",
          "–", "gold reward on seen kinds at the end, REINFORCE with contrastive rewards minus RLOO's",
          _final(regime("contrastive_reinforce"), regime("rloo")), low=0.0, remark=OFFLINE),
]  # fmt: skip


def _late_minus_early(what: str) -> Measure:
    def measure(m: Measurement) -> float:
        values = m["overoptimised"]["ppo"]["course"][what]
        n = max(1, len(values) // 8)
        return float(np.mean(values[-n:]) - np.mean(values[n : 2 * n]))

    return measure


def _round(arm: str, number: int | None = None) -> Arm:
    """An arm after a round, the last one by default."""

    def find(m: Measurement) -> dict[str, Any]:
        rounds = {int(name.split("_")[1]): each for name, each in m["rounds"].items() if name.startswith(arm)}
        return rounds[number or max(rounds)]

    return find


def _wins(arm: str, number: int | None = None) -> Measure:
    return lambda m: _round(arm, number)(m)["seen"]["wins"]["sft"]


ROUNDS = [
    Claim("over_proxy", "Against a weak reward model and hardly any penalty the proxy goes on rising", "–",
          "proxy reward, last eighth of the training minus the second eighth", _late_minus_early("reward"), low=0.0),
    Claim("over_gold", "Against a weak reward model and hardly any penalty the gold reward falls", "–",
          "gold reward, last eighth of the training minus the second eighth", _late_minus_early("gold_reward"),
          high=0.0),
    Claim("s7_rounds", "With MetaRM the policy wins more from round to round", "rises over rounds",
          "win rate against SFT, last round minus first",
          lambda m: _wins("meta")(m) - _wins("meta", 1)(m), low=0.0, note=_METARM),
    Claim("s7_meta", "MetaRM's rounds win more than those with a reward model that stays", "wins more",
          "win rate against SFT after the last round, minus without MetaRM",
          lambda m: _wins("meta")(m) - _wins("kept")(m), low=0.0, note=_METARM),
    Claim("s7_meta_gold",
          "MetaRM's rounds end with a higher gold reward than those with a reward model that stays", "wins more",
          "gold reward on seen kinds after the last round, minus without MetaRM",
          _final(_round("meta"), _round("kept")), low=0.0, note=_METARM),
]  # fmt: skip

_UNSEEN_GAIN = "gold reward on unseen kinds of prompts at the end, minus plain PPO's"
UNSEEN = [
    Claim("s10_offset_words_two", "On unseen kinds of prompts contrastive rewards help where the prompt shifts the "
          "reward by two standard deviations, by its words", "any b(x) cancels", _UNSEEN_GAIN,
          _final(_PLAIN, regime("offset_words_two"), kind="unseen"), low=0.0),
    Claim("s10_offset_prompt_two",
          "On unseen kinds of prompts contrastive rewards help where the prompt shifts the reward "
          "by two standard deviations, at random", "any b(x) cancels", _UNSEEN_GAIN,
          _final(_PLAIN, regime("offset_prompt_two"), kind="unseen"), low=0.0),
    Claim("s10_rloo", "On unseen kinds contrastive PPO is better than RLOO at equal responses in training", "–",
          "gold reward on unseen kinds at the end, minus RLOO's", _final(_PLAIN, regime("rloo"), kind="unseen"),
          low=0.0, remark=OFFLINE),
    Claim("s10_meta_gold", "On unseen kinds MetaRM's rounds have a higher gold reward than those with a reward model "
          "that stays", "wins more", "gold reward on unseen kinds after the last round, minus without MetaRM",
          _final(_round("meta"), _round("kept"), kind="unseen"), low=0.0),
]  # fmt: skip

CLAIMS = [*MODELS, *NOISE, *OFFSETS, *CRITICS, *BASELINES, *ROUNDS, *UNSEEN]
