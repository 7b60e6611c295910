"""The studies: what the papers claim, measured in the embedded world."""

from research.studies.ppo import PPOStudy
from research.studies.reward import RewardStudy
from research.studies.seq2seq import Seq2SeqStudy

__all__ = ["PPOStudy", "RewardStudy", "Seq2SeqStudy"]
