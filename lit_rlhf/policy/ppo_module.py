"""Proximal policy optimisation against any `Reward`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lit_rlhf.data.batches import Completions, PromptBatch
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import ppo_policy_loss, ppo_value_loss
from lit_rlhf.networks.backbone import export, fingerprint
from lit_rlhf.networks.optimizer import Optimizer, total_steps
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy.diagnostics import completion_metrics, example_rows, reward_diagnostics, trajectory_metrics
from lit_rlhf.policy.rollout import complete, seeded_generator
from lit_rlhf.policy.trajectory import Trajectory
from lit_rlhf.rewards.reward import Reward

FROZEN = ("reference.", "reward.", "judge.")


@dataclass
class PPOSettings:
    """The numbers of PPO.

    Attributes:
        kl_coefficient: β of the per-token penalty −β(log π − log π_ref).
        epochs: Passes over each rollout.
        minibatch_size: Responses per optimiser step.
        clip: Of the probability ratio.
        value_clip: Of the critic's move, in units of value.
        gamma: Discount.
        lam: λ of generalised advantage estimation.
        whiten: Whether advantages get mean 0 and standard deviation 1 over the rollout.
        max_grad_norm: Gradient clipping, of policy and critic separately; 0 turns it off.
        truncation_penalty: Taken off the last token of responses that reached the length limit without ending.
    """

    kl_coefficient: float = 0.05
    epochs: int = 1
    minibatch_size: int = 16
    clip: float = 0.2
    value_clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    max_grad_norm: float = 1.0
    truncation_penalty: float = 0.0


class PPOModule(LightningModule):
    """PPO: sample, reward, estimate advantages, update; one iteration is one ``training_step``.

    So every checkpoint falls between two iterations and resumes exactly, and the Trainer's steps (``max_steps``,
    logging, checkpoints) count iterations. Policy, critic, reference and reward are separate networks here.

    Args:
        policy: Hugging Face directory of the SFT policy; the frozen reference is loaded from it as well.
        reward: What the policy is trained for.
        critic: Directory that the critic starts from, usually the reward model's. None starts it from the policy's
            body with a fresh head.
        judge: A reward that is only measured and logged, such as the true one of a synthetic world.
        sampling: How responses are drawn; keep ``top_p`` at 1 in training.
        settings: The numbers of PPO.
        optimizer: Learning rate and schedule of the policy.
        critic_lr: Learning rate of the critic.
        seed: Of the sampled responses.
    """

    view: View = "prompts"

    def __init__(
        self,
        policy: str,
        reward: Reward,
        critic: str | None = None,
        judge: Reward | None = None,
        sampling: Sampling | None = None,
        settings: PPOSettings | None = None,
        optimizer: Optimizer | None = None,
        critic_lr: float = 5e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["reward", "judge"])
        self.automatic_optimization = False
        self.strict_loading = False  # frozen networks are not in the checkpoints: they come from their directories
        self.path, self.critic_path, self.critic_lr, self.seed = policy, critic, critic_lr, seed
        self.reward, self.judge = reward, judge
        self.sampling, self.settings = sampling or Sampling(), settings or PPOSettings()
        self.optimizer = optimizer or Optimizer(lr=1e-5, schedule="constant", warmup=0.0)
        self.policy: PolicyNetwork | None = None
        self.examples: list[dict[str, Any]] = []

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer comes from unless the data name one."""
        return self.path

    @property
    def renderer(self) -> Renderer:
        """The data's way from text to ids."""
        return self.trainer.datamodule.renderer  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Load policy, reference, critic and rewards; called by the Trainer, again on resume."""
        if self.policy is not None:
            return
        # Policy and critic keep the evaluation mode that loading leaves them in: dropout would make the ratio noisy.
        self.policy = PolicyNetwork(self.path)
        self.reference = PolicyNetwork(self.path).requires_grad_(False).eval()
        self.reference_fingerprint = fingerprint(self.reference)
        for reward in filter(None, (self.reward, self.judge)):
            reward.load(self.renderer, self.reference_fingerprint)
        scale = self.reward.critic_scale(self.critic_path) if self.critic_path else 1.0
        self.critic = RewardNetwork(self.critic_path or self.path, scale)
        self.generator = seeded_generator(self.trainer.strategy.root_device, "ppo", self.seed, self.global_rank)

    def configure_optimizers(self) -> Any:
        """One optimiser, two groups: policy and critic learn at their own rates."""
        groups = [
            {"params": list(self.policy.parameters()), "lr": self.optimizer.lr},  # type: ignore[union-attr]
            {"params": list(self.critic.parameters()), "lr": self.critic_lr},
        ]
        return self.optimizer.build(groups, total_steps(self.trainer))

    # ------------------------------------------------------------------ one iteration

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """One iteration: rollout, reward, advantages, a few epochs of minibatches."""
        completions = complete(self.policy, batch, self.renderer, self.sampling, self.generator)  # type: ignore[arg-type]
        trajectory = self.evaluate(completions)
        s = self.settings
        trajectory.with_advantages(s.kl_coefficient, s.gamma, s.lam, s.whiten)
        metrics = completion_metrics(completions, self.reward.proxy, self.judge)
        metrics |= reward_diagnostics(completions, self.reward)
        self.examples = example_rows(completions, self.reward, self.judge, 4, trajectory, self.renderer)
        metrics |= trajectory_metrics(trajectory) | self.update(trajectory)
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=len(batch))
        self.log_dict({"reward": metrics["reward"], "kl": metrics["kl"]}, prog_bar=True, logger=False)

    @torch.no_grad()
    def evaluate(self, completions: Completions) -> Trajectory:
        """Rewards, log-probabilities and values of sampled responses, in the minibatches of the first epoch.

        The same rows in the same shapes give the same numbers: the first minibatch's ratio is exactly 1.
        """
        sequences = completions.sequences
        rewards = self.reward(completions)
        if self.settings.truncation_penalty:
            last = sequences.response_length[:, None] - 1
            penalty = self.settings.truncation_penalty * completions.truncated[:, None].float()
            rewards = rewards.scatter_add(1, last, -penalty)
        width = rewards.shape[1]
        parts: dict[str, list[Tensor]] = {"logprobs": [], "reference_logprobs": [], "values": []}
        for rows in self._slices(len(sequences)):
            part = sequences[rows]
            parts["logprobs"].append(self.policy(part, self.sampling.temperature))  # type: ignore[misc]
            parts["reference_logprobs"].append(self.reference(part, self.sampling.temperature))
            parts["values"].append(self.critic(part, values=True))
        padded = {
            name: torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in part])
            for name, part in parts.items()
        }
        return Trajectory(sequences=sequences, mask=sequences.response_mask, rewards=rewards, **padded)

    def update(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """A few epochs of minibatches; returns the means of their metrics."""
        collected: list[dict[str, Tensor]] = []
        for epoch in range(self.settings.epochs):
            rows = torch.arange(len(trajectory), device=self.device)
            if epoch > 0:
                rows = torch.randperm(len(trajectory), generator=self.generator, device=self.device)
            for part in self._slices(len(trajectory)):
                last = epoch + 1 == self.settings.epochs and part.stop >= len(trajectory)
                collected.append(self._minibatch(trajectory[rows[part]], last))
        self.lr_schedulers().step()  # type: ignore[union-attr]
        means = {name: torch.stack([each[name] for each in collected]).mean() for name in collected[0]}
        return {**means, "first_ratio": collected[0]["ratio_max"]}

    def _minibatch(self, batch: Trajectory, last: bool) -> dict[str, Tensor]:
        s = self.settings
        logprobs = self.policy(batch.sequences, self.sampling.temperature)  # type: ignore[misc]
        values = self.critic(batch.sequences, values=True)
        policy_loss = ppo_policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask, s.clip)  # type: ignore[arg-type]
        value_loss = ppo_value_loss(values, batch.values, batch.returns, batch.mask, s.value_clip)  # type: ignore[arg-type]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(policy_loss + value_loss)
        limit = s.max_grad_norm or torch.inf
        norms = [clip_grad_norm_(network.parameters(), limit) for network in (self.policy, self.critic)]  # type: ignore[union-attr]
        if last:
            optimizer.step()  # counted by the Trainer: its steps are iterations
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, closure=lambda: None)
        with torch.no_grad():
            ratio = (logprobs - batch.logprobs)[batch.mask].exp()
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "clip_fraction": ((ratio - 1).abs() > s.clip).float().mean(),
            "ratio_max": ratio.max(),
            "policy_grad_norm": norms[0],
            "critic_grad_norm": norms[1],
        }

    def _slices(self, rows: int) -> list[slice]:
        size = self.settings.minibatch_size
        return [slice(i, i + size) for i in range(0, rows, size)]

    # ------------------------------------------------------------------ measuring

    @torch.no_grad()
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Answer unseen prompts, with the same random numbers every time, and measure the answers."""
        generator = seeded_generator(self.device, "validation", self.seed, batch_idx)
        completions = complete(self.policy, batch, self.renderer, self.sampling, generator)  # type: ignore[arg-type]
        sequences, temperature = completions.sequences, self.sampling.temperature
        difference = self.policy(sequences, temperature) - self.reference(sequences, temperature)  # type: ignore[misc]
        kl = difference.masked_fill(~sequences.response_mask, 0.0).sum(1).mean()
        metrics = {"kl": kl, **completion_metrics(completions, self.reward.proxy, self.judge)}
        metrics |= reward_diagnostics(completions, self.reward.proxy)  # unseen prompts have no stored data
        logged = {f"val/{name}": value for name, value in metrics.items()}
        self.log_dict(logged, batch_size=len(batch), sync_dist=True)

    test_step = validation_step

    # ------------------------------------------------------------------ checkpoints and hand-over

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen networks out; remember what they were, and the random numbers' state."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in weights.items() if not name.startswith(FROZEN)}
        checkpoint["ppo"] = {"generator": self.generator.get_state(), **self._identity()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same random numbers; refuse another reward or reference."""
        saved = checkpoint["ppo"]
        for what, mine in self._identity().items():
            if saved[what] != mine:
                hint = "Resume with the same model options, or start a new run."
                raise DataError(
                    f"the checkpoint was written with {what} {saved[what]!r}, now it is {mine!r}", hint=hint
                )
        self.generator.set_state(saved["generator"].cpu())

    def _identity(self) -> dict[str, str]:
        return {"reference": self.reference_fingerprint, "reward": self.reward.fingerprint}

    def export(self, directory: str | os.PathLike[str], renderer: Renderer) -> Path:
        """Write the policy as a Hugging Face directory that plain transformers loads."""
        return export(self.policy.model, renderer, directory)  # type: ignore[union-attr]
