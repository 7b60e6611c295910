"""Judging policies and reward models."""

from lit_rlhf.evaluation.judges import LLMJudge, Referee

__all__ = ["LLMJudge", "Referee"]
