import warnings
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from lit_rlhf.data.batches import pad_rows
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.cache import cache_arguments, growing_cache
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.sampling import Sampling, sample


class Former(PreTrainedModel):
    def forward(self, input_ids, past_key_values=None, use_cache=None):
        return past_key_values


class Renamed(PreTrainedModel):
    def forward(self, input_ids, cache=None, use_cache=None):
        return cache


@pytest.mark.parametrize(("architecture", "name"), [(Former, "past_key_values"), (Renamed, "cache")])
def test_a_cache_is_handed_over_by_the_name_that_the_architecture_knows(architecture, name):
    model = architecture.__new__(architecture)
    cache = SimpleNamespace()
    assert cache_arguments(model, cache) == {name: cache, "use_cache": True}


@pytest.mark.parametrize("fast", [True, False])
def test_no_deprecated_name_is_used_for_the_cache(any_model, fast):
    FastPaths(packing=fast).use()
    model = load_model(any_model, "causal").eval()
    prompts, lengths = pad_rows([[7, 8, 9], [10, 11] * 4, [11]], 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*past_key_values.*")
        sample(model, prompts, lengths, [2], Sampling(max_new_tokens=4), torch.Generator().manual_seed(0))


def test_a_wrapped_forward_gets_the_cache_all_the_same(tiny_model, monkeypatch):
    model = load_model(tiny_model, "causal").eval()
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **options: forward(*args, **options))
    cache = growing_cache(model.config)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*past_key_values.*")
        model(input_ids=torch.tensor([[7, 8, 9]]), **cache_arguments(model, cache))
    assert cache.get_seq_length() == 3
