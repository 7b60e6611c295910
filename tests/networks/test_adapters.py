import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForSequenceClassification

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import ensure_pad_token, export, fingerprint
from lit_rlhf.networks.reward_network import RewardNetwork


def rows(count: int = 9) -> Sequences:
    generator = torch.Generator().manual_seed(0)
    ids = lambda most: torch.randint(6, 300, (most,), generator=generator).tolist()  # noqa: E731
    return stack_sequences([ids(3 + n) for n in range(count)], [ids(2 + n % 4) for n in range(count)], 0)


def adapted(path: str, lora: LoRA, trained: bool = True) -> RewardNetwork:
    """A network with adapters that are not zero any more, and a random head."""
    network = RewardNetwork(path)
    lora.add(network.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if trained and parameter.requires_grad and "lora_A" not in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def adapters(network: RewardNetwork) -> dict[str, LoraLayer]:
    return {name: part for name, part in network.model.named_modules() if isinstance(part, LoraLayer)}


def test_adapters_change_no_score_before_they_are_trained(any_model):
    plain, network = RewardNetwork(any_model).eval(), RewardNetwork(any_model).eval()
    LoRA(r=4).add(network.model)
    assert type(network.model) is type(plain.model)
    with torch.no_grad():
        assert torch.equal(network.features(rows()), plain.features(rows()))
        assert not torch.allclose(adapted(any_model, LoRA(r=4)).features(rows()), plain.features(rows()), atol=1e-2)


def test_all_linear_layers_get_an_adapter_but_the_head(any_model):
    network, model = adapted(any_model, LoRA()), RewardNetwork(any_model).model
    kinds = {"Linear", "Conv1D"}
    linear = {name for name, part in model.named_modules() if type(part).__name__ in kinds}
    assert set(adapters(network)) == linear - {"score"}
    assert network.head is network.model.score


def test_only_adapters_and_head_are_trained(any_model):
    network = adapted(any_model, LoRA(r=3))
    trained = {name for name, each in network.named_parameters() if each.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"model.score.weight"}
    assert len(trained) == 1 + 2 * len(adapters(network))
    network.train()(rows()).sum().backward()
    assert all((each.grad is not None) == (name in trained) for name, each in network.named_parameters())


def test_an_adapted_layer_computes_what_the_paper_says(any_model):
    for part in adapters(adapted(any_model, LoRA(r=2, alpha=6.0))).values():
        down, up = part.lora_A["default"].weight, part.lora_B["default"].weight
        assert down.shape[0] == up.shape[1] == 2
        x = torch.randn(5, down.shape[1])
        torch.testing.assert_close(part(x), part.get_base_layer()(x) + 6 / 2 * x @ down.T @ up.T)


def test_named_layers_get_adapters_and_no_others(tiny_model):
    names = set(adapters(adapted(tiny_model, LoRA(targets=["q_proj", "0.mlp.up_proj"]))))
    assert {name.removeprefix("model.layers.") for name in names} == {
        "0.self_attn.q_proj",
        "1.self_attn.q_proj",
        "0.mlp.up_proj",
    }


def test_merged_weights_score_alike_in_plain_transformers(any_model, tmp_path):
    network, renderer, batch = adapted(any_model, LoRA(r=4)), Renderer.load(any_model), rows()
    ensure_pad_token(network.model, renderer)
    before, expected = fingerprint(network), network(batch)
    target = export(merged(network.model), renderer, tmp_path / "model")
    assert fingerprint(network) == before, "training can go on"
    assert adapters(network)
    assert torch.equal(network(batch), expected)

    theirs = AutoModelForSequenceClassification.from_pretrained(target, dtype=torch.float32).eval()
    assert list(theirs.state_dict()) == list(RewardNetwork(any_model).model.state_dict())
    ids = torch.where(batch.mask, batch.ids, renderer.tokenizer.pad_token_id)
    with torch.no_grad():
        logits = theirs(input_ids=ids, attention_mask=batch.mask.long()).logits[:, 0]
        start = RewardNetwork(any_model).eval().features(batch) @ network.head.weight[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert (start - expected).abs().max() > 0.01, "the adapters matter"
    assert {file.name for file in target.iterdir()} == {file.name for file in plain_export(any_model, tmp_path)}


def plain_export(path: str, folder) -> list:
    renderer, network = Renderer.load(path), RewardNetwork(path)
    ensure_pad_token(network.model, renderer)
    return list(export(network.model, renderer, folder / "plain").iterdir())


def test_a_model_without_adapters_is_not_copied(tiny_model):
    model = RewardNetwork(tiny_model).model
    assert merged(model) is model


def test_adapters_drop_in_training_only(tiny_model):
    network, batch = adapted(tiny_model, LoRA(dropout=0.5)), rows()
    with torch.no_grad():
        assert torch.equal(network(batch), network(batch))
        network.train()
        assert (network(batch) != network(batch)).any()


@pytest.mark.parametrize(
    ("options", "told"), [({"r": 0}, "lora.r"), ({"dropout": 1.0}, "lora.dropout"), ({"dropout": -0.1}, "lora.dropout")]
)
def test_numbers_out_of_range_are_refused(options, told):
    with pytest.raises(DataError, match=told):
        LoRA(**options)


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(tiny_model):
    model = RewardNetwork(tiny_model).model
    with pytest.raises(DataError, match="'c_attn' is no linear layer") as caught:
        LoRA(targets=["q_proj", "c_attn"]).add(model)
    assert "down_proj, gate_proj" in str(caught.value)
    assert all(each.requires_grad for each in model.parameters()), "nothing was done"
