import inspect
import subprocess
import sys

import pytest

import lit_rlhf.functional as functional

SIGNATURES = {
    "best_of_n": "proxy, values, n",
    "best_of_n_kl": "n",
    "bradley_terry_loss": "chosen, rejected, margin=None, target=None",
    "contrastive_reward": "reward, baseline_rewards, reduce='mean', quantile=0.5",
    "difference_loss": "scores",
    "gae": "rewards, values, mask, gamma=1.0, lam=0.95",
    "kl_estimate": "logprobs, ref_logprobs, kind='k1'",
    "leave_one_out": "rewards, samples",
    "masked_mean": "x, mask",
    "masked_whiten": "x, mask, centre=True",
    "ngram_repetition": "ids, mask, n=3",
    "ppo_policy_loss": "logprobs, old_logprobs, advantages, mask, clip=0.2",
    "ppo_value_loss": "values, old_values, returns, mask, clip=0.2",
    "preference_strength": "chosen, rejected",
    "seq2seq_token_rewards": "response, prediction, mask, positive=1.0, negative=-1.0, normalize=True",
    "simcse_loss": "view_a, view_b, temperature=0.05",
    "sinkhorn": "scores, epsilon=0.05, iterations=3",
    "swav_loss": "view_a, view_b, prototypes, temperature=0.1, epsilon=0.05, iterations=3",
}


def test_all_names_every_public_function():
    assert functional.__all__ == sorted(SIGNATURES)


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_names_order_and_defaults_of_arguments_are_fixed(name):
    parameters = inspect.signature(getattr(functional, name)).parameters.values()
    assert ", ".join(str(p.replace(annotation=p.empty)) for p in parameters) == SIGNATURES[name]


def test_import_loads_nothing_but_torch_and_what_torch_needs():
    code = (
        "import sys, torch; before = set(sys.modules); import lit_rlhf.functional; "
        "roots = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(roots - sys.stdlib_module_names)); "
        "print(*sorted(n for n in sys.modules if n.startswith('lit_rlhf.') and n.count('.') == 1))"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    new_packages, rooms = lines
    assert set(new_packages.split()) <= {"lit_rlhf", "torch"}
    assert rooms == "lit_rlhf.functional"
