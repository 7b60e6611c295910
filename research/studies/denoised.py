"""PPO without KL penalty against reward models from treated labels (S5): does its KL grow more smoothly?"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lit_rlhf.data.strength import strengths
from lit_rlhf.rewards import ScalarReward
from research.claims import Claim, Measurement
from research.studies.answers import course, figures
from research.studies.lab import Lab
from research.studies.reward_parts import TREATMENTS

Measure = Callable[[Measurement], float]
TREATED = {"margin": "the margin", "flip": "flipping 10 %", "soft_margin": "soft label + margin"}


def denoised(lab: Lab, iterations: int, prompts: int) -> dict[str, Any]:
    """A reward model for each treatment, and PPO without KL penalty against it; prompts and seeds are the same.

    Args:
        lab: With the strength table that the part ``labels`` wrote.
        iterations: Of PPO.
        prompts: On which policies are judged.
    """
    records = [row.record for row in lab.data.train_rows]
    differences = strengths(str(lab.folder / "strength" / "table"), records)
    policies, models = {"sft": lab.policy}, {}
    for name in ("baseline", *TREATED):
        module = lab.scalar()
        models[name] = lab.accuracy(lab.fit(module, lab.treated(differences, *TREATMENTS[name]), 200)[-1])
        model = lab.export(module, f"denoised_{name}")
        policies[name] = lab.optimise(
            ScalarReward(model), model, f"denoised_{name}_ppo", iterations, kl_coefficient=0.0
        )
    answers = lab.judge(policies, prompts)
    amounts = {name: figures(rows, answers) for name, rows in answers.items()}
    for name in models:
        amounts[name] |= course(lab.history(f"denoised_{name}_ppo"))
    return {"models": models, "policies": amounts}


def crookedness(kl: list[float]) -> float:
    """Root mean square distance of a course from its straight line (least squares), over its mean: 0 is linear."""
    values, places = np.array(kl, dtype=float), np.arange(len(kl))
    line = np.polyval(np.polyfit(places, values, 1), places) if len(kl) > 1 else values
    return float(np.sqrt(np.mean((values - line) ** 2)) / max(values.mean(), 1e-9))


def late_share(kl: list[float]) -> float:
    """Share of the whole rise that falls into the last quarter, by means over an eighth: 1/4 if it is linear."""
    values, n = np.array(kl, dtype=float), max(1, len(kl) // 8)
    at = max(n, len(kl) - len(kl) // 4)
    end, before = values[-n:].mean(), values[at - n : at].mean()
    return float((end - before) / max(end, 1e-9))


def _kl(name: str) -> Callable[[Measurement], list[float]]:
    return lambda m: m["denoised"]["policies"][name]["course"]["kl"]


def _crooked(name: str) -> Measure:
    return lambda m: float(np.log(max(crookedness(_kl(name)(m)), 1e-9) / max(crookedness(_kl("baseline")(m)), 1e-9)))


def _mean(measure: Callable[[Measurement, str], float]) -> Measure:
    """The treated ones' mean, minus that of the untreated one."""
    return lambda m: float(np.mean([measure(m, name) for name in TREATED]) - measure(m, "baseline"))


def _end(m: Measurement, name: str) -> float:
    kl = _kl(name)(m)
    return float(np.mean(kl[-max(1, len(kl) // 8) :]))


def _gold(kind: str) -> Measure:
    return _mean(lambda m, name: m["denoised"]["policies"][name][kind]["gold"])


_PAPER = "noisy ones' KL explodes late, denoised ones' grows about linearly"
_STRAIGHT = "logarithm of KL's root mean square distance from a straight line, over its mean, minus the baseline's"
CLAIMS = [
    *(Claim(f"s5_{key}", f"Without KL penalty, KL grows more evenly where {name} treats the reward model's labels",
            _PAPER, _STRAIGHT, _crooked(key), high=0.0) for key, name in TREATED.items()),
    Claim("s5_even",
          "Without KL penalty, KL grows more evenly on average over the three treatments of the labels", _PAPER,
          f"{_STRAIGHT}, mean over treatments",
          lambda m: float(np.mean([_crooked(name)(m) for name in TREATED])), high=0.0),
    Claim("s5_late", "Without KL penalty, less of KL's rise is late under treated labels", _PAPER,
          "share of KL's rise in the last quarter of the training, mean over treatments, minus the baseline's",
          _mean(lambda m, name: late_share(_kl(name)(m))), high=0.0),
    Claim("s5_kl", "Without KL penalty, PPO ends at a lower KL under treated labels", _PAPER,
          "KL over the last eighth of the training, mean over treatments, minus the baseline's", _mean(_end), high=0.0),
    Claim("s5_gold", "Without KL penalty, PPO ends at a higher gold reward under treated labels", "–",
          "gold reward on seen kinds of prompts at the end, mean over treatments, minus the baseline's",
          _gold("seen"), low=0.0),
    Claim("s5_gold_unseen",
          "Without KL penalty, PPO ends at a higher gold reward on unseen kinds of prompts under treated labels", "–",
          "gold reward on unseen kinds of prompts at the end, mean over treatments, minus the baseline's",
          _gold("unseen"), low=0.0),
    Claim("s5_accuracy_unseen", "Treated reward models are right more often on unseen kinds of prompts", "–",
          "accuracy on unseen kinds, mean over treatments, minus the baseline's",
          _mean(lambda m, name: m["denoised"]["models"][name]["unseen"]), low=0.0),
]  # fmt: skip
