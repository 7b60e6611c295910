"""Offline baselines: what the SFT policy earns on each prompt, sampled and scored once."""

import json
import time
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.batches import Completions, PromptBatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.preparation import View
from lit_rlhf.data.store import Key, Store
from lit_rlhf.data.tool_turns import to_row
from lit_rlhf.networks.backbone import check_embeddings, fingerprint
from lit_rlhf.networks.module import NetworkModule
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.networks.sharding import gathered, is_split
from lit_rlhf.networks.together import any_of_all, sum_of_all
from lit_rlhf.policy.checks import check_strategy
from lit_rlhf.policy.samplers import OwnSampler, Sampler
from lit_rlhf.rewards.reward import Reward
from lit_rlhf.rewards.running import RunningMeans


class BaselineModule(NetworkModule):
    """Samples k responses per prompt from a policy, scores them, and writes the keyed Parquet store.

    Scored responses of the SFT policy are the baselines of contrastive rewards; responses of the current policy, with
    or without scores, are what MetaRM learns to tell apart.

    Run with ``predict``. Each batch becomes one part of the store; a run that was interrupted skips the parts
    that are there. Sampling depends on the seed and the batch number alone, so a resumed store equals an
    uninterrupted one.

    Several processes take the batches in turn, and the first one finishes the store when all are there: the rows are
    the same for any number of them, and a run may go on with another number. Split networks are gathered once
    per batch, policy and reward one after the other.

    A server can do the sampling (``engine``); scores are computed here all the same.

    Args:
        policy: Hugging Face directory of the SFT policy. The store carries its fingerprint, whoever samples.
        reward: The very reward that policy optimisation will centre; None leaves the responses without scores.
        store: Folder to write.
        k: Responses per prompt.
        sampling: How they are drawn; the default is nucleus sampling at temperature .8 and top-p .9.
        seed: Of the sampled responses.
        engine: Where they are sampled; the default is this process. ``ServedSampler`` asks a server.
    """

    view: View = "prompts"

    def __init__(
        self,
        policy: str,
        reward: Reward | None,
        store: str,
        k: int = 5,
        sampling: Sampling | None = None,
        seed: int = 0,
        engine: Sampler | None = None,
    ) -> None:
        super().__init__()
        if k < 1:
            raise DataError(f"is {k}", "option model.init_args.k", "Give 1 or more responses per prompt.")
        self.save_hyperparameters(ignore=["reward", "engine"])
        self.path, self.reward, self.k, self.seed = policy, reward, k, seed
        self.sampling = sampling or Sampling(temperature=0.8, top_p=0.9)
        self.store = Store(store)
        self.engine = engine or OwnSampler()
        self.policy_fingerprint = ""

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer comes from unless the data name one."""
        return self.path

    def configure_model(self) -> None:
        """Load the policy and the reward."""
        if self.policy_fingerprint:
            return
        # A server's copy is the one that is run, and ours stays whole; our own goes to the device with the module.
        with torch.device("cpu"), self.building() if isinstance(self.engine, OwnSampler) else nullcontext():
            policy = PolicyNetwork(self.path).requires_grad_(False)
        check_embeddings(policy.model, self.trainer.datamodule.renderer, self.path)  # type: ignore[attr-defined]
        self.policy_fingerprint = fingerprint(policy)
        self.engine.load(policy)
        if self.reward is not None:
            with self.building():
                self.reward.load(self.trainer.datamodule.renderer, self.policy_fingerprint)  # type: ignore[attr-defined]
        self.split_all()

    @property
    def key(self) -> Key:
        """What the store is made from: everything that would change its rows."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return {
            "policy": self.policy_fingerprint,
            "reward": self.reward.fingerprint if self.reward is not None else "none",
            "template": datamodule.renderer.fingerprint,
            "k": self.k,
            "seed": self.seed,
            **vars(self.sampling),
            **self.engine.key,
            "prompts": datamodule.named_for(1),
            "batch_size": datamodule.val_batch_size,
        }

    def on_predict_start(self) -> None:
        """Begin the store, or go on with it.

        Raises:
            DataError: If it was made from something else, the strategy cannot give a whole policy, or several processes
                would each scale rewards by what they themselves have seen.
        """
        check_strategy(self.trainer)
        running = any(isinstance(part, RunningMeans) for part in self.modules())
        if self.trainer.world_size > 1 and running:
            hint = "Set trainer.devices to 1, or score with what stands inside."
            raise DataError("follows a running scale, which depends on what was scored before", "option reward", hint)
        self.store.begin(self.key, first=self.trainer.is_global_zero)
        self.trainer.strategy.barrier()
        self._begun, self._sampled = time.perf_counter(), 0

    @torch.no_grad()
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Sample and score one batch of prompts and write its part of the store."""
        part = batch_idx * self.trainer.world_size + self.global_rank
        missing = not batch.idle and not self.store.has_part(part)
        if is_split(self):  # gathering takes all processes
            if not any_of_all(missing, self.device):
                return
        elif not missing:
            return
        rows = []
        with gathered(self.engine):
            completions = self._complete(batch, part) if missing else None
        with gathered(self.reward or self.engine):
            if completions is not None:
                rows = self._rows(batch, completions)
        if missing:
            self.store.write_part(part, rows)
            self._sampled += len(rows) * self.k

    def _complete(self, batch: PromptBatch, part: int) -> Completions:
        renderer = self.trainer.datamodule.renderer  # type: ignore[attr-defined]
        return self.engine.complete(batch, renderer, self.sampling, self.k, f"baselines {self.seed} {part}")

    def _rows(self, batch: PromptBatch, completions: Completions) -> list[dict[str, Any]]:
        """What the store keeps of a batch."""
        scores = self.reward(completions).sum(1).tolist() if self.reward is not None else None
        lengths, truncated = completions.sequences.response_length.tolist(), completions.truncated.tolist()
        rows = []
        for i, record in enumerate(batch.records):
            own = slice(i * self.k, (i + 1) * self.k)
            rows.append(
                {
                    "prompt_hash": record.prompt_hash,
                    "prompt": record.prompt[-1].content,
                    "messages": [to_row(message) for message in record.prompt],
                    "responses": completions.texts[own],
                    "scores": None if scores is None else scores[own],
                    "lengths": lengths[own],
                    "truncated": truncated[own],
                    # As text, since each prompt may have other fields; what JSON does not know becomes its text.
                    "meta": json.dumps(record.meta, default=str),
                }
            )
        return rows

    def on_predict_end(self) -> None:
        """Declare the store finished, when all processes are."""
        self.trainer.strategy.barrier()
        sampled = int(sum_of_all(torch.tensor([self._sampled], device=self.device)))
        if self.trainer.is_global_zero:
            datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            batches = -(-len(datamodule.train_rows) // datamodule.val_batch_size)
            rows = self.store.finish(min(batches, int(self.trainer.num_predict_batches[0]) * self.trainer.world_size))
            speed = f", {sampled / (time.perf_counter() - self._begun):,.1f} responses/s" if sampled else ""
            rank_zero_info(f"baselines: {rows:,} prompts x {self.k} responses in {self.store.directory}{speed}")
        self.trainer.strategy.barrier()
