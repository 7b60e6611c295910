import copy
import json
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import export, fingerprint
from lit_rlhf.networks.dropout import add_dropout
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.states import packs

RATE = 0.3


def rows(count: int = 9) -> Sequences:
    generator = torch.Generator().manual_seed(0)
    ids = lambda most: torch.randint(6, 300, (most,), generator=generator).tolist()  # noqa: E731
    return stack_sequences([ids(3 + n) for n in range(count)], [ids(2 + n % 4) for n in range(count)], 0)


def network(path: str, rate: float | None = RATE) -> RewardNetwork:
    torch.manual_seed(0)  # the fresh head's weights
    made = RewardNetwork(path)
    if rate is not None:
        add_dropout(made.model, rate)
    return made


def test_every_pass_in_training_is_another_and_evaluation_is_exact(any_model):
    plain, dropping, batch = network(any_model, None).eval(), network(any_model), rows()
    with torch.no_grad():
        assert torch.equal(dropping.eval()(batch), plain(batch))
        first, second = (dropping.train().features(batch) for _ in range(2))
        assert (first != second).any(1).all()
        dropping.eval()
        assert torch.equal(dropping.features(batch), plain.features(batch))
        assert torch.equal(dropping(batch), plain(batch))


def test_equal_rows_get_masks_of_their_own(any_model):
    dropping, row = network(any_model).train(), rows(1)
    with torch.no_grad():
        features = dropping.features(row[torch.zeros(2, dtype=torch.long)])
    assert (features[0] != features[1]).any()


def test_the_share_of_the_final_state_that_is_dropped_is_the_rate(any_model):
    features = network(any_model).train().features(rows(64))
    assert float((features == 0).float().mean()) == pytest.approx(RATE, abs=0.04)


def test_weights_their_names_and_the_export_stay_as_they_are(any_model, tmp_path):
    plain, dropping = network(any_model, None), network(any_model)
    assert fingerprint(dropping) == fingerprint(plain)
    assert list(dropping.state_dict()) == list(plain.state_dict())
    assert dropping.model.config.to_dict() == plain.model.config.to_dict()
    renderer = Renderer.load(any_model)
    folders = [export(each.model, renderer, tmp_path / name) for each, name in ((plain, "plain"), (dropping, "other"))]
    first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert first == second


def test_outputs_of_attention_and_mlp_are_dropped_once(any_model, monkeypatch):
    plain, dropping = network(any_model, None).eval(), network(any_model).train()
    monkeypatch.setenv("LIT_RLHF_FAST", json.dumps({"last_layer": False}))  # the last layer's outputs are compared, too
    assert packs(dropping.model) == packs(plain.model)  # tried before anything is recorded
    for name, module in dropping.named_modules():  # leave attention probabilities alone: the rest can then be compared
        if name.endswith("attn_dropout"):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    blocks = [
        each for each in dropping.model.base_model.named_modules() if each[0].endswith((".attn", ".self_attn", ".mlp"))
    ]
    assert len(blocks) == 2 * dropping.model.config.num_hidden_layers
    for name, block in blocks:
        given, output = called(block, lambda: dropping.features(rows()))
        expected = first(plain.model.base_model.get_submodule(name)(*given[0], **given[1]))
        zero = first(output) == 0
        assert float(zero.float().mean()) == pytest.approx(RATE, abs=0.04)
        torch.testing.assert_close(first(output)[~zero], expected[~zero] / (1 - RATE), atol=1e-5, rtol=1e-4)


def called(block: nn.Module, run: Callable[[], object]) -> tuple:
    """Arguments and output of a block's call during a run."""
    calls = []
    hook = block.register_forward_hook(
        lambda module, args, named, output: calls.append(((args, named), output)), with_kwargs=True
    )
    run()
    hook.remove()
    return calls[0]


def first(output):
    return output[0] if isinstance(output, tuple) else output


def test_attention_probabilities_get_the_rate(any_model):
    rates = set()
    for module in network(any_model).model.modules():
        if "attention" in type(module).__name__.lower():
            assert hasattr(module, "attention_dropout") or hasattr(module, "attn_dropout")
            rates.add(getattr(module, "attention_dropout", None) or module.attn_dropout.p)
    assert rates == {RATE}


def test_dropout_that_is_there_already_gets_the_rate_and_no_second_one(write_model, tmp_path):
    config = transformers.BertConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.7,
    )
    bert = transformers.BertForSequenceClassification(config)
    for model in (bert, network(write_model("gpt2"), None).model):
        hooks = sum(len(module._forward_hooks) for module in model.modules())
        add_dropout(model, RATE)
        assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {RATE}
        added = sum(len(module._forward_hooks) for module in model.modules()) - hooks
        assert added == (0 if model is bert else 1)  # GPT-2's final state only


def test_a_copy_drops_like_the_original(tiny_model):
    original = network(tiny_model).train()
    other = copy.deepcopy(original)
    features = []
    for each in (original, other):
        torch.manual_seed(3)
        features.append(each.features(rows()))
    assert torch.equal(*features)
    assert (other.train().features(rows()) != features[1]).any()
