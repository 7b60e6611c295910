import copy

import pytest
import torch
from peft.tuners.lora.layer import Linear
from torch import nn

from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.low_rank import QuickLinear


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    monkeypatch.setenv("LIT_RLHF_FAST", "{}")


def layer(model) -> QuickLinear:
    return next(each for each in model.modules() if isinstance(each, QuickLinear))


@pytest.fixture
def model(tiny_model):
    model = load_model(tiny_model, "causal")
    LoRA(r=2, alpha=6.0).add(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 3)])
def test_results_and_gradients_are_pefts(model, shape):
    part = layer(model)
    x = torch.randn(*shape, part.in_features, generator=torch.Generator().manual_seed(2), requires_grad=True)
    moved = [x, *(parameter for parameter in part.parameters() if parameter.requires_grad)]
    found = []
    for fast in (True, False):
        FastPaths(adapters=fast).use()
        result = part(x)
        found.append((result, torch.autograd.grad(result.cos().sum(), moved)))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert not torch.equal(found[0][0], part.base_layer(x)), "the adapters do something"


def test_results_are_those_of_the_merged_weights(model):
    part = layer(model)
    x = torch.randn(4, part.in_features)
    merged = nn.functional.linear(x, part.base_layer.weight + part.get_delta_weight("default"))
    torch.testing.assert_close(part(x), merged, atol=1e-5, rtol=1e-5)
    part.enable_adapters(False)
    assert torch.equal(part(x), part.base_layer(x))


def test_it_works_under_autocast_and_with_dropout(tiny_model):
    model = load_model(tiny_model, "causal")
    LoRA(r=2, dropout=0.5).add(model)
    part = layer(model.train())
    x = torch.randn(4, part.in_features)
    with torch.no_grad():
        part.lora_B["default"].weight.normal_()
        assert not torch.equal(part(x), part(x)), "dropout draws anew"
        part.eval()
        with torch.autocast("cpu", torch.bfloat16):
            found = part(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), part(x), atol=0.1, rtol=0.05)


def test_every_adapted_linear_layer_is_quick_and_stays_so_in_copies(model):
    kinds = {type(each) for each in model.modules() if isinstance(each, Linear)}
    assert kinds == {QuickLinear}
    twin = copy.deepcopy(model)
    ids = torch.tensor([[7, 8, 9]])
    before = model(ids).logits
    with torch.no_grad():
        layer(twin).lora_A["default"].weight.zero_()
    assert torch.equal(model(ids).logits, before)
    assert not torch.equal(twin(ids).logits, before)
