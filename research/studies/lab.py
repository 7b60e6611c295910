"""What the studies of one seed share: its data, its trainings, its samples. One thread, no logger, no checkpoints."""

import json
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.preparation import labelled
from lit_rlhf.data.records import Message, Record, Source
from lit_rlhf.data.store import Store, write_json
from lit_rlhf.data.treatments import Treatment
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy import Advantages, BaselineModule, KLPenalty, PPOModule, SFTModule
from lit_rlhf.policy.rollout import complete, seeded_generator
from lit_rlhf.rewards import GoldReward, Reward, ScalarRewardModule
from lit_rlhf.world import (
    Annotator,
    WorldDemonstrations,
    WorldPairs,
    WorldPrompts,
    gold_reward,
    is_refusal,
    write_base_model,
)

UNSEEN = ("ood_topic", "ood_wording", "ood_combination")
NEW_TOKENS = 48
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


class _Epochs(Callback):
    """Keeps the validation figures of every epoch."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep them."""
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def train(module: LightningModule, data: PreferenceDataModule, **trainer: Any) -> list[dict[str, float]]:
    """Train; returns the validation figures after each epoch."""
    epochs = _Epochs()
    options: dict[str, Any] = {
        **QUIET,
        "gradient_clip_val": 1.0 if module.automatic_optimization else None,
        "callbacks": [epochs],
        "max_epochs": 1,
        **trainer,
    }
    Trainer(**options).fit(module, datamodule=data)
    return epochs.figures


class _Iterations(Callback):
    """Keeps what every iteration of policy optimisation logs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep it."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({name.removeprefix("train/"): found[name] for name in found if name.startswith("train/")})


def train_policy(folder: Path, preset: str, demonstrations: int, lr: float, seed: int = 0) -> None:
    """Train the SFT policy that a study starts from, unless it is there."""
    if (folder / "sft" / "config.json").exists():
        return
    base = write_base_model(folder / "base", preset, seed=seed)
    module = SFTModule(str(base), Optimizer(lr=lr))
    source = WorldDemonstrations(demonstrations, seed)
    data = PreferenceDataModule(source, tokenizer=module.tokenizer, view=module.view, val_fraction=0.02, max_length=128)
    seed_everything(seed, verbose=False)
    train(module, data)
    module.export(folder / "sft")


class Lab:
    """One seed's pairs, and what is trained on them.

    Args:
        seed: Of pairs, prompts, labels and trainings.
        folder: The study's folder, with the SFT policy in ``sft``.
        pairs: Training pairs.
        val_pairs: Validation pairs with true labels; a third as many for each way of being out of distribution.
        annotator: Who labels the training pairs.
        optimizer: Of every reward model.
        batch_size: Of every reward model.
        part: Keeps what this part of a study writes apart from the other parts' files.
        policy: The SFT policy; None takes the one in ``sft``.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        pairs: int,
        val_pairs: int,
        annotator: Annotator,
        optimizer: Optimizer,
        batch_size: int,
        part: str = "",
        policy: Path | None = None,
    ) -> None:
        self.seed, self.folder = seed, folder / f"seed-{seed}" / part
        self.optimizer, self.batch_size = optimizer, batch_size
        self.policy = str(policy or folder / "sft")
        truthful = Annotator(temperature=0.0)
        held_out: list[str | Source] = [WorldPairs(val_pairs, seed, "val", truthful, name="seen")]
        held_out += [WorldPairs(val_pairs // 3, seed, split, truthful, name=split) for split in UNSEEN]
        self._sources = WorldPairs(pairs, seed, annotator=annotator, name="seen"), held_out
        self._mislabelled: list[str | Source] = [
            WorldPairs(val_pairs // 3, seed, split, annotator, name=split) for split in UNSEEN
        ]

    @cached_property
    def data(self) -> PreferenceDataModule:
        """All pairs, read once; validation on seen and unseen kinds of prompts."""
        return self._loaded(self._sources[1])

    def for_voters(self) -> PreferenceDataModule:
        """The training pairs, and beside them pairs of unseen kinds of prompts, labelled by the same annotator."""
        return self._loaded(self._mislabelled)

    def _loaded(self, held_out: list[str | Source]) -> PreferenceDataModule:
        data = PreferenceDataModule(
            self._sources[0], held_out, self.policy, batch_size=self.batch_size, val_batch_size=128, max_length=128
        )
        data.load("pairs")
        return data

    def treated(self, differences: np.ndarray, *treatments: Treatment) -> PreferenceDataModule:
        """The pairs with treated labels."""
        data = self.everything(self.batch_size)
        data.train_rows = labelled(self.data.train_rows, differences, treatments)
        return data

    def everything(self, batch_size: int) -> PreferenceDataModule:
        """The pairs as they are."""
        data = copy(self.data)
        data.batch_size, data.trainer = batch_size, None
        return data

    def scalar(self) -> ScalarRewardModule:
        """A reward model to be trained from the SFT policy."""
        return ScalarRewardModule(self.policy, self.optimizer)

    def fit(
        self, module: LightningModule, data: PreferenceDataModule, number: int, **trainer: Any
    ) -> list[dict[str, Any]]:
        """Train under a seed of its own; returns the validation figures after each epoch."""
        seed_everything(1000 * self.seed + number, verbose=False)
        data.seed = 1000 * self.seed + number
        return train(module, data, **trainer)

    @staticmethod
    def accuracy(figures: dict[str, float]) -> dict[str, float]:
        """Of an epoch's figures, the accuracy on ``seen`` kinds of prompts and, as their mean, on ``unseen`` ones."""
        unseen = [figures[f"val/accuracy/{split}"] for split in UNSEEN]
        return {"seen": figures["val/accuracy/seen"], "unseen": float(np.mean(unseen))}

    def export(self, module: ScalarRewardModule, name: str) -> str:
        """Write a trained reward model; returns its directory."""
        return str(module.export(self.folder / name))

    def prompts(self, size: int, batch_size: int, split: str = "train") -> PreferenceDataModule:
        """Prompts for sampling and policy optimisation."""
        source = WorldPrompts(size, self.seed, split)
        return PreferenceDataModule(
            source,
            tokenizer=self.policy,
            view="prompts",
            val_fraction=0.0,
            batch_size=batch_size,
            max_length=80,
            bucket=1,
        )

    def sample(self, policy: str, name: str, prompts: int, split: str, k: int = 5) -> str:
        """Sample k responses per prompt into a store; returns its folder."""
        store = str(self.folder / name)
        sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0)
        module = BaselineModule(policy, None, store, k=k, sampling=sampling, seed=self.seed)
        Trainer(**QUIET).predict(module, datamodule=self.prompts(prompts, 64, split))
        return store

    def baselines(self, reward: Reward, name: str, prompts: int, k: int = 5) -> str:
        """Offline baselines of the SFT policy for the prompts of `optimise`; returns the store's folder."""
        store = str(self.folder / name)
        sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.8, top_p=0.9)
        module = BaselineModule(self.policy, reward, store, k=k, sampling=sampling, seed=self.seed)
        Trainer(**QUIET).predict(module, datamodule=self.prompts(prompts, 64))
        return store

    def completions(self, store: str) -> Completions:
        """The responses of a store, row by row."""
        renderer, prompts, texts, truncated = self.data.renderer, [], [], []
        for row in Store(store).rows():
            prompts += [tuple(Message(m["role"], m["content"]) for m in row["messages"])] * len(row["responses"])
            texts += row["responses"]
            truncated += row["truncated"]
        sequences = stack_sequences(*renderer.rows_ids(prompts, texts, truncated), renderer.pad_id)
        return Completions(sequences, torch.tensor(truncated), [Record(prompt) for prompt in prompts], texts)

    @torch.no_grad()
    def rescored(self, store: str, reward: Reward, name: str) -> str:
        """The responses of a store, scored by another reward; returns the new store's folder."""
        rows, old = Store(store).rows(), Store(store).key
        completions, k = self.completions(store), int(old["k"])
        reward.load(self.data.renderer, str(old["policy"]))
        scores = torch.cat([reward(completions[i : i + 256]).sum(1) for i in range(0, len(completions), 256)]).tolist()
        new = Store(self.folder / name)
        new.begin({**old, "reward": reward.fingerprint})
        new.write_part(0, [{**row, "scores": scores[i * k : (i + 1) * k]} for i, row in enumerate(rows)])
        new.finish(1)
        return str(new.directory)

    def optimise(
        self,
        reward: Reward,
        critic: str | None,
        name: str,
        iterations: int,
        kl_coefficient: float,
        prompts: int | None = None,
        advantages: Advantages | None = None,
        start: str | None = None,
    ) -> str:
        """Policy optimisation with the SFT policy as reference, 64 responses an iteration; returns its directory.

        Args:
            reward: What the policy is trained for.
            critic: The critic's start.
            name: Of the policy's folder; what each iteration logged lies there as ``history.json``.
            iterations: Of the training.
            kl_coefficient: β.
            prompts: Distinct prompts; None meets none twice.
            advantages: None takes PPO's.
            start: Directory that the policy starts from; None takes the SFT policy's.
        """
        iterated = _Iterations()
        seed_everything(1000 * self.seed + 600, verbose=False)  # of a fresh head
        module = PPOModule(
            start or self.policy,
            reward,
            critic=critic,
            reference=self.policy,
            judge=GoldReward(),
            sampling=Sampling(max_new_tokens=NEW_TOKENS),
            kl=KLPenalty(kl_coefficient),
            advantages=advantages,
            optimizer=Optimizer(lr=3e-4, schedule="constant", warmup=0.0),
            critic_lr=1e-3,
            seed=self.seed,
        )
        data = self.prompts(prompts or 64 * iterations, 64 // module.advantages.samples)
        train(module, data, max_steps=iterations, max_epochs=-1, callbacks=[iterated])
        directory = module.export(self.folder / name)
        write_json(directory / "history.json", iterated.rows)
        return str(directory)

    def history(self, name: str) -> list[dict[str, float]]:
        """What each iteration of a training logged."""
        return json.loads((self.folder / name / "history.json").read_text("utf-8"))

    def judge(self, policies: dict[str, str], prompts: int) -> dict[str, list[dict[str, Any]]]:
        """Each policy's answers to the same unseen prompts, one row each, judged by the gold reward."""
        kinds: list[str | Source] = [WorldPrompts(prompts, self.seed, "val", name="seen")]
        kinds += [WorldPrompts(prompts // 3, self.seed, split, name=split) for split in UNSEEN]
        data = PreferenceDataModule(WorldPrompts(1, self.seed), kinds, self.policy, batch_size=128, max_length=80)
        data.load("prompts")
        renderer, answers = data.renderer, {}
        for name, path in policies.items():
            policy = PolicyNetwork(path).eval()
            rows: list[dict[str, Any]] = []
            for number, batch in enumerate(data.val_dataloader()):
                generator = seeded_generator(torch.device("cpu"), "judge", self.seed, number)
                found = complete(policy, batch, renderer, Sampling(max_new_tokens=NEW_TOKENS), generator)
                rows += [
                    {
                        "kind": "seen" if record.source == "seen" else "unseen",
                        "family": record.meta["family"],
                        "gold": gold_reward(record.prompt[-1].content, text),
                        "length": length,
                        "refuses": is_refusal(text),
                    }
                    for record, text, length in zip(
                        found.records, found.texts, found.sequences.response_length.tolist(), strict=True
                    )
                ]
            answers[name] = rows
        return answers
