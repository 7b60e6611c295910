"""The parts of the reward study, each measured on one seed. Returns are plain numbers, ready for JSON."""

from typing import Any

import numpy as np

from lit_rlhf.data.store import Store
from lit_rlhf.data.strength import strengths, table_rows
from lit_rlhf.data.treatments import AdaptiveMargin, Flip, Slice, SoftLabel, Treatment
from lit_rlhf.evaluation.rounds import sample_spread
from lit_rlhf.evaluation.strength import strength_report
from lit_rlhf.rewards import ContrastiveRewardModule, MetaRewardModule, ScalarReward
from lit_rlhf.rewards.model import RewardModel
from lit_rlhf.rewards.voters import Voting, vote
from research.studies.lab import Lab

Figures = dict[str, float]

TREATMENTS: dict[str, list[Treatment]] = {
    "baseline": [],
    "margin": [AdaptiveMargin()],
    "flip": [Flip(0.1)],
    "soft_margin": [SoftLabel(0.2), AdaptiveMargin()],
    "flip_margin": [Flip(0.1), AdaptiveMargin()],
}
CONTRASTIVE: dict[str, dict[str, Any] | None] = {
    "baseline": None,
    "views_only": {"beta": 0.0},
    "simcse_pairs": {"objective": "simcse", "contrast": "pairs"},
    "simcse_differences": {"objective": "simcse", "contrast": "differences"},
    "swav_pairs": {"objective": "swav", "contrast": "pairs"},
    "swav_differences": {"objective": "swav", "contrast": "differences"},
}


def strength(lab: Lab, voters: int) -> tuple[dict[str, Any], np.ndarray]:
    """Train the voters; returns reports on their table and the training pairs' differences ``(N, M)``.

    The reports are on the pairs that the voters were trained on, and on pairs of ``unseen`` kinds of prompts, which
    they were not; the same annotator labelled both.
    """
    options = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    voting = Voting(voters, seed=lab.seed, trainer=options)
    table = vote(lab.scalar(), lab.for_voters(), lab.folder / "strength", voting)
    trained_on, unseen = ([row for row in table_rows(table) if row["part"] == part] for part in ("train", "validation"))
    report = {**strength_report(trained_on), "unseen": strength_report(unseen)}
    return report, strengths(str(table), [row.record for row in lab.data.train_rows])


def slices(lab: Lab, differences: np.ndarray, epochs: int) -> dict[str, dict[str, list[float]]]:
    """Accuracy of models trained on one tenth of the pairs by strength; then with the two weakest tenths flipped."""
    tenths = [Slice(i / 10, (i + 1) / 10) for i in range(10)]

    def accuracy(number: int, *steps: Treatment) -> Figures:
        data = lab.treated(differences, *steps)
        figures = lab.fit(lab.scalar(), data, 100 + number, max_epochs=epochs, check_val_every_n_epoch=epochs)
        return lab.accuracy(figures[-1])

    alone = [accuracy(i, tenth) for i, tenth in enumerate(tenths)]
    flipped = [accuracy(i, tenths[i], Flip(1.0)) for i in range(2)]
    return {"accuracy": _columns(alone), "flipped": _columns(flipped)}


def treatments(lab: Lab, differences: np.ndarray, epochs: int) -> dict[str, dict[str, list[float]]]:
    """Accuracy after each epoch with each treatment; head, order and pairs are the same for all."""
    found = {}
    for name, steps in TREATMENTS.items():
        figures = lab.fit(lab.scalar(), lab.treated(differences, *steps), 200, max_epochs=epochs)
        found[name] = _columns([lab.accuracy(each) for each in figures])
    return found


def _columns(rows: list[Figures]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def contrastive(lab: Lab) -> dict[str, Figures]:
    """Each variant after one epoch at batch 16: accuracy on seen and unseen kinds of prompts, separation of features.

    The baseline's exported model, ``reward``, serves the next part.
    """
    found = {}
    for name, options in CONTRASTIVE.items():
        module = lab.scalar() if options is None else ContrastiveRewardModule(lab.policy, lab.optimizer, **options)
        figures = lab.fit(module, lab.everything(16), 300)[-1]
        found[name] = {
            **lab.accuracy(figures),
            "separation": figures["val/feature_separation"],
            "calibration_error": figures["val/calibration_error"],
        }
        if options is None:
            lab.export(module, "reward")
    return found


def meta(lab: Lab, inner_lr: float, iterations: int, prompts: int) -> dict[str, Any]:
    """Spread of scores over samples of the SFT policy and of the PPO policy, by the reward model and by MetaRM.

    MetaRM is trained on the original pairs and samples of the PPO policy; the spread is measured on other prompts.
    """
    reward = str(lab.folder / "reward")
    optimised = lab.optimise(ScalarReward(reward), reward, "ppo", iterations, kl_coefficient=0.1)
    policies = {"sft": lab.policy, "ppo": optimised}
    stores = {name: lab.sample(path, f"samples_{name}", prompts, "val") for name, path in policies.items()}
    samples = lab.sample(optimised, "samples_meta", prompts, "train")
    module = MetaRewardModule(
        lab.policy, samples, lab.optimizer, inner_lr=inner_lr, inner_step="relative", seed=lab.seed
    )
    figures = lab.fit(module, lab.everything(16), 300)[-1]
    models = {"reward": reward, "meta": lab.export(module, "meta")}
    spreads = {
        name: {policy: _spread(path, store) for policy, store in stores.items()} for name, path in models.items()
    }
    return {"seen": figures["val/accuracy/seen"], "difference": figures["train/difference"], **spreads}


def _spread(model: str, store: str) -> Figures:
    """Spread of the scores of one prompt's responses, and how many of these are distinct."""
    rows = Store(store).rows()
    distinct = np.mean([len(set(row["responses"])) for row in rows])
    return {"spread": sample_spread(RewardModel.load(model), rows), "distinct": float(distinct)}
