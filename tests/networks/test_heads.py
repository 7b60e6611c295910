"""Heads of several numbers, of which one is chosen or a weighted sum taken; and heads with a bias."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.reward_network import RewardNetwork
from tests.networks.test_encoders import words

LABELS = {0: "helpfulness", 1: "correctness", 2: "verbosity"}
_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_CONFIGS = {
    "llama": lambda **options: transformers.LlamaConfig(**_SHAPE, **options),
    "gpt2": lambda **options: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **options),
    "bert": lambda **options: transformers.BertConfig(**_SHAPE, **options),
    "roberta": lambda **options: transformers.RobertaConfig(**_SHAPE, **options),
}


@pytest.fixture(scope="module", params=_CONFIGS)
def several(request, tmp_path_factory) -> str:
    """A model whose head gives three numbers with names."""
    path = tmp_path_factory.mktemp(request.param) / "model"
    tokenizer = words()
    options = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3}
    config = _CONFIGS[request.param](**options, id2label=LABELS, label2id={name: i for i, name in LABELS.items()})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(path)
    return str(path)


def rows() -> Sequences:
    return stack_sequences([[2, 7, 8, 9], [2, 10, 11]], [[12, 13, 3], [14, 15, 16, 17, 3]], 0)


def logits(path: str) -> torch.Tensor:
    model, batch = AutoModelForSequenceClassification.from_pretrained(path).eval(), rows()
    with torch.no_grad():
        return model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits


@pytest.mark.parametrize(
    ("attributes", "weights"),
    [
        ("helpfulness", (1, 0, 0)),
        ("Verbosity", (0, 0, 1)),
        (1, (0, 1, 0)),
        ("2", (0, 0, 1)),
        ({"helpfulness": 0.7, "verbosity": -0.3}, (0.7, 0, -0.3)),
        ({1: 1, 0: -1}, (-1, 1, 0)),
        ({"1": 1, "helpfulness": -1.0}, (-1, 1, 0)),
    ],
)
def test_the_score_is_the_weighted_sum_of_the_chosen_numbers(several, attributes, weights):
    expected = logits(several) @ torch.tensor(weights, dtype=torch.float)
    network = RewardNetwork(several, attributes=attributes).eval()
    torch.testing.assert_close(network(rows()).detach(), expected, atol=1e-5, rtol=1e-5)
    assert network.model.config.num_labels == network.head.out_features == 1
    assert network.model.get_submodule("score" if hasattr(network.model, "score") else "classifier") is not None
    scaled = RewardNetwork(several, scale=2.0, attributes=attributes).eval()
    torch.testing.assert_close(scaled(rows()).detach(), 2 * expected, atol=1e-5, rtol=1e-5)


def test_a_head_of_several_numbers_is_refused_by_their_names(several):
    with pytest.raises(
        DataError, match=r"gives 3 numbers \(helpfulness, correctness, verbosity\), and one is"
    ) as caught:
        RewardNetwork(several, option="attributes")
    assert 'Choose with attributes: one, such as "verbosity", or a weighted sum' in str(caught.value)
    with pytest.raises(DataError, match="reward model of one number"):
        RewardNetwork(several)  # a critic


def test_what_the_hint_says_works(several):
    with pytest.raises(DataError) as caught:
        RewardNetwork(several, option="attributes")
    weights = eval(str(caught.value).rpartition("such as ")[2].rstrip("."))
    assert weights == {"verbosity": 1, "helpfulness": -1}
    numbers = logits(several)
    found = RewardNetwork(several, attributes=weights).eval()(rows()).detach()
    torch.testing.assert_close(found, numbers[:, 2] - numbers[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attributes", ["honesty", 3, -1, {"helpfulness": 1.0, "honesty": 1.0}])
def test_an_attribute_that_the_head_does_not_have_is_refused_with_those_that_it_has(several, attributes):
    with pytest.raises(DataError, match=r"no number '(honesty|3|-1)'") as caught:
        RewardNetwork(several, attributes=attributes)
    assert "It has helpfulness, correctness, verbosity; or count from 0 to 2." in str(caught.value)


def test_weights_that_leave_nothing_are_refused(several):
    with pytest.raises(DataError, match="leaves nothing of the head's numbers"):
        RewardNetwork(several, attributes={"helpfulness": 0})


def test_two_classes_give_their_difference(tiny_model, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    model.score.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"gives 2 numbers \(LABEL_0, LABEL_1\)"):
        RewardNetwork(str(tmp_path), option="attributes")
    difference = model.score.weight[1] - model.score.weight[0]
    network = RewardNetwork(str(tmp_path), attributes={"1": 1, "0": -1})
    torch.testing.assert_close(network.head.weight[0], difference)


def test_the_sign_of_one_number_can_be_turned(tiny_reward_model):
    network, turned = RewardNetwork(tiny_reward_model), RewardNetwork(tiny_reward_model, attributes={"0": -1})
    assert torch.equal(network.head.weight, -turned.head.weight)
    assert RewardNetwork(tiny_reward_model, attributes=0).head.weight.equal(network.head.weight)


def test_config_and_weights_may_disagree_about_the_number_of_labels(tiny_reward_model, tmp_path):
    """Others write a head of one number beside a config that was left at its default of two."""
    from tests.networks.folders import folder

    path = folder(tiny_reward_model, tmp_path / "model", id2label=None, label2id=None)
    assert transformers.AutoConfig.from_pretrained(path).num_labels == 2
    expected = RewardNetwork(tiny_reward_model).head.weight
    assert torch.equal(RewardNetwork(path).head.weight, expected)


def test_adapters_with_a_head_of_several_numbers_are_asked_for_one(tiny_model, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    theirs = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False))
    theirs.eval().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="gives 3 numbers"):
        RewardNetwork(str(tmp_path), option="attributes")
    batch = rows()[:1]
    with torch.no_grad():
        expected = theirs(input_ids=batch.ids[:, : int(batch.length[0])]).logits[0]
        found = RewardNetwork(str(tmp_path), attributes={"2": 1.0, "0": -0.5}).eval()(batch)
    torch.testing.assert_close(found[0], expected[2] - 0.5 * expected[0], atol=1e-5, rtol=1e-5)
