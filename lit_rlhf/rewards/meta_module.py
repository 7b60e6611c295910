"""MetaRM: a reward model that goes on telling responses of a moving policy apart."""

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import Parameter

from lit_rlhf.data.batches import PairBatch, Sequences
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import positions
from lit_rlhf.networks.optimizer import Optimizer, check_precision
from lit_rlhf.networks.sharding import clip_gradients, total_norm
from lit_rlhf.networks.together import processes, rank, weight_among_all
from lit_rlhf.rewards.samples import PolicySamples, mean_difference
from lit_rlhf.rewards.scalar_module import ScalarRewardModule


class MetaRewardModule(ScalarRewardModule):
    """Reward model whose preference gradient is taken where it tells policy samples apart better.

    Each step moves the parameters up the gradient of the difference loss J on samples of the current policy,
    θ' = θ + η ∇J(θ), takes the gradient of the preference loss on the original pairs at θ', goes back to θ, and lets
    the optimiser apply that gradient there: the first-order form. One copy of the trainable parameters is held
    meanwhile. The Trainer must not clip gradients; ``max_grad_norm`` does.

    Source: Dou et al. 2024, "MetaRM: Shifted Distributions Alignment via Meta-Learning" (arXiv 2405.00438),
    algorithm 1, with η = 5e-6, five samples per prompt and batches of 16 at 7B parameters.

    Args:
        model: Scalar model's directory to go on with, or a language model's.
        samples: Folder of samples from the current policy, which a ``predict`` run of ``BaselineModule`` wrote.
        optimizer: Learning rate and schedule of the outer step.
        lora: Train low-rank adapters instead of all weights; the inner step moves them alone.
        inner_lr: η. A plain step of the paper's size hardly moves a small model.
        inner_step: What η multiplies: ``plain`` the gradient, ``unit`` the gradient scaled to length 1, ``relative``
            that times the length of the parameters, so that η is the share by which they move.
        inner_batch_size: Prompts per process whose samples make one inner step.
        max_grad_norm: Clipping of the outer gradient; 0 turns it off.
        seed: Of the order of the samples.
        max_length: Most tokens of a sample's prompt and response; None takes as many as the model has positions for.
        renderer: How text becomes tokens; None takes the model's own tokenizer and chat template.
    """

    def __init__(
        self,
        model: str,
        samples: str,
        optimizer: Optimizer | None = None,
        lora: LoRA | None = None,
        inner_lr: float = 5e-6,
        inner_step: Literal["plain", "unit", "relative"] = "plain",
        inner_batch_size: int = 16,
        max_grad_norm: float = 1.0,
        seed: int = 0,
        max_length: int | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(model, optimizer, lora, renderer=renderer)
        self.automatic_optimization = False
        self.samples_path, self.inner_lr, self.inner_batch_size, self.seed = samples, inner_lr, inner_batch_size, seed
        self.inner_step: Literal["plain", "unit", "relative"] = inner_step
        self.max_grad_norm, self.max_length = max_grad_norm, max_length
        self.samples: PolicySamples | None = None

    def on_fit_start(self) -> None:
        """Refuse scaled gradients, whose inner step and clipping would be others; read and tokenise the samples."""
        check_precision(self.trainer)
        together = self.inner_batch_size * processes()
        longest = self.max_length or positions(self.network.model) or 10**9  # type: ignore[union-attr]
        self.samples = PolicySamples(self.samples_path, self.renderer, together, longest, self.seed)
        told = f"samples: {len(self.samples.prompts):,} prompts, {self.samples.alike:,} left out with one response only"
        rank_zero_info(told)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what the samples were made from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["samples"] = Store(self.samples_path).key

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other samples; measuring and exporting need none."""
        super().on_load_checkpoint(checkpoint)
        if self.is_training:
            Store(self.samples_path).check(checkpoint["samples"])

    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Tensor]:
        """Move up J, take the preference gradient there, move back, apply it; callbacks get ``difference``, J, too."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        before, difference = self._move_up()
        loss, chosen, rejected = self.training_loss(batch)
        self.manual_backward(loss)
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)
        if self.max_grad_norm:
            clip_gradients(self._trained, self.max_grad_norm)
        optimizer.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log_training(loss, chosen, rejected, batch)
        self.log("train/difference", difference, batch_size=len(batch), sync_dist=True)
        scores = {"chosen": chosen.detach(), "rejected": rejected.detach()}
        return {"loss": loss.detach(), "difference": difference, **scores}

    def _move_up(self) -> tuple[list[tuple[Parameter, Tensor]], Tensor]:
        """The inner step; returns the parameters with their values before it, and J."""
        sequences, counts, weight = self._own_samples()
        difference = mean_difference(self.network(sequences.to(self.device)), counts)  # type: ignore[misc]
        difference = difference * weight_among_all(weight, self.device)
        self.manual_backward(difference)
        moved = [parameter for parameter in self.parameters() if parameter.grad is not None]
        with torch.no_grad():
            rate = self.inner_lr * self._scale()
            before = [(parameter, parameter.detach().clone()) for parameter in moved]
            for parameter in moved:
                parameter.add_(rate * parameter.grad)  # type: ignore[operator]
                parameter.grad = None
        return before, difference.detach()

    def _own_samples(self) -> tuple[Sequences, list[int], int]:
        """This process's part of the step's samples, the number of each prompt's, and how many prompts count."""
        sequences, counts = self.samples.batch(self.global_step)  # type: ignore[union-attr]
        first, end = (len(counts) * each // processes() for each in (rank(), rank() + 1))
        begin, stop = (first, end) if end > first else (0, 1)  # without prompts of its own it takes part with another's
        rows = slice(sum(counts[:begin]), sum(counts[:stop]))
        return sequences[rows] if processes() > 1 else sequences, counts[begin:stop], end - first

    def _scale(self) -> Tensor | float:
        """The factor for the inner step, from the parameters and their gradients of ∇J."""
        if self.inner_step == "plain":
            return 1.0
        length = total_norm(self._trained).clamp(min=1e-12)
        return (total_norm(self._trained, gradients=False) if self.inner_step == "relative" else 1.0) / length

    @property
    def _trained(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]
