"""Encoders as scalar reward models, against plain transformers."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import check_length
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.rewards import ScalarReward
from lit_rlhf.world import WorldPairs

_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_LONG = {**_SHAPE, "max_position_embeddings": 256}
_CONFIGS = {
    "bert": lambda **ends: transformers.BertConfig(**_LONG, **ends),
    "roberta": lambda **ends: transformers.RobertaConfig(**_LONG, **ends),
    "electra": lambda **ends: transformers.ElectraConfig(embedding_size=16, **_LONG, **ends),
    "deberta": lambda **ends: transformers.DebertaV2Config(
        relative_attention=True, pos_att_type=["c2p", "p2c"], pooler_hidden_size=32, **_LONG, **ends
    ),
    "distilbert": lambda **ends: transformers.DistilBertConfig(
        dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=256, **ends
    ),
    # Reads the mean of all tokens, and sees a window of attention in one of two layers.
    "modernbert": lambda **ends: transformers.ModernBertConfig(
        **_LONG, classifier_pooling="mean", local_attention=8, global_attn_every_n_layers=2, **ends
    ),
}


def words() -> PreTrainedTokenizerFast:
    """One token per word, with the special tokens of BERT: nothing ends a sequence."""
    records = list(islice(WorldPairs(80, seed=0).records(), 80))
    split = pre_tokenizers.Whitespace()
    texts = ["Human: Assistant:", *(f"{r.prompt[-1].content} {r.chosen} {r.rejected}" for r in records)]
    known = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {word: number for number, word in enumerate([*specials.values(), *known])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=core, **specials)


def write(name: str, directory: Path) -> str:
    tokenizer = words()
    assert tokenizer.eos_token_id is None
    config = _CONFIGS[name](vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # biases too
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return write("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module", params=_CONFIGS)
def encoder(request, tmp_path_factory) -> str:
    return write(request.param, tmp_path_factory.mktemp(request.param))


def rows(count: int = 12) -> Sequences:
    generator = torch.Generator().manual_seed(0)
    draw = lambda least, most: torch.randint(least, most, (1,), generator=generator).item()  # noqa: E731
    ids = lambda most: torch.randint(4, 100, (draw(1, most),), generator=generator).tolist()  # noqa: E731
    return stack_sequences([[2, *ids(20)] for _ in range(count)], [[*ids(20), 3] for _ in range(count)], 0)


# ---------------------------------------------------------------------- scores


def test_scores_are_the_logits_of_plain_transformers(encoder):
    network, batch = RewardNetwork(encoder).eval(), rows()
    theirs = AutoModelForSequenceClassification.from_pretrained(encoder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[:, 0]
        features = network.features(batch)
        torch.testing.assert_close(network.score(features), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network(batch), expected, atol=1e-5, rtol=1e-5)
    assert features.shape == (len(batch), 32)
    assert expected.std() > 0.01
    assert network.looks_ahead


def test_a_score_depends_neither_on_neighbours_nor_on_padding(encoder):
    network, batch = RewardNetwork(encoder).eval(), rows()
    with torch.no_grad():
        alone = torch.cat([network(batch[row : row + 1]) for row in range(len(batch))])
        noise = torch.randint(100, batch.ids.shape, generator=torch.Generator().manual_seed(1))
        noisy = Sequences(torch.where(batch.mask, batch.ids, noise), batch.prompt_length, batch.length)
        wider = Sequences(torch.cat([noisy.ids, noise], 1), batch.prompt_length, batch.length)
        for each in (batch, noisy, wider):
            torch.testing.assert_close(network(each), alone, atol=1e-5, rtol=1e-5)
    assert not batch.mask.all()


def test_scale_multiplies_the_bias_of_the_head_too(bert):
    plain, scaled = RewardNetwork(bert).eval(), RewardNetwork(bert, scale=2.5).eval()
    assert plain.head.bias is not None
    assert plain.head.bias.item() != 0
    torch.testing.assert_close(scaled(rows()), 2.5 * plain(rows()))


def test_an_encoder_cannot_be_a_critic(bert):
    with pytest.raises(DataError, match="cannot be a critic") as caught:
        RewardNetwork(bert).eval()(rows(), values=True)
    assert bert in str(caught.value)


def test_a_model_that_is_neither_decoder_nor_encoder_is_refused(tmp_path):
    config = transformers.BartConfig(
        vocab_size=30, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8, num_labels=1
    )
    config.encoder_attention_heads = config.decoder_attention_heads = 1
    transformers.BartForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"an encoder–decoder \(BartForSequenceClassification\), which gives no score"):
        RewardNetwork(str(tmp_path))


def test_a_decoder_whose_attention_sees_everything_is_refused(tmp_path):
    config = transformers.Gemma3TextConfig(
        **_SHAPE, head_dim=16, num_key_value_heads=1, vocab_size=30, use_bidirectional_attention=True, num_labels=1
    )
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="no single linear head"):
        RewardNetwork(str(tmp_path))


def test_positions_that_padding_takes_are_not_counted(tmp_path):
    model = RewardNetwork(write("roberta", tmp_path)).model
    beyond = 256 - model.base_model.embeddings.position_embeddings.padding_idx - 1
    check_length(model, beyond)
    model(input_ids=torch.full((1, beyond), 5))
    with pytest.raises(DataError, match="exceeds the model's"):
        check_length(model, beyond + 1)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, beyond + 1), 5))


# ---------------------------------------------------------------------- text


def test_the_separator_ends_a_response_and_the_classification_token_begins_the_text(bert):
    renderer = Renderer.load(bert)
    tokenizer = renderer.tokenizer
    prompt = renderer.prompt_ids((Message("user", "Hello [SEP]"),))
    assert prompt[0] == tokenizer.cls_token_id
    assert prompt.count(tokenizer.cls_token_id) == 1
    ids = renderer.response_ids("Human [SEP] [CLS] Human")
    assert renderer.eos_id == ids[-1] == tokenizer.sep_token_id
    assert tokenizer.sep_token_id not in ids[:-1]
    assert tokenizer.cls_token_id not in ids


def test_a_tokenizer_with_neither_end_nor_separator_is_refused():
    tokenizer = words()
    tokenizer.sep_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        Renderer(tokenizer)


def test_an_end_of_sequence_token_goes_before_a_separator():
    tokenizer = words()
    tokenizer.eos_token = "[PAD]"
    renderer = Renderer(tokenizer)
    assert renderer.eos_id == tokenizer.pad_token_id
    assert renderer.prompt_ids((Message("user", "Human"),))[0] != tokenizer.cls_token_id


# ---------------------------------------------------------------------- training and export


@pytest.mark.parametrize(
    ("module", "more"), [("ScalarRewardModule", {}), ("ContrastiveRewardModule", {"lora": {"r": 4}})]
)
def test_a_trained_encoder_scores_alike_under_plain_transformers(lit, bert, tiny_model, tmp_path, module, more):
    source = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 48, "seed": 0}}
    options = {
        "model": {"class_path": module, "init_args": {"model": bert, "optimizer": {"lr": 3e-3}, **more}},
        "data": {"sources": source, "val_fraction": 0.25, "batch_size": 12},
        "trainer": {"max_epochs": 4},
        "export": {"directory": str(tmp_path / "model")},
    }
    cli = lit("fit", tmp_path, options)
    network, batch = cli.model.network.eval(), next(iter(cli.datamodule.val_dataloader())).chosen
    untrained = RewardNetwork(bert).eval()
    with torch.no_grad():
        expected = network(batch)
        assert (expected - untrained(batch)).abs().min() > 1e-3

    path = str(tmp_path / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    own, here = cli.datamodule.renderer, cli.datamodule.val_rows
    texts = [own.prompt_text(row.record.prompt) + " " + row.record.chosen + tokenizer.sep_token for row in here]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 0]
        again = RewardNetwork(path).eval()(batch)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, expected)

    reloaded = Renderer.load(path)
    assert reloaded.fingerprint == own.fingerprint
    for row in here:
        assert reloaded.prompt_ids(row.record.prompt) == row.prompt
        assert reloaded.response_ids(row.record.chosen) == row.chosen
    assert json.loads(Path(path, "config.json").read_text())["calibration"]["std"] > 0
    assert not ScalarReward(path).load(Renderer.load(tiny_model), "policy").shares_ids
