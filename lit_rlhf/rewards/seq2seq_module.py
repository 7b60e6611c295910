"""Training a model that rewrites a response into the preferred one."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Record
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import seq2seq_token_rewards
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import export, positions
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.rewriter import Rewriter, Rewriting, correction_marker
from lit_rlhf.rewards.adapted import AdaptedModule
from lit_rlhf.rewards.metrics import PairwiseAccuracy
from lit_rlhf.rewards.pair_metrics import PairMetrics


class Seq2SeqRewardModule(AdaptedModule):
    """Learns to correct: from (prompt, rejected) to chosen, and from (prompt, chosen) to chosen, which it leaves alone.

    The loss is the mean negative log-likelihood of the target's tokens. In validation, each response is scored by how
    far the model would leave it as it is: by the mean token reward (``val/accuracy``, as `Seq2SeqReward` has it), by
    the share of tokens that match the model's likeliest, and by the log-likelihood per token. Treatments may flip
    labels and leave pairs out; margins and soft labels mean nothing here.

    Source: Zhou et al. 2024, "Sequence to Sequence Reward Modeling" (arXiv 2409.00162); the template and the weights
    are this project's choice.

    Args:
        model: Hugging Face directory or Hub id of a language model or an encoder–decoder (T5, BART); for use with a
            policy, one that shares its tokenizer, such as the SFT policy.
        optimizer: Learning rate and schedule.
        lora: Train low-rank adapters instead of all weights.
        marker: Text between answer and correction, for language models. None takes what the chat template writes before
            an assistant's turn.
        correction_weight: Of the correction examples in the loss.
        identity_weight: Of the identity examples; 0 leaves them out.
        examples: Corrections of rejected validation responses that are written out for reading, greedily.
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.
    """

    def __init__(
        self,
        model: str,
        optimizer: Optimizer | None = None,
        lora: LoRA | None = None,
        marker: str | None = None,
        correction_weight: float = 1.0,
        identity_weight: float = 1.0,
        examples: int = 4,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(model, optimizer, lora, renderer)
        self.save_hyperparameters()
        for option, weight in (("correction_weight", correction_weight), ("identity_weight", identity_weight)):
            if weight < 0:
                raise DataError(f"is {weight}", f"option {option}", "Give 0 or more.")
        if not correction_weight and not identity_weight:
            raise DataError("are both 0", "options correction_weight and identity_weight", "Nothing would be learned.")
        self.marker, self.correction_weight, self.identity_weight = marker, correction_weight, identity_weight
        self.number_of_corrections = examples
        self.network: Rewriter | None = None

    def configure_model(self) -> None:
        """Build the network and its metrics; called by the Trainer, again on resume."""
        if self.network is not None:
            return
        marker = correction_marker(self.renderer, self.marker)
        with self.building():
            self.network = Rewriter(self.path, marker, self.renderer.pad_id).train()
        self.network.model.config.rewriting = {"marker": marker}
        self.adapt(self.network.model)
        if self.lora is not None:
            self.network.model.get_output_embeddings().requires_grad_(False)  # type: ignore[operator]
        self.split(self.network)
        self.scored = PairMetrics()
        self.by_matches, self.by_likelihood = PairwiseAccuracy(), PairwiseAccuracy()
        self.kept, self.copied = PairwiseAccuracy(), PairwiseAccuracy()

    def forward(self, batch: PairBatch) -> Rewriting:
        """How the model rewrites each rejected response into the chosen one."""
        return self.network(batch.rejected, batch.chosen.response_lists())  # type: ignore[misc]

    def on_fit_start(self) -> None:
        """Refuse pairs whose correction would not fit into the model, before any time is spent.

        A loader that is no DataModule of ours is looked at batch by batch.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        for row in [*getattr(data, "train_rows", []), *getattr(data, "val_rows", [])]:
            self._check_length(len(row.prompt), len(row.chosen), len(row.rejected), row.record)
            self._check_label(row.label.margin, row.label.target)

    def _check_length(self, prompt: int, chosen: int, rejected: int, record: Record) -> None:
        assert self.network is not None
        limit = positions(self.network.model)
        needed = self.network.longest(prompt, max(chosen, rejected), chosen)
        if limit is not None and needed > limit:
            where = record.location or "option data.max_length"
            hint = f"Lower data.max_length to {limit // 2}: a correction holds the prompt and two responses."
            raise DataError(f"its correction takes {needed} tokens, the model has {limit} positions", where, hint)

    @staticmethod
    def _check_label(margin: float, target: float) -> None:
        if margin or target != 1:
            hint = "Leave out SoftLabel, EnsembleSoftLabel and AdaptiveMargin; Flip and Slice work."
            raise DataError(
                "a seq2seq reward model knows neither margins nor soft labels", "option data.treatments", hint
            )

    def _check(self, batch: PairBatch) -> None:
        lengths = (batch.chosen.prompt_length, batch.chosen.response_length, batch.rejected.response_length)
        rows = zip(*(each.tolist() for each in lengths), strict=True)
        for record, (prompt, chosen, rejected) in zip(batch.records, rows, strict=True):
            self._check_length(prompt, chosen, rejected, record)
        self._check_label(float(batch.margin.abs().max()), float(batch.target.min()))

    # ------------------------------------------------------------------ the loss

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean negative log-likelihood per target token over correction and identity examples, shared."""
        targets = batch.chosen.response_lists()
        if not self.identity_weight:
            alone: Rewriting = self.network(batch.rejected, targets)  # type: ignore[misc]
            return self._weighted([(self.correction_weight, alone)], batch)
        both: Rewriting = self.network(batch.rejected.joined(batch.chosen), targets * 2)  # type: ignore[misc]
        correction, identity = both[: len(batch)], both[len(batch) :]
        return self._weighted([(self.correction_weight, correction), (self.identity_weight, identity)], batch)

    def _weighted(self, examples: list[tuple[float, Rewriting]], batch: PairBatch) -> Tensor:
        total = sum(weight * torch.where(each.mask, -each.logprobs, 0.0).sum() for weight, each in examples)
        tokens = sum(weight * each.mask.sum() for weight, each in examples)
        mean = torch.as_tensor(total / torch.as_tensor(tokens).clamp(min=1e-8))
        return self.shared(mean, batch, tokens)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        self._check(batch)
        loss = self.loss(batch)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    # ------------------------------------------------------------------ measuring

    def validation_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        """Score both responses of each pair by how far the model would leave them as they are.

        Callbacks get the scores ``chosen`` and ``rejected``, and of the first batch ``corrections``, as texts.
        """
        n, good, bad = len(batch), batch.chosen.response_lists(), batch.rejected.response_lists()
        # The identity examples of the loss are also what tells how far the chosen responses would be left alone.
        asked = batch.chosen.joined(batch.rejected).joined(batch.rejected)
        written: Rewriting = self.network(asked, good + bad + good)  # type: ignore[misc]
        kept = written[: 2 * n]
        examples = [(self.identity_weight, written[:n]), (self.correction_weight, written[2 * n :])]
        self.log(
            f"{self.part}/loss", self._weighted(examples, batch), batch_size=self.total(batch.counted), sync_dist=True
        )
        lengths = kept.mask.sum(1)
        # Whole numbers until the division: equal scores are exactly equal, and count as ties.
        rewards = seq2seq_token_rewards(kept.target, kept.predicted, kept.mask, normalize=False).sum(1) / lengths
        chosen, rejected = rewards.chunk(2)
        self.scored.update(chosen, rejected, batch)
        outputs: dict[str, Any] = {"chosen": chosen, "rejected": rejected}
        if batch_idx == 0 and self.number_of_corrections:
            outputs["corrections"] = self.write_corrections(batch)
        if batch.idle:
            return outputs
        for metric, values in (
            (self.by_matches, kept.matches.sum(1) / lengths),
            (self.by_likelihood, torch.where(kept.mask, kept.logprobs, 0.0).sum(1) / lengths),
        ):
            first, second = values.chunk(2)
            metric.update(first - second)
        for metric, part in ((self.kept, kept[:n]), (self.copied, kept[n:])):
            metric.update(part.matches[part.mask].float() - 0.5)  # one entry per token: the share is a rate
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Log the shares with their intervals."""
        figures = self.scored.figures(self.has_sources)
        figures.pop("calibration_error", None)  # a token score is no log-odds
        shares = {"accuracy_by_matches": self.by_matches, "accuracy_by_likelihood": self.by_likelihood}
        rates = {"match_rate_chosen": self.kept, "copy_rate_rejected": self.copied}
        for name, metric in {**shares, **rates}.items():
            found = metric.compute()
            figures |= {name: found["share"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
            metric.reset()
        self.remember_scores(self.scored.moments(), self.scored.sources)
        self.scored.reset()
        self.log_dict({f"{self.part}/{name}": value for name, value in figures.items() if name != "accuracy"})
        self.log(f"{self.part}/accuracy", figures["accuracy"], prog_bar=True)

    @torch.no_grad()
    def write_corrections(self, batch: PairBatch) -> list[dict[str, Any]]:
        """The first few rejected responses with their corrections, as texts."""
        few = batch.rejected[: self.number_of_corrections]
        limit = positions(self.network.model) or 10**9  # type: ignore[union-attr]
        room = limit - self.network.longest(int(few.prompt_length.max()), int(few.response_length.max()), 0)  # type: ignore[union-attr]
        longest = min(int(batch.chosen.response_length.max()) + 8, room)
        corrections = self.network.correct(few, list(self.renderer.end_ids), longest)  # type: ignore[union-attr]
        texts = [self.renderer.response_text(ids) for ids in corrections]
        return [
            {
                "prompt": record.prompt[-1].content,
                "rejected": self.renderer.response_text(rejected),
                "correction": text,
                "chosen": self.renderer.response_text(chosen),
            }
            for record, rejected, text, chosen in zip(
                batch.records, few.response_lists(), texts, batch.chosen.response_lists(), strict=False
            )
        ]

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    # ------------------------------------------------------------------ hand-over

    def export(self, directory: str | os.PathLike[str]) -> Path:
        """Write a Hugging Face directory; its config remembers the marker."""
        return export(merged(self.network.model), self.renderer, directory, self.save_adapters)  # type: ignore[union-attr]
