"""PPO iterations, here with networks of their own and with one trunk, and with TRL's last PPO."""

import copy
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from lightning import Callback, Trainer
from transformers import AutoTokenizer

from benchmarks.bench import Bench
from benchmarks.common import QUIET, Comparison, Meter, Metered, Work
from benchmarks.peers import COMMON, TRL, MeteredByTRL, causal, counted_steps, quietly, scalar
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy import KLPenalty, PPOModule, PPOSettings
from lit_rlhf.rewards import ScalarReward

LR, KL, EPOCHS, MINIBATCHES = 1e-5, 0.05, 4, 2


class _Tokens(Callback):
    """Counts generated tokens."""

    def __init__(self) -> None:
        self.count = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.count += float(trainer.callback_metrics["train/response_length"]) * len(batch)


@dataclass
class Iteration:
    """One iteration on the same prompts: answers, rewards, advantages, epochs of minibatches; answers never end early.

    Attributes:
        bench: Models and prompts.
    """

    bench: Bench

    @property
    def paths(self) -> tuple[str, str]:
        """Directories of policy and reward model."""
        return self.bench.model("policy"), self.bench.model("scalar")

    def ours(self, meter: Meter) -> Work:
        """Policy, reference and critic of their own."""
        return self._ours(meter, trunk=False)

    def ours_trunk(self, meter: Meter) -> Work:
        """Adapters and a head on one trunk; the reward model is a network of its own as with TRL."""
        return self._ours(meter, trunk=True)

    def _ours(self, meter: Meter, trunk: bool) -> Work:
        sizes, (policy, reward) = self.bench.sizes, self.paths
        tokens = _Tokens()
        module = PPOModule(
            policy,
            ScalarReward(reward, scale=1.0),
            critic=None if trunk else reward,
            lora=LoRA() if trunk else None,
            sampling=Sampling(max_new_tokens=sizes.new_tokens),
            settings=PPOSettings(
                epochs=EPOCHS, minibatch_size=sizes.rollout // MINIBATCHES, micro_batch_size=8, max_grad_norm=0.0
            ),
            kl=KLPenalty(KL),
            optimizer=Optimizer(lr=LR, schedule="constant", warmup=0.0, betas=(0.9, 0.999)),
            critic_lr=LR,
        )
        data = self.bench.prompts(sizes.rollout, sizes.rollout, "ppo")
        with counted_steps() as steps:
            Trainer(**QUIET, max_epochs=1, callbacks=[Metered(meter), tokens]).fit(module, datamodule=data)
        operations = self.operations([len(row.prompt) for row in data.train_rows], trunk)
        facts = {"tokens": tokens.count, "steps": float(steps[0]), "operations": operations}
        return Work(sizes.rollout, facts=facts)

    def operations(self, prompts: list[int], trunk: bool) -> float:
        """Operations of the matrix products that an iteration cannot do without.

        2 per matrix parameter and token for each pass forward, 2 backward to the layer before, 2 to the layer's own
        weights; of the vocabulary's matrix for response tokens only. Attention, adapters and heads count as nothing.

        Args:
            prompts: Tokens of each prompt.
            trunk: Whether policy, reference and critic share frozen weights.
        """
        sizes, config = self.bench.sizes, causal(self.paths[0]).config
        responses = len(prompts) * sizes.new_tokens
        layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
        body = 2.0 * (sum(prompts) + responses) * config.num_hidden_layers * layer
        words = 2.0 * responses * config.hidden_size * config.vocab_size
        # Sampling, old log-probabilities, reference, reward, and values where the critic has a body of its own.
        once, updated, products = (4, 1, 2) if trunk else (5, 2, 3)
        return (once + EPOCHS * products * updated) * body + (3 + EPOCHS * products) * words

    def theirs(self, meter: Meter) -> Work:
        """TRL: four full networks; no clipping of gradients, so there is none here either."""
        from datasets import Dataset
        from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

        sizes, (policy, reward) = self.bench.sizes, self.paths
        tokenizer: Any = AutoTokenizer.from_pretrained(reward, padding_side="left")
        data = self.bench.prompts(sizes.rollout, sizes.rollout, "ppo")
        prompts = Dataset.from_dict({"input_ids": [row.prompt for row in data.train_rows]})
        config = PPOConfig(
            output_dir=str(self.bench.folder / "trl"), num_sample_generations=0, total_episodes=sizes.rollout,
            per_device_train_batch_size=sizes.rollout, gradient_accumulation_steps=1, num_mini_batches=MINIBATCHES,
            num_ppo_epochs=EPOCHS, response_length=sizes.new_tokens, temperature=1.0, kl_coef=KL, learning_rate=LR,
            **COMMON,
        )  # fmt: skip
        tokens, generate = [0], ppo_trainer.batch_generation

        def counting(model: Any, queries: Any, size: int, pad: int, config: Any) -> Any:
            found = generate(model, queries, size, pad, config)
            tokens[0] += int((found[0][:, queries.shape[1] :] != pad).sum())
            return found

        with quietly(), patch.object(ppo_trainer, "batch_generation", counting), counted_steps() as steps:
            trainer = PPOTrainer(
                config, tokenizer, causal(policy), causal(policy), scalar(reward), prompts, scalar(reward),
                eval_dataset=copy.copy(prompts), callbacks=[MeteredByTRL(meter)],
            )  # fmt: skip
            trainer.train()
        return Work(sizes.rollout, facts={"tokens": float(tokens[0]), "steps": float(steps[0])})


def parity(ours: Work, theirs: Work) -> tuple[float, dict[str, Any]]:
    """Generated tokens here over those there; tokens and optimiser steps of both stand beside it."""
    return ours.facts["tokens"] / theirs.facts["tokens"], {"work": {"ours": ours.facts, "peer": theirs.facts}}


def comparisons(bench: Bench) -> list[Comparison]:
    """The rows ``ppo_separate`` and ``ppo_trunk``."""
    task, what = Iteration(bench), "PPO iteration of 4 epochs, "
    sides = [
        ("ppo_separate", "networks of their own", 2.5, task.ours),
        ("ppo_trunk", "one trunk", 4.0, task.ours_trunk),
    ]
    return [
        Comparison(id, f"{what}{how}, samples/s", TRL, at_least, ours, task.theirs, parity, "ppo", needs="trl")
        for id, how, at_least, ours in sides
    ]
