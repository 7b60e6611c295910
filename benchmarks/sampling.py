"""Sampling: offline baselines here, ``generate`` of transformers there; both write texts."""

import shutil
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from transformers import AutoTokenizer

from benchmarks.bench import Bench
from benchmarks.common import QUIET, Comparison, Meter, Metered, Work
from benchmarks.peers import causal
from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.store import Store
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy import BaselineModule


@dataclass
class Answers:
    """k answers to each prompt at temperature 1, from the full distribution.

    Attributes:
        bench: Model and prompts.
        k: Answers per prompt.
        prompts: How many.
        batch_size: Prompts answered at once.
    """

    bench: Bench
    k: int
    prompts: int
    batch_size: int

    @property
    def data(self) -> PreferenceDataModule:
        """The prompts."""
        return self.bench.prompts(self.prompts, self.batch_size)

    def ours(self, meter: Meter) -> Work:
        """A whole ``predict`` of `BaselineModule` without scores, which ends with a store on the disk."""
        sizes, folder = self.bench.sizes, self.bench.folder / f"store_{self.k}"
        shutil.rmtree(folder, ignore_errors=True)
        sampling = Sampling(max_new_tokens=sizes.new_tokens)
        module = BaselineModule(self.bench.model("policy_stops"), None, str(folder), k=self.k, sampling=sampling)
        data = self.data
        Trainer(**QUIET, callbacks=[Metered(meter)]).predict(module, datamodule=data)
        rows = Store(folder).rows()
        truncated = [cut for row in rows for cut in row["truncated"]]
        texts = [text for row in rows for text in row["responses"]]
        return self._work(data.renderer.responses_ids(texts, truncated))

    @torch.no_grad()
    def theirs(self, meter: Meter) -> Work:
        """``generate`` over the same batches of prompts, padded on the left."""
        path, sizes = self.bench.model("policy_stops"), self.bench.sizes
        model, tokenizer = causal(path).eval(), AutoTokenizer.from_pretrained(path, padding_side="left")
        prompts = [row.prompt for row in self.data.train_rows]
        torch.manual_seed(0)
        answers: list[list[int]] = []
        meter.start()
        for start in range(0, len(prompts), self.batch_size):
            batch = tokenizer.pad({"input_ids": prompts[start : start + self.batch_size]}, return_tensors="pt")
            ids = model.generate(
                **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=sizes.new_tokens,
                num_return_sequences=self.k, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            ids = ids[:, batch["input_ids"].shape[1] :]
            tokenizer.batch_decode(ids, skip_special_tokens=True)
            answers += [[token for token in row if token != tokenizer.pad_token_id] for row in ids.tolist()]
        meter.stop()
        return self._work(answers)

    @torch.no_grad()
    def _work(self, answers: list[list[int]]) -> Work:
        """Counts real tokens; how likely the policy finds them tells whether both sides drew from one distribution."""
        data = self.data
        prompts = [row.prompt for row in data.train_rows for _ in range(self.k)]
        sequences = stack_sequences(prompts, answers, data.renderer.pad_id)
        policy = PolicyNetwork(self.bench.model("policy_stops")).eval()
        logprobs = policy(sequences)[sequences.response_mask]  # of all tokens
        tokens = float(sum(map(len, answers)))
        return Work(tokens, facts={"mean_length": tokens / len(answers), "mean_logprob": float(logprobs.mean())})


def parity(ours: Work, theirs: Work) -> tuple[float, dict[str, Any]]:
    """Mean length of an answer here over that there; the mean log-probability of a token stands beside it."""
    ratio = ours.facts["mean_length"] / theirs.facts["mean_length"]
    return ratio, {"work": {"ours": ours.facts, "peer": theirs.facts}}


def comparisons(bench: Bench) -> list[Comparison]:
    """The rows ``baselines_k5`` and ``sample_one``."""
    n = bench.sizes.prompts
    five, one = Answers(bench, 5, n, n // 4), Answers(bench, 1, 2 * n, 2 * n)
    peer = "transformers generate"
    return [
        Comparison(
            "baselines_k5",
            "offline baselines, 5 answers a prompt, tokens/s",
            peer,
            2.0,
            five.ours,
            five.theirs,
            parity,
            "k5",
        ),
        Comparison("sample_one", "one answer a prompt, tokens/s", peer, 1.5, one.ours, one.theirs, parity, "one"),
    ]
