"""Modules that learn or sample a policy: supervised fine-tuning, offline baselines, PPO."""

from lit_rlhf.policy.baseline_module import BaselineModule
from lit_rlhf.policy.ppo_module import PPOModule, PPOSettings
from lit_rlhf.policy.sft_module import SFTModule

__all__ = ["BaselineModule", "PPOModule", "PPOSettings", "SFTModule"]
