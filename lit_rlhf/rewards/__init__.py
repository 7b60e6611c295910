"""Modules that learn a reward, and the `Reward` objects that policy optimisation consumes."""

from lit_rlhf.rewards.contrastive import ContrastiveReward
from lit_rlhf.rewards.contrastive_module import ContrastiveRewardModule
from lit_rlhf.rewards.ensemble import EnsembleReward
from lit_rlhf.rewards.meta_module import MetaRewardModule
from lit_rlhf.rewards.model import RewardModel
from lit_rlhf.rewards.python import GoldReward, PythonReward
from lit_rlhf.rewards.reward import Reward, SequenceReward
from lit_rlhf.rewards.scalar import ScalarReward
from lit_rlhf.rewards.scalar_module import ScalarRewardModule

__all__ = [
    "ContrastiveReward",
    "ContrastiveRewardModule",
    "EnsembleReward",
    "GoldReward",
    "MetaRewardModule",
    "PythonReward",
    "Reward",
    "RewardModel",
    "ScalarReward",
    "ScalarRewardModule",
    "SequenceReward",
]
