"""Modules that learn or sample a policy: supervised fine-tuning, offline baselines, PPO, RLOO, REINFORCE."""

from lit_rlhf.policy.advantages import GAE, Advantages, LeaveOneOut, MovingBaseline, NoBaseline, ResponseAdvantages
from lit_rlhf.policy.baseline_module import BaselineModule
from lit_rlhf.policy.demonstrations import Demonstrations
from lit_rlhf.policy.kl import KLPenalty
from lit_rlhf.policy.ppo_module import PPOModule
from lit_rlhf.policy.samplers import OwnSampler, Sampler
from lit_rlhf.policy.served import ServedSampler
from lit_rlhf.policy.settings import PPOSettings
from lit_rlhf.policy.sft_module import SFTModule

__all__ = [
    "GAE",
    "Advantages",
    "BaselineModule",
    "Demonstrations",
    "KLPenalty",
    "LeaveOneOut",
    "MovingBaseline",
    "NoBaseline",
    "OwnSampler",
    "PPOModule",
    "PPOSettings",
    "ResponseAdvantages",
    "SFTModule",
    "Sampler",
    "ServedSampler",
]
