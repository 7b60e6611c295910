"""Reward-model training, here and with TRL's RewardTrainer: the same model, pairs, optimiser and clipping, in fp32."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning import Trainer
from transformers import AutoTokenizer

from benchmarks.bench import Bench
from benchmarks.common import QUIET, Comparison, Meter, Metered, Seconds, Work
from benchmarks.peers import COMMON, TRL, MeteredByTRL, quietly, scalar
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.rewards import ScalarRewardModule

LR, CLIP, BATCH = 1e-4, 1.0, 8


@dataclass
class RewardTraining:
    """One epoch on the same pairs.

    Attributes:
        model: Directory of the reward model that both start from.
        data: Gives the pairs, tokenised.
        folder: For what TRL writes.
    """

    model: str
    data: Callable[[], PreferenceDataModule]
    folder: str

    def ours(self, meter: Meter) -> Work:
        """Here, with the batches of similar lengths that are the default."""
        watch, data = Metered(meter), self.data()
        module = ScalarRewardModule(self.model, Optimizer(lr=LR, schedule="constant", warmup=0.0))
        Trainer(**QUIET, max_epochs=1, gradient_clip_val=CLIP, callbacks=[watch]).fit(module, datamodule=data)
        return Work(len(data.train_rows), watch.losses)

    def theirs(self, meter: Meter, same_batches: bool = False) -> Work:
        """With TRL, in its own random order, or with the very batches of `ours`."""
        from datasets import Dataset
        from trl.trainer.reward_config import RewardConfig
        from trl.trainer.reward_trainer import RewardTrainer

        losses: list[float] = []

        class Recorded(RewardTrainer):
            def compute_loss(self, *args: Any, **options: Any) -> Any:
                loss = super().compute_loss(*args, **options)
                losses.append(float(loss.detach()))
                return loss

        data = self.data()
        order = [i for batch in data.train_dataloader().batch_sampler for i in batch]  # type: ignore[union-attr]
        rows = [data.train_rows[i] for i in order]
        dataset = Dataset.from_dict(
            {"chosen_ids": [r.prompt + r.chosen for r in rows], "rejected_ids": [r.prompt + r.rejected for r in rows]}
        )
        config = RewardConfig(
            output_dir=self.folder, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LR,
            adam_beta2=0.95, weight_decay=0.0, max_grad_norm=CLIP, max_length=None, seed=0,
            train_sampling_strategy="sequential" if same_batches else "random", **COMMON,
        )  # fmt: skip
        with quietly():
            trainer = Recorded(
                scalar(self.model), config, train_dataset=dataset,
                processing_class=AutoTokenizer.from_pretrained(self.model), callbacks=[MeteredByTRL(meter)],
            )  # fmt: skip
            trainer.train()
        return Work(len(rows), losses)

    def parity(self, ours: Work, theirs: Work) -> tuple[float, dict[str, Any]]:
        """Largest difference between the loss curves over identical batches; one more run of TRL."""
        meter = Seconds()
        same = self.theirs(meter, same_batches=True)
        difference = max(abs(a - b) for a, b in zip(ours.curve, same.curve, strict=True))
        curves = {"ours": ours.curve, "peer": same.curve}
        return difference, {"curves": curves, "peer_rate_same_batches": same.amount / meter.cost}


def comparisons(bench: Bench) -> list[Comparison]:
    """The rows ``rm_short`` and ``rm_hh``; the latter only where there are real pairs."""

    def compare(id: str, what: str, at_least: float, task: RewardTraining) -> Comparison:
        return Comparison(id, what, TRL, at_least, task.ours, task.theirs, task.parity, id, needs="trl")

    trl = str(bench.folder / "trl")
    short = RewardTraining(bench.model("scalar"), bench.short_pairs, trl)
    found = [compare("rm_short", "reward-model training, short independent texts, pairs/s", 2.8, short)]
    if bench.hh_files:
        real = RewardTraining(bench.model("scalar_hh"), bench.hh_pairs, trl)
        found.append(compare("rm_hh", "reward-model training, HH-RLHF (long shared prompts), pairs/s", 3.5, real))
    return found
