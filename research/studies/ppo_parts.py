"""Parts of the study of policy optimisation: flips, regimes, rounds. Every arm has the same prompts and seeds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.policy import Advantages, LeaveOneOut, NoBaseline
from lit_rlhf.rewards import ContrastiveReward, MetaRewardModule, Reward, ScalarReward
from lit_rlhf.world import Annotator
from research.studies.answers import course, figures
from research.studies.lab import Lab
from research.studies.offsets import Kind, PromptOffset

Found = dict[str, Any]
OFFSETS: dict[str, tuple[Kind, float]] = {
    "words_half": ("words", 0.5),
    "words_one": ("words", 1.0),
    "words_two": ("words", 2.0),
    "prompt_two": ("prompt", 2.0),
    "family_two": ("family", 2.0),
}
"""Kind and size, in standard deviations of the reward model's scores."""


@dataclass
class Sizes:
    """How large everything is.

    Attributes:
        preset: Size of the models.
        demonstrations: For the SFT policies.
        pairs: For the reward models.
        val_pairs: For their calibration and accuracy.
        weak_pairs: For the reward model that is over-optimised.
        iterations: Of every training but the one that over-optimises, which has twice as many.
        round_iterations: Of each round.
        rounds: Rounds of iterative optimisation.
        prompts: Distinct prompts in training.
        judged: Prompts on which policies are judged, and as many of unseen kinds.
        samples: Prompts whose samples MetaRM learns from.
        kl_coefficient: β of every training but the one that over-optimises, which has a tenth of it.
    """

    preset: str = "200k"
    demonstrations: int = 26000
    pairs: int = 9600
    val_pairs: int = 600
    weak_pairs: int = 400
    iterations: int = 40
    round_iterations: int = 25
    rounds: int = 3
    prompts: int = 1280
    judged: int = 300
    samples: int = 256
    kl_coefficient: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what the claims cannot be computed from."""
        if self.rounds < 2 or self.iterations < 1:
            raise DataError("rounds must be at least 2, iterations at least 1", "study, sizes")


class Arms:
    """Trainings of one seed and one annotator, from one SFT policy.

    Args:
        folder: The study's folder.
        seed: Of everything, the SFT policy included.
        part: Folder of what is written here.
        flip_rate: Of the annotator.
        sizes: How large everything is.
        pairs: For the reward model; None takes those of the sizes.
    """

    def __init__(
        self, folder: Path, seed: int, part: str, flip_rate: float, sizes: Sizes, pairs: int | None = None
    ) -> None:
        self.shared, self.sizes = folder / f"seed-{seed}" / "start", sizes
        annotator = Annotator(temperature=0.0, flip_rate=flip_rate)
        self.lab = Lab(
            seed, folder, pairs or sizes.pairs, sizes.val_pairs, annotator, Optimizer(lr=1e-3), 32, part,
            self.shared / "sft",
        )  # fmt: skip
        self.policies = {"sft": self.lab.policy}

    def reward_model(self) -> str:
        """Train a reward model; returns its directory."""
        module = self.lab.scalar()
        figures = self.lab.fit(module, self.lab.everything(32), 500)[-1]
        self.accuracy = figures["val/accuracy/seen"]
        return self.lab.export(module, "reward")

    def run(
        self,
        name: str,
        reward: Reward,
        critic: str | None,
        advantages: Advantages | None = None,
        start: str | None = None,
        iterations: int | None = None,
        kl_coefficient: float | None = None,
    ) -> str:
        """One training; returns the policy's directory."""
        sizes, coefficient = self.sizes, self.sizes.kl_coefficient if kl_coefficient is None else kl_coefficient
        self.policies[name] = self.lab.optimise(
            reward, critic, name, iterations or sizes.iterations, coefficient, sizes.prompts, advantages, start
        )
        return self.policies[name]

    def judged(self) -> dict[str, Found]:
        """What the answers of all policies amount to, and how their trainings went."""
        answers = self.lab.judge(self.policies, self.sizes.judged)
        found = {name: figures(rows, answers) for name, rows in answers.items()}
        return {name: each if name == "sft" else each | course(self.lab.history(name)) for name, each in found.items()}


def contrastive(model: str, store: str, k: int | None = 5) -> Reward:
    """The reward model's score, less the mean of baselines."""
    return ContrastiveReward(ScalarReward(model), store, k=k)


def flips(folder: Path, seed: int, rates: list[float], shared_rate: float, sizes: Sizes) -> tuple[Found, Found]:
    """PPO and contrastive PPO under several flip rates of the annotator; and how good each reward model is."""
    found: Found = {}
    accuracy: Found = {}
    for rate in rates:
        arms = Arms(folder, seed, f"flips-{rate:g}", rate, sizes)
        model, store = str(arms.shared / "reward"), str(arms.shared / "baselines")
        if rate != shared_rate:
            model = arms.reward_model()
            accuracy[f"{rate:g}"] = arms.accuracy
            store = arms.lab.rescored(store, ScalarReward(model), "baselines")
        arms.run("ppo", ScalarReward(model), model)
        arms.run("contrastive", contrastive(model, store), model)
        found[f"{rate:g}"] = arms.judged()
    return found, accuracy


def regimes(folder: Path, seed: int, flip_rate: float, sizes: Sizes) -> Found:
    """Offsets of the prompt, critics, numbers of baselines, estimators without critic: all from one reward model."""
    arms = Arms(folder, seed, "regimes", flip_rate, sizes)
    model, store = str(arms.shared / "reward"), str(arms.shared / "baselines")
    data = arms.lab.prompts(sizes.prompts, 64)
    data.load("prompts")
    records = [row.record for row in data.train_rows]
    for name, (kind, size) in OFFSETS.items():
        shifted = PromptOffset(ScalarReward(model), kind, size, records, seed)
        arms.run(f"offset_{name}", shifted, model)
        if name in ("words_two", "prompt_two"):
            arms.run(f"offset_{name}_scratch", shifted, None)
    arms.run("scratch", ScalarReward(model), None)
    arms.run("contrastive_scratch", contrastive(model, store), None)
    mean = float(np.mean([row["scores"] for row in Store(store).rows()]))
    arms.run("contrastive_shifted", PromptOffset(contrastive(model, store), "constant", mean), model)
    for k in (1, 3, 10):
        arms.run(f"contrastive_k{k}", contrastive(model, store, k), model)
    arms.run("rloo", ScalarReward(model), None, LeaveOneOut(4))
    as_many = round(sizes.iterations + 5 * sizes.prompts / 64)  # iterations that generate the five baselines, too
    arms.run("rloo_longer", ScalarReward(model), None, LeaveOneOut(4), iterations=as_many)
    arms.run("contrastive_reinforce", contrastive(model, store), None, NoBaseline())
    return arms.judged()


def overoptimised(folder: Path, seed: int, flip_rate: float, sizes: Sizes) -> Found:
    """PPO for long, with hardly any penalty, against a reward model of few pairs."""
    arms = Arms(folder, seed, "overoptimised", flip_rate, sizes, sizes.weak_pairs)
    model = arms.reward_model()
    weak = {"iterations": 2 * sizes.iterations, "kl_coefficient": sizes.kl_coefficient / 10}
    arms.run("ppo", ScalarReward(model), model, **weak)  # type: ignore[arg-type]
    return {**arms.judged(), "accuracy": arms.accuracy}


def rounds(folder: Path, seed: int, flip_rate: float, inner_lr: float, sizes: Sizes) -> Found:
    """Rounds of PPO, with a reward model that stays, and with MetaRM on samples of the last round's policy."""
    arms = Arms(folder, seed, "rounds", flip_rate, sizes)
    first = str(arms.shared / "reward")
    policy = {"kept": "", "meta": ""}
    model = {"kept": first, "meta": first}
    for number in range(1, sizes.rounds + 1):
        for arm in ("kept", "meta"):
            if number == 1 and arm == "meta":  # the same as the other arm's first round
                policy[arm] = arms.policies["meta_1"] = policy["kept"]
                continue
            if arm == "meta":
                model[arm] = _meta_reward_model(arms, policy[arm], number - 1, inner_lr)
            reward, start = ScalarReward(model[arm]), policy[arm] or None
            policy[arm] = arms.run(f"{arm}_{number}", reward, model[arm], None, start, sizes.round_iterations)
    del arms.policies["meta_1"]
    found = arms.judged()
    return found | {"meta_1": found["kept_1"]}


def _meta_reward_model(arms: Arms, policy: str, number: int, inner_lr: float) -> str:
    lab = arms.lab
    samples = lab.sample(policy, f"samples_{number}", arms.sizes.samples, "train")
    module = MetaRewardModule(
        lab.policy, samples, lab.optimizer, inner_lr=inner_lr, inner_step="relative", seed=lab.seed
    )
    lab.fit(module, lab.everything(32), 500)  # the first reward model's pairs, order and steps
    return lab.export(module, f"reward_{number}")
