"""Every formula of the project as a pure function on tensors. Needs torch and nothing else.

Conventions: pairs are ``(N,)``, tokens ``(B, T)``. Masks are bool with True = a real token, and whatever stands in the
padding, NaN and infinity included, changes neither a result nor a gradient. Every loss is a scalar.
Half precision and integers are computed in float32; float64 stays float64. Bad shapes, dtypes and options raise
ValueError, which says what was expected.
"""

from lit_rlhf.functional.best_of_n import best_of_n, best_of_n_kl
from lit_rlhf.functional.contrastive import simcse_loss, sinkhorn, swav_loss
from lit_rlhf.functional.masked import masked_mean, masked_whiten
from lit_rlhf.functional.policy import gae, kl_estimate, leave_one_out, ppo_policy_loss, ppo_value_loss
from lit_rlhf.functional.preference import bradley_terry_loss, difference_loss, preference_strength
from lit_rlhf.functional.repetition import ngram_repetition
from lit_rlhf.functional.rewards import contrastive_reward, seq2seq_token_rewards

__all__ = [
    "best_of_n",
    "best_of_n_kl",
    "bradley_terry_loss",
    "contrastive_reward",
    "difference_loss",
    "gae",
    "kl_estimate",
    "leave_one_out",
    "masked_mean",
    "masked_whiten",
    "ngram_repetition",
    "ppo_policy_loss",
    "ppo_value_loss",
    "preference_strength",
    "seq2seq_token_rewards",
    "simcse_loss",
    "sinkhorn",
    "swav_loss",
]
