"""Offline baselines: what the SFT policy earns on each prompt, sampled and scored once."""

import json
import time
from contextlib import nullcontext
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.batches import Completions, PromptBatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import restored
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
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
from lit_rlhf.rewards.python import RewardOrFunction, as_reward
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
        renderer: How text becomes tokens; None takes the policy's own tokenizer and chat template.
    """

    view: View = "prompts"

    def __init__(
        self,
        policy: str,
        reward: RewardOrFunction | None,
        store: str,
        k: int = 5,
        sampling: Sampling | None = None,
        seed: int = 0,
        engine: Sampler | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(policy, renderer)
        if k < 1:
            raise DataError(f"is {k}", "option model.init_args.k", "Give 1 or more responses per prompt.")
        reward = None if reward is None else as_reward(reward)
        self.save_hyperparameters()
        self.reward, self.k, self.seed = reward, k, seed
        self.sampling = restored(sampling, Sampling) or Sampling(temperature=0.8, top_p=0.9)
        self.store = Store(store)
        self.engine: Sampler = restored(engine) or OwnSampler()
        self.policy_fingerprint = ""

    def configure_model(self) -> None:
        """Load the policy and the reward."""
        if self.policy_fingerprint:
            return
        # A server's copy is the one that is run, and ours stays whole; our own goes to the device with the module.
        with torch.device("cpu"), self.building() if isinstance(self.engine, OwnSampler) else nullcontext():
            policy = PolicyNetwork(self.path).requires_grad_(False)
        check_embeddings(policy.model, self.renderer, self.path)
        self.policy_fingerprint = fingerprint(policy)
        self.engine.load(policy)
        if self.reward is not None:
            with self.building():
                self.reward.load(self.renderer, self.policy_fingerprint)
        self.split_all()

    @property
    def key(self) -> Key:
        """What the store is made from: everything that would change its rows."""
        return {
            "policy": self.policy_fingerprint,
            "reward": self.reward.fingerprint if self.reward is not None else "none",
            "template": self.renderer.fingerprint,
            "k": self.k,
            "seed": self.seed,
            **vars(self.sampling),
            **self.engine.key,
            **prompts_key(self.trainer),
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

    def forward(self, batch: PromptBatch) -> Completions:
        """Sample k responses to each prompt; row ``b * k + j`` is response j of prompt b."""
        return self._complete(batch, 0)

    @torch.no_grad()
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Sample and score one batch of prompts, write its part of the store, and return its rows.

        A part that is there already is left as it is, and gives no rows.
        """
        part = batch_idx * self.trainer.world_size + self.global_rank
        missing = not batch.idle and not self.store.has_part(part)
        if not batch.idle and not missing:
            self._check_part(part, batch)
        if is_split(self):  # gathering takes all processes
            if not any_of_all(missing, self.device):
                return []
        elif not missing:
            return []
        rows: list[dict[str, Any]] = []
        with gathered(self.engine):
            completions = self._complete(batch, part) if missing else None
        with gathered(self.reward or self.engine):
            if completions is not None:
                rows = self._rows(batch, completions)
        if missing:
            self.store.write_part(part, rows)
            self._sampled += len(rows) * self.k
        return rows

    def _check_part(self, part: int, batch: PromptBatch) -> None:
        """Refuse to go on with a part of other prompts, which a loader in another order would bring."""
        written = [row["prompt_hash"] for row in self.store.read_part(part)]
        if written != [record.prompt_hash for record in batch.records]:
            hint = "Give the prompts in the same order, or another folder for the store."
            raise DataError(f"part {part} holds other prompts than this batch", str(self.store.directory), hint)

    def _complete(self, batch: PromptBatch, part: int) -> Completions:
        return self.engine.complete(batch, self.renderer, self.sampling, self.k, f"baselines {self.seed} {part}")

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

    def _parts(self) -> int:
        """How many parts a finished store has."""
        batches = int(self.trainer.num_predict_batches[0]) * self.trainer.world_size
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "train_rows"):  # of several processes, some end with a batch that does not count
            batches = min(batches, -(-len(data.train_rows) // data.val_batch_size))
        return batches

    def on_predict_end(self) -> None:
        """Declare the store finished, when all processes are."""
        self.trainer.strategy.barrier()
        sampled = int(sum_of_all(torch.tensor([self._sampled], device=self.device)))
        if self.trainer.is_global_zero:
            rows = self.store.finish(self._parts())
            speed = f", {sampled / (time.perf_counter() - self._begun):,.1f} responses/s" if sampled else ""
            rank_zero_info(f"baselines: {rows:,} prompts x {self.k} responses in {self.store.directory}{speed}")
        self.trainer.strategy.barrier()


def prompts_key(trainer: Trainer) -> Key:
    """What names the prompts of a ``predict`` run and how they are cut into batches, as far as that is known before."""
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "named_for"):
        return {"prompts": data.named_for(1), "batch_size": data.val_batch_size}
    return {"prompts": "of a loader"}  # each part tells by its prompts whether it is the batch's
