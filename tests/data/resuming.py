"""A run that is stopped between two steps, and goes on from what it wrote there."""

from contextlib import suppress
from pathlib import Path

import torch
from lightning import LightningModule, Trainer

from lit_rlhf.data.datamodule import PreferenceDataModule


class Learner(LightningModule):
    """Learns nothing and remembers the rows that it was given."""

    def __init__(self, tokenizer: str, view: str) -> None:
        super().__init__()
        self.tokenizer, self.view = tokenizer, view
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[str] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(" | ".join(record.prompt[0].content for record in batch.records))
        return 0.0 * self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def batches_of_a_run(
    module: Learner, data: PreferenceDataModule, checkpoint: Path | None = None, stop: tuple[int, Path] | None = None
) -> list[str]:
    """The prompts of every batch of two epochs; from a checkpoint on, or up to a step, after which one is written."""
    data.view, data.tokenizer = module.view, module.tokenizer
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    if stop is not None:

        def save_and_stop(*step):
            if trainer.global_step == stop[0]:
                trainer.save_checkpoint(stop[1])
                raise KeyboardInterrupt

        module.on_train_batch_end = save_and_stop
    with suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return module.seen
