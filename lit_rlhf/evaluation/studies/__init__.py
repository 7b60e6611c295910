"""The studies: what the papers claim, measured in the embedded world."""

from lit_rlhf.evaluation.studies.reward import RewardStudy

__all__ = ["RewardStudy"]
