"""Modules that learn a reward, and the `Reward` objects that policy optimisation consumes."""

from lit_rlhf.rewards.checked import CheckedReward
from lit_rlhf.rewards.contrastive import ContrastiveReward
from lit_rlhf.rewards.contrastive_module import ContrastiveRewardModule
from lit_rlhf.rewards.ensemble import EnsembleReward
from lit_rlhf.rewards.increments import TokenIncrementReward
from lit_rlhf.rewards.meta_module import MetaRewardModule
from lit_rlhf.rewards.model import RewardModel
from lit_rlhf.rewards.python import GoldReward, PythonReward
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.reward import Reward, SequenceReward
from lit_rlhf.rewards.scalar import ScalarReward
from lit_rlhf.rewards.scalar_module import ScalarRewardModule
from lit_rlhf.rewards.seq2seq import Seq2SeqReward
from lit_rlhf.rewards.seq2seq_module import Seq2SeqRewardModule
from lit_rlhf.rewards.vllm import VLLMReward
from lit_rlhf.rewards.wrappers import ClipReward, LengthPenalty, RewardWrapper, ScaledReward, TruncationPenalty

__all__ = [
    "CheckedReward",
    "ClipReward",
    "ContrastiveReward",
    "ContrastiveRewardModule",
    "EnsembleReward",
    "GoldReward",
    "LengthPenalty",
    "MetaRewardModule",
    "PythonReward",
    "RemoteReward",
    "Reward",
    "RewardModel",
    "RewardWrapper",
    "ScalarReward",
    "ScalarRewardModule",
    "ScaledReward",
    "Seq2SeqReward",
    "Seq2SeqRewardModule",
    "SequenceReward",
    "TokenIncrementReward",
    "TruncationPenalty",
    "VLLMReward",
]
