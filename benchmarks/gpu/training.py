"""Training under Lightning's Trainer: reward models, and iterations of PPO."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.meter import Steps, forget_peak, matrix_rate, peak_gib, trainer
from benchmarks.gpu.presets import Preset, pairs, prompts, write_policy
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy import PPOModule, PPOSettings
from lit_rlhf.rewards import ScalarReward, ScalarRewardModule


def prepare(folder: Path, preset: Preset, device: str) -> None:
    """Write the policy, and a reward model that was trained with adapters on the same weights, for one step."""
    policy = write_policy(folder / "policy", preset, device)
    module, data = ScalarRewardModule(str(policy), lora=LoRA()), pairs(folder, preset, 1)
    trainer(device, 1, clip=1.0).fit(module, datamodule=data)
    module.export(folder / "reward")


def train_reward_model(folder: Path, preset: Preset, device: str, lora: bool) -> dict[str, Any]:
    """Rate, use of the machine and memory of a reward model's training.

    Args:
        folder: With what `prepare` wrote.
        preset: The model, and how much is measured.
        device: ``cuda`` or ``cpu``.
        lora: Train adapters and not all weights.
    """
    rate = matrix_rate(preset, device)
    forget_peak(device)
    module = ScalarRewardModule(str(folder / "policy"), Optimizer(lr=1e-5), lora=LoRA() if lora else None)
    watch = Steps(device, preset.warmup, preset.steps)
    total = preset.warmup + preset.steps
    trainer(device, total, watch, clip=1.0).fit(module, datamodule=pairs(folder, preset, total))
    pace = preset.training_flops(lora) / watch.seconds
    return {
        "seconds_per_step": watch.seconds,
        "tokens_per_second": 2 * preset.pairs * preset.row / watch.seconds,
        "model_tflops": pace / 1e12,
        "matrix_tflops": rate / 1e12,
        "utilisation": pace / rate,
        "peak_gib": peak_gib(device),
    }


def optimise_policy(folder: Path, preset: Preset, device: str, trunk: bool) -> dict[str, Any]:
    """Seconds and memory of an iteration of PPO against a reward model.

    Random weights hardly ever end a response, so each has the most tokens that it may have.

    Args:
        folder: With what `prepare` wrote.
        preset: The models, and how much is measured.
        device: ``cuda`` or ``cpu``.
        trunk: Policy, reference, critic and reward model share one trunk; otherwise each is a network of its own.
    """
    forget_peak(device)
    reward = str(folder / "reward")
    module = PPOModule(
        str(folder / "policy"),
        ScalarReward(reward, scale=1.0),
        critic=None if trunk else reward,
        lora=LoRA() if trunk else None,
        sampling=Sampling(max_new_tokens=preset.response),
        settings=PPOSettings(minibatch_size=preset.minibatch),
    )
    watch = Steps(device, 1, 2)
    trainer(device, 3, watch).fit(module, datamodule=prompts(folder, preset, 3))
    return {"seconds_per_iteration": watch.seconds, "peak_gib": peak_gib(device)}
