import re

import pytest
import torch

from lit_rlhf import functional as f

PAIR, OTHER_PAIR = torch.zeros(4), torch.zeros(3)
TOKENS, MASK = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
IDS = torch.zeros(2, 3, dtype=torch.long)
FEATURES = torch.ones(4, 5)

BAD_CALLS = {
    "pairs of different length": (lambda: f.bradley_terry_loss(PAIR, OTHER_PAIR), "rejected has shape (3,)"),
    "a broadcast column": (lambda: f.bradley_terry_loss(PAIR[:, None], PAIR), "expected (N,)"),
    "margin of another length": (lambda: f.bradley_terry_loss(PAIR, PAIR, margin=OTHER_PAIR), "margin has shape (3,)"),
    "target of another length": (lambda: f.bradley_terry_loss(PAIR, PAIR, target=OTHER_PAIR), "expected (4,)"),
    "target above one": (lambda: f.bradley_terry_loss(PAIR, PAIR, target=PAIR + 1.2), "from 0 to 1"),
    "target is NaN": (lambda: f.bradley_terry_loss(PAIR, PAIR, target=PAIR / 0), "from 0 to 1"),
    "no pair": (lambda: f.bradley_terry_loss(PAIR[:0], PAIR[:0]), "at least one"),
    "one voter as a row": (lambda: f.preference_strength(PAIR, PAIR), "expected (M, N)"),
    "no voter": (lambda: f.preference_strength(TOKENS[:0], TOKENS[:0]), "at least one voter"),
    "flat scores": (lambda: f.difference_loss(PAIR), "expected (prompts, k)"),
    "one score per prompt": (lambda: f.difference_loss(PAIR[:, None]), "k of at least 2"),
    "no prompt": (lambda: f.difference_loss(TOKENS[:0]), "at least one"),
    "views of different size": (lambda: f.simcse_loss(FEATURES, FEATURES[:3]), "view_b has shape (3, 5)"),
    "temperature zero": (lambda: f.simcse_loss(FEATURES, FEATURES, temperature=0), "temperature is 0"),
    "prototypes transposed": (lambda: f.swav_loss(FEATURES, FEATURES, torch.ones(5, 7)), "hidden = 5"),
    "swav temperature": (lambda: f.swav_loss(FEATURES, FEATURES, FEATURES, temperature=-1), "temperature is -1"),
    "flat sinkhorn scores": (lambda: f.sinkhorn(PAIR), "expected (batch, prototypes)"),
    "epsilon zero": (lambda: f.sinkhorn(FEATURES, epsilon=0), "epsilon is 0"),
    "no iteration": (lambda: f.sinkhorn(FEATURES, iterations=0), "iterations is 0"),
    "baselines of other prompts": (lambda: f.contrastive_reward(OTHER_PAIR, FEATURES), "one row per reward"),
    "flat baselines": (lambda: f.contrastive_reward(PAIR, PAIR), "expected (B, k)"),
    "no baseline": (lambda: f.contrastive_reward(PAIR, FEATURES[:, :0]), "at least one baseline"),
    "unknown reduce": (lambda: f.contrastive_reward(PAIR, FEATURES, reduce="min"), "mean, median, max, quantile"),
    "quantile in per cent": (lambda: f.contrastive_reward(PAIR, FEATURES, "quantile", quantile=50), "quantile is 50"),
    "logits, not ids": (lambda: f.seq2seq_token_rewards(IDS, torch.zeros(2, 3, 9), MASK), "prediction has shape"),
    "probabilities, not ids": (lambda: f.seq2seq_token_rewards(IDS, TOKENS, MASK), "expected integer token ids"),
    "flat response": (lambda: f.seq2seq_token_rewards(IDS[0], IDS[0], MASK[0]), "expected (B, T)"),
    "gae without batch": (lambda: f.gae(TOKENS[0], TOKENS[0], MASK[0]), "expected (B, T)"),
    "one value too many": (lambda: f.gae(TOKENS, torch.zeros(2, 4), MASK), "values has shape (2, 4)"),
    "gamma above one": (lambda: f.gae(TOKENS, TOKENS, MASK, gamma=1.1), "gamma is 1.1"),
    "lambda negative": (lambda: f.gae(TOKENS, TOKENS, MASK, lam=-0.1), "lam is -0.1"),
    "one advantage per row": (lambda: f.ppo_policy_loss(TOKENS, TOKENS, TOKENS[:, :1], MASK), "advantages has shape"),
    "clip of one": (lambda: f.ppo_policy_loss(TOKENS, TOKENS, TOKENS, MASK, clip=1), "clip is 1"),
    "one return per row": (lambda: f.ppo_value_loss(TOKENS, TOKENS, TOKENS[:, :1], MASK), "returns has shape"),
    "value clip of zero": (lambda: f.ppo_value_loss(TOKENS, TOKENS, TOKENS, MASK, clip=0), "clip is 0"),
    "kl of different shapes": (lambda: f.kl_estimate(TOKENS, TOKENS[:1]), "ref_logprobs has shape (1, 3)"),
    "unknown kind": (lambda: f.kl_estimate(TOKENS, TOKENS, kind="k4"), "k1, k2, k3"),
    "flat samples": (lambda: f.best_of_n(PAIR, PAIR, 1), "expected (P, N)"),
    "more than there are": (lambda: f.best_of_n(TOKENS, TOKENS, 4), "n is 4, expected 1 to 3"),
    "the best of none": (lambda: f.best_of_n(TOKENS, TOKENS, 0), "n is 0, expected 1 to 3"),
    "an unscored sample": (lambda: f.best_of_n(TOKENS / 0, TOKENS, 2), "NaN or infinite"),
    "kl of the best of none": (lambda: f.best_of_n_kl(0), "expected at least 1"),
    "mask of one row": (lambda: f.masked_mean(TOKENS, MASK[:1]), "mask has shape (1, 3)"),
    "whitening mask of one row": (lambda: f.masked_whiten(TOKENS, MASK[:1]), "mask has shape (1, 3)"),
}

MASKED_CALLS = {
    "masked_mean": lambda mask: f.masked_mean(TOKENS, mask),
    "masked_whiten": lambda mask: f.masked_whiten(TOKENS, mask),
    "gae": lambda mask: f.gae(TOKENS, TOKENS, mask),
    "ppo_policy_loss": lambda mask: f.ppo_policy_loss(TOKENS, TOKENS, TOKENS, mask),
    "ppo_value_loss": lambda mask: f.ppo_value_loss(TOKENS, TOKENS, TOKENS, mask),
    "seq2seq_token_rewards": lambda mask: f.seq2seq_token_rewards(IDS, IDS, mask),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_arguments_are_refused_with_what_was_expected(case):
    call, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("dtype", [torch.long, torch.float, torch.uint8])
@pytest.mark.parametrize("name", MASKED_CALLS)
def test_masks_that_are_not_bool_are_refused(name, dtype):
    with pytest.raises(ValueError, match=r"expected torch\.bool"):
        MASKED_CALLS[name](MASK.to(dtype))


@pytest.mark.parametrize("name", MASKED_CALLS)
def test_the_same_calls_accept_a_bool_mask(name):
    MASKED_CALLS[name](MASK)
