"""One world of the seq2seq study: its reward models, and a policy optimised against each kind of reward."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_rlhf.data.batches import Completions
from lit_rlhf.evaluation.heatmap import heatmap_png, token_rows
from lit_rlhf.rewards import (
    ContrastiveReward,
    Reward,
    ScalarReward,
    Seq2SeqReward,
    Seq2SeqRewardModule,
    TokenIncrementReward,
)
from research.studies.answers import figures
from research.studies.lab import Lab

SAMPLES = 5
"""Of the SFT policy for each prompt, by which rewards are scaled."""
OPTIONS: dict[str, dict[str, Any]] = {
    "seq2seq": {},
    "contrastive_seq2seq": {},
    "no_positive": {"positive": 0.0},
    "no_negative": {"negative": 0.0},
    "no_identity": {},
    "unnormalised": {"normalize": False},
}


class Arms:
    """The policies of one world.

    Args:
        lab: The world's pairs.
        epochs: Of the rewriter.
        iterations: Of PPO.
        kl_coefficient: Of PPO.
    """

    def __init__(self, lab: Lab, epochs: int, iterations: int, kl_coefficient: float) -> None:
        self.lab, self.epochs, self.iterations, self.kl_coefficient = lab, epochs, iterations, kl_coefficient
        self.accuracy: dict[str, dict[str, float]] = {}

    def measure(self, names: list[str], prompts: int) -> dict[str, Any]:
        """Optimise a policy for each reward, judge all of them and the SFT policy on the same prompts."""
        policies = {"sft": self.lab.policy} | {name: self.optimise(name) for name in names}
        answers = self.lab.judge(policies, prompts)
        return {"models": self.accuracy, "policies": {name: figures(rows, answers) for name, rows in answers.items()}}

    def optimise(self, name: str) -> str:
        """PPO against one reward, scaled to unit standard deviation over samples of the SFT policy."""
        reward = self.reward(name, scale=1 / self._spread(self.reward(name, scale=1.0)))
        if name.startswith("contrastive"):
            store = self.lab.baselines(reward, f"baselines_{name}", 64 * self.iterations)
            reward = ContrastiveReward(self.reward(name, scale=reward.scale), store)
        return self.lab.optimise(reward, self.scalar, f"policy_{name}", self.iterations, self.kl_coefficient)

    def heatmap(self, path: Path, rows: int = 6) -> None:
        """Draw what the trained rewriter gives each token of the SFT policy's answers to some prompts.

        The same in figures is written beside the picture, as ``.jsonl``.
        """
        reward = Seq2SeqReward(str(self.lab.folder / "rewriter"), scale=1.0).load(self.lab.data.renderer, "any")
        shown = self._samples[: SAMPLES * rows : SAMPLES]
        found = token_rows(shown, reward(shown), self.lab.data.renderer)
        heatmap_png(found, path, "rewards of a rewriter for answers of the SFT policy")
        path.with_suffix(".jsonl").write_text("".join(json.dumps(vars(row)) + "\n" for row in found), "utf-8")

    def reward(self, name: str, scale: float) -> Reward:
        """The reward of an arm."""
        if name == "scalar":
            return ScalarReward(self.scalar, scale)
        if name == "increments":
            return TokenIncrementReward(self.scalar, scale)
        rewriter = self.rewriter_without_identity if name == "no_identity" else self.rewriter
        return Seq2SeqReward(rewriter, **OPTIONS[name], scale=scale)

    @cached_property
    def scalar(self) -> str:
        """The scalar reward model's directory."""
        module = self.lab.scalar()
        self._keep("scalar", self.lab.fit(module, self.lab.everything(self.lab.batch_size), 400)[-1])
        return self.lab.export(module, "scalar")

    @cached_property
    def rewriter(self) -> str:
        """The rewriter's directory."""
        return self._rewriter("rewriter", 1.0)

    @cached_property
    def rewriter_without_identity(self) -> str:
        """The directory of a rewriter that never saw a response that is to be left alone."""
        return self._rewriter("rewriter_without_identity", 0.0)

    def _rewriter(self, name: str, identity_weight: float) -> str:
        module = Seq2SeqRewardModule(self.lab.policy, self.lab.optimizer, identity_weight=identity_weight, examples=0)
        data = self.lab.everything(self.lab.batch_size)
        settings = {"max_epochs": self.epochs, "check_val_every_n_epoch": self.epochs}
        self._keep(name, self.lab.fit(module, data, 401, **settings)[-1])
        return str(module.export(self.lab.folder / name))

    def _keep(self, name: str, found: dict[str, float]) -> None:
        kept = ("accuracy/seen", "accuracy_by_matches", "accuracy_by_likelihood", "copy_rate_rejected")
        self.accuracy[name] = {key: found[f"val/{key}"] for key in kept if f"val/{key}" in found}

    @cached_property
    def _samples(self) -> Completions:
        """Samples of the SFT policy, for the scale of every reward."""
        return self.lab.completions(self.lab.sample(self.lab.policy, "samples", 128, "train", SAMPLES))

    def _spread(self, reward: Reward) -> float:
        totals = reward.load(self.lab.data.renderer, "any")(self._samples).sum(1)
        return max(float(totals.std(unbiased=False)), 1e-6)
