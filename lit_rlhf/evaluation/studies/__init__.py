"""The studies: what the papers claim, measured in the embedded world."""

from lit_rlhf.evaluation.studies.ppo import PPOStudy
from lit_rlhf.evaluation.studies.reward import RewardStudy
from lit_rlhf.evaluation.studies.seq2seq import Seq2SeqStudy

__all__ = ["PPOStudy", "RewardStudy", "Seq2SeqStudy"]
