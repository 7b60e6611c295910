"""Policy optimisation against any `Reward`: PPO, and with other advantages RLOO and REINFORCE."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions, PromptBatch
from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.data.options import restored
from lit_rlhf.data.preparation import View
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.functional import ppo_value_loss
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import check_embeddings, export
from lit_rlhf.networks.finite import leave_out
from lit_rlhf.networks.module import NetworkModule
from lit_rlhf.networks.optimizer import Optimizer, total_steps
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.networks.sharding import clip_gradients, gathered, in_parts, named_weights
from lit_rlhf.networks.together import failing_together, from_all, processes, rows_of_mine
from lit_rlhf.policy.actor_critic import ActorCritic, SharedTrunk
from lit_rlhf.policy.advantages import GAE, Advantages
from lit_rlhf.policy.checks import check_options, check_training, check_vocabulary
from lit_rlhf.policy.demonstrations import Demonstrations
from lit_rlhf.policy.diagnostics import example_rows, measured, trajectory_metrics
from lit_rlhf.policy.kl import KLPenalty
from lit_rlhf.policy.losses import policy_loss, ratio
from lit_rlhf.policy.minibatches import Part, added, assembled, averaged, minibatches
from lit_rlhf.policy.rollout import complete, seeded_generator, sequences_of_all, set_state
from lit_rlhf.policy.settings import PPOSettings
from lit_rlhf.policy.stopwatch import Stopwatch
from lit_rlhf.policy.trajectory import Trajectory
from lit_rlhf.rewards.python import RewardOrFunction, as_reward


class PPOModule(NetworkModule):
    """PPO: sample, reward, estimate advantages, update; one iteration is one ``training_step``.

    So every checkpoint falls between two iterations and resumes exactly, and the Trainer's steps (``max_steps``,
    logging, checkpoints) count iterations. Without ``lora``, policy, critic and reference are networks of their own;
    with it they share one trunk. W processes train as one with W times the prompts and minibatches, under DDP, or under
    FSDP and FSDP2, which split each network and gather the policy once per rollout, and then the reward.

    Args:
        policy: Hugging Face directory that the policy starts from, usually that of the SFT policy.
        reward: What the policy is trained for.
        critic: Directory that the critic starts from, usually the reward model's. None starts it from the policy's
            body with a fresh head.
        reference: Directory of the frozen reference; None takes the policy's. Rounds of optimisation name the SFT
            policy here; with ``lora`` its weights are the trunk, and the policy is one that was trained on it.
        judge: A reward that is only measured and logged, such as the true one of a synthetic world.
        sampling: How responses are drawn; keep ``top_p`` at 1 in training.
        settings: The numbers of PPO.
        advantages: `GAE` with a critic; `LeaveOneOut` makes it RLOO, `MovingBaseline` and `NoBaseline` REINFORCE.
        kl: The penalty for leaving the reference.
        lora: Train low-rank adapters: policy, reference and critic then share one frozen trunk, and so do reward
            models that were trained with adapters on the same weights.
        demonstrations: What the policy goes on to learn beside its reward.
        optimizer: Learning rate and schedule of the policy.
        critic_lr: Learning rate of the critic.
        seed: Of the sampled responses.
        renderer: How text becomes tokens; None takes the policy's own tokenizer and chat template.
    """

    view: View = "prompts"

    def __init__(
        self,
        policy: str,
        reward: RewardOrFunction,
        critic: str | None = None,
        reference: str | None = None,
        judge: RewardOrFunction | None = None,
        sampling: Sampling | None = None,
        settings: PPOSettings | None = None,
        advantages: Advantages | None = None,
        kl: KLPenalty | None = None,
        lora: LoRA | None = None,
        demonstrations: Demonstrations | None = None,
        optimizer: Optimizer | None = None,
        critic_lr: float = 5e-5,
        seed: int = 0,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(policy, renderer)
        reward, judge = as_reward(reward), None if judge is None else as_reward(judge)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.strict_loading = False  # frozen networks are not in the checkpoints: they come from their directories
        self.reference_path, self.critic_path = reference or policy, critic
        self.reward, self.judge = reward, judge
        self.demonstrations: Demonstrations | None = restored(demonstrations)
        self.sampling = restored(sampling, Sampling) or Sampling()
        self.settings = restored(settings, PPOSettings) or PPOSettings()
        self.advantages: Advantages = restored(advantages) or GAE()
        self.kl, self.lora = restored(kl, KLPenalty) or KLPenalty(), restored(lora, LoRA)
        self.kl_coefficient, self.seed = self.kl.coefficient, seed
        self.optimizer = restored(optimizer, Optimizer) or Optimizer(lr=1e-5, schedule="constant", warmup=0.0)
        self.critic_lr = critic_lr
        self.stopwatch = Stopwatch()
        self.networks: ActorCritic | None = None
        check_options(self.lora, critic, self.settings, self.advantages)

    def configure_model(self) -> None:
        """Load policy, reference, critic and rewards; called by the Trainer, again on resume."""
        if self.networks is not None:
            return
        with self.building():
            self._build()
        self.split_all()
        if self.demonstrations is not None:
            self.demonstrations.load(self.tokenizer, self.renderer)
        # All processes have the same numbers, those of one process that would do everything.
        self.generator = seeded_generator(self._root_device, "ppo", self.seed, 0)

    def _build(self) -> None:
        """Load the networks, each of its own or on one trunk."""
        with_critic = self.advantages.needs_critic
        if self.lora is not None:
            self.networks = SharedTrunk(self.path, self.reference_path, self.lora, with_critic)
        else:
            self.networks = ActorCritic(self.path, self.reference_path)
        for reward in filter(None, (self.reward, self.judge)):
            reward.load(self.renderer, self.networks.reference_fingerprint)
        check_embeddings(self.networks.policy.model, self.renderer, self.path)
        check_vocabulary(self.renderer, self.reference_path, "reference")
        if isinstance(self.networks, SharedTrunk):
            self.networks.lend(self.reward)
        elif with_critic:
            check_vocabulary(self.renderer, self.critic_path or self.path, "critic")
            scale = self.reward.critic_scale(self.critic_path) if self.critic_path else 1.0
            critic = self.networks.add_critic(self.critic_path or self.path, scale)
            check_embeddings(critic.model, self.renderer, critic.path)

    def on_fit_start(self) -> None:
        """Refuse what would train on wrong numbers."""
        check_training(self.sampling, self.trainer)

    def configure_optimizers(self) -> Any:
        """One optimiser, two groups: policy and critic learn at their own rates."""
        assert self.networks is not None
        groups = [{"params": self.networks.policy_parameters(), "lr": self.optimizer.lr}]
        if self.advantages.needs_critic:
            groups.append({"params": self.networks.critic_parameters(), "lr": self.critic_lr})
        return self.optimizer.build(groups, total_steps(self.trainer))

    # ------------------------------------------------------------------ one iteration

    def forward(self, batch: PromptBatch) -> Completions:
        """Sample a response to each prompt."""
        assert self.networks is not None
        return complete(self.networks.policy, batch, self.renderer, self.sampling, self.generator)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Any]:
        """One iteration: rollout, reward, advantages, a few epochs of minibatches.

        Callbacks get ``metrics`` by name, and the first few responses as ``examples``, see `example_rows`.
        """
        assert self.networks is not None
        iteration, policy, samples = self.trainer.global_step, self.networks.policy, self.advantages.samples
        with self.stopwatch.timed("sampling", self.device):
            completions = complete(policy, batch, self.renderer, self.sampling, self.generator, samples, together=True)
        self.stopwatch.add("generated_tokens", int(completions.sequences.response_length[: completions.counted].sum()))
        self.examples = []
        try:
            with self.stopwatch.timed("scoring", self.device):
                trajectory = self.evaluate(completions)
        except NotFiniteError as error:
            leave_out(self, error)
            return {"metrics": {}, "examples": []}
        trajectory.with_advantages(self.advantages, self.kl, self.kl_coefficient, self.settings.whiten)
        metrics = measured(completions, self.reward, self.judge)
        mine = rows_of_mine(completions.counted, self.device)
        if not completions.idle:
            self.examples = example_rows(completions, self.reward, self.judge, 4, trajectory[mine], self.renderer)
        policy_learns = iteration >= self.settings.critic_warmup
        with self.stopwatch.timed("update", self.device):
            metrics |= trajectory_metrics(trajectory) | self.update(trajectory, policy_learns)
        metrics["kl_coefficient"] = torch.tensor(self.kl_coefficient)
        if policy_learns:  # before, it has no KL to be steered by
            self.kl_coefficient = self.kl.adapted(self.kl_coefficient, float(metrics["kl"]), len(trajectory))
        if self.settings.refresh_reference and (iteration + 1) % self.settings.refresh_reference == 0:
            self.networks.refresh_reference()
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=len(batch))
        self.log_dict({"reward": metrics["reward"], "kl": metrics["kl"]}, prog_bar=True, logger=False)
        return {"metrics": metrics, "examples": self.examples}

    @torch.no_grad()
    def evaluate(self, completions: Completions) -> Trajectory:
        """Rewards, log-probabilities and values of sampled responses, in the minibatches of the first epoch.

        The same rows in the same shapes give the same numbers: the first minibatch's ratio is exactly 1. From this
        process's responses comes the rollout of all processes: it is small beside the weights.
        """
        assert self.networks is not None
        with gathered(self.reward), failing_together(self.device):
            own = self.reward(completions)[: completions.counted]
        rewards, sequences, temperature = from_all(own), sequences_of_all(completions), self.sampling.temperature
        found: dict[str, list[Tensor | None]] = {"logprobs": [], "reference_logprobs": [], "values": []}
        mine = [part for parts in self._minibatches(torch.arange(len(sequences), device=self.device)) for part in parts]
        for part in mine:
            rows = sequences[part.rows]
            logprobs, values, _ = self.networks.outputs(rows, temperature, self.advantages.needs_critic, entropy=False)
            outputs = logprobs, self.networks.reference_logprobs(rows, temperature), values
            for column, output in zip(found.values(), outputs, strict=True):
                column.append(output)
        everywhere = {name: assembled(mine, column, rewards.shape[1]) for name, column in found.items()}
        return Trajectory(sequences=sequences, mask=sequences.response_mask, rewards=rewards, **everywhere)  # type: ignore[arg-type]

    def update(self, trajectory: Trajectory, policy_learns: bool = True) -> dict[str, Tensor]:
        """A few epochs of minibatches; returns the means of their metrics.

        Args:
            trajectory: Of all processes, with advantages.
            policy_learns: Whether the policy learns, or the critic alone.
        """
        collected: list[dict[str, Tensor]] = []
        for epoch in range(self.settings.epochs):
            rows = torch.arange(len(trajectory), device=self.device)
            if epoch > 0:
                rows = torch.randperm(len(trajectory), generator=self.generator, device=self.device)
            cut = self._minibatches(rows)
            for number, parts in enumerate(cut, 1):
                last = epoch + 1 == self.settings.epochs and number == len(cut)
                collected.append(self._step(trajectory, parts, policy_learns, last))
        self.lr_schedulers().step()  # type: ignore[union-attr]
        return averaged(collected)

    def _minibatches(self, rows: Tensor) -> list[list[Part]]:
        return minibatches(rows, self.settings.minibatch_size, self.settings.micro_batch_size)

    def losses(self, batch: Trajectory, weight: Tensor, policy_learns: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's part of a minibatch, and its parts; a policy that does not learn has none.

        Their means over the processes are those of the minibatch, for which ``weight`` is `Part.weight`.
        """
        assert self.networks is not None
        s = self.settings
        logprobs, values, entropies = self.networks.outputs(
            batch.sequences, self.sampling.temperature, batch.values is not None, bool(s.entropy_bonus)
        )
        loss, parts = policy_loss(batch, logprobs, entropies, s, self.kl, self.kl_coefficient)
        loss = weight * loss
        if not policy_learns:  # of several processes, each waits for the others' gradients of all weights
            loss = torch.zeros_like(loss) if processes() == 1 else 0.0 * loss
        if values is not None and batch.values is not None:
            assert batch.returns is not None
            parts["value_loss"] = ppo_value_loss(values, batch.values, batch.returns, batch.mask, s.value_clip)
            loss = loss + weight * s.value_coefficient * parts["value_loss"]
        moved = ratio(batch, logprobs)
        found = {name: weight * part for name, part in parts.items()}
        extremes = {"ratio_max": moved.max(), "ratio_min": moved.min()}
        return loss, {name: part.detach() for name, part in found.items()} | extremes

    def _step(self, trajectory: Trajectory, parts: list[Part], policy_learns: bool, last: bool) -> dict[str, Tensor]:
        """One step of the optimiser; returns the minibatch's figures, and the gradients' norms before clipping."""
        assert self.networks is not None
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        found, beside = [], {}
        for part in parts:
            loss, figures = self.losses(trajectory[part.rows], part.weight(trajectory.mask), policy_learns)
            if self.demonstrations is not None and policy_learns and not found:
                beside["demonstration_loss"] = self.demonstrations.loss(self.networks.policy, self.generator)
                loss = loss + beside["demonstration_loss"]
            with self.adding_up(part is not parts[-1]):
                self.manual_backward(loss)
            found.append(figures)
        groups = {"policy": self.networks.policy_parameters(), "critic": self.networks.critic_parameters()}
        if not policy_learns:
            for parameter in groups["policy"]:
                parameter.grad = None  # a trunk that is shared has some from the critic's loss
        limit = self.settings.max_grad_norm or torch.inf
        norms = {f"{name}_grad_norm": clip_gradients(each, limit) for name, each in groups.items() if each}
        if last:
            optimizer.step()  # counted by the Trainer: its steps are iterations
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, closure=lambda: None)
        return added(found) | {name: part.detach() for name, part in beside.items()} | norms

    # ------------------------------------------------------------------ measuring

    @torch.no_grad()
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Answer unseen prompts, with the same random numbers every time, and measure the answers."""
        assert self.networks is not None
        generator = seeded_generator(self.device, "validation", self.seed, batch_idx)
        completions = complete(self.networks.policy, batch, self.renderer, self.sampling, generator, together=True)
        sequences, temperature = completions.sequences, self.sampling.temperature
        logprobs = self.networks.logprobs(sequences, temperature)
        difference = logprobs - self.networks.reference_logprobs(sequences, temperature)
        kl = from_all(difference.masked_fill(~sequences.response_mask, 0.0).sum(1)[: completions.counted]).mean()
        found = {"kl": kl, **measured(completions, self.reward.proxy, self.judge)}  # no baselines of unseen prompts
        counted = self.total(batch.counted)  # the same figures everywhere
        named = {f"{self.part}/{name}": value for name, value in found.items()}
        self.log_dict(named, batch_size=counted, sync_dist=True)

    test_step = validation_step

    # ------------------------------------------------------------------ checkpoints and hand-over

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen networks out; remember what they were, and all that moves beside the weights.

        Lightning's callbacks that average weights need them all when they load, and so does a checkpoint in parts.
        """
        frozen = {name for name, each in named_weights(self).items() if not each.requires_grad}
        weights = checkpoint["state_dict"]
        if "averaging_state" not in checkpoint and not in_parts(weights):
            checkpoint["state_dict"] = {name: value for name, value in weights.items() if self._kept(name, frozen)}
        state = {"kl_coefficient": self.kl_coefficient, "advantages": self.advantages.state_dict()}
        checkpoint["ppo"] = {"generator": self.generator.get_state(), **state, **self._identity()}

    def _kept(self, name: str, frozen: set[str]) -> bool:
        if name.startswith(("reward.", "judge.")):
            return name.rpartition(".")[2].startswith("running_")  # what wrappers have seen so far
        if name.startswith("networks.reference."):
            return self.settings.refresh_reference > 0
        return name not in frozen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same random numbers; refuse another reward or reference, except for measuring."""
        if not self.is_training:
            return
        saved = checkpoint["ppo"]
        for what, mine in self._identity().items():
            if saved[what] != mine:
                hint = "Resume with the same model options, or start a new run."
                raise DataError(
                    f"the checkpoint was written with {what} {saved[what]!r}, now it is {mine!r}", hint=hint
                )
        set_state(self.generator, saved["generator"])
        self.kl_coefficient = saved["kl_coefficient"]
        self.advantages.load_state_dict(saved["advantages"])

    def _identity(self) -> dict[str, str]:
        """What a resumed run must have in common with the one before."""
        assert self.networks is not None
        return {
            "reference": self.networks.reference_fingerprint,
            "reward": self.reward.fingerprint,
            "estimator": f"{type(self.advantages).__name__} of {self.advantages.samples}",
            "lora": "none" if self.lora is None else str(asdict(self.lora)),
            "demonstrations": "none" if self.demonstrations is None else self.demonstrations.fingerprint,
        }

    def export(self, directory: str | os.PathLike[str]) -> Path:
        """Write the policy as a Hugging Face directory that plain transformers loads; adapters are merged into it.

        They lie in its folder ``adapters`` as well, for a later training on the same trunk.
        """
        assert self.networks is not None
        also = self.networks.save_adapters if isinstance(self.networks, SharedTrunk) else None
        return export(merged(self.networks.policy.model), self.renderer, directory, also)
