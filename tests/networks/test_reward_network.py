import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import ensure_pad_token, export
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.world import tokenizer

EOS, PAD, WORDS = tokenizer().eos_token_id, tokenizer().pad_token_id, len(tokenizer())


def random_rows(count: int = 9, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of any length, with end-of-sequence and padding ids in the middle of some."""
    generator = torch.Generator().manual_seed(seed)

    def ids(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most, (), generator=generator))
        return torch.randint(6, WORDS, (length,), generator=generator).tolist()

    prompts, responses = [ids(1, 20) for _ in range(count)], [[*ids(0, 15), EOS] for _ in range(count)]
    prompts[0][-1:] = [EOS, 7]
    prompts[1] = [PAD, EOS, *prompts[1], EOS]
    responses[2] = [8, EOS, 9, PAD, 10, EOS]
    responses[3] = [11, 12]  # cut off: does not end
    responses[4] = [EOS]
    return prompts, responses


def randomise_head(network: RewardNetwork) -> RewardNetwork:
    with torch.no_grad():
        network.head.weight.copy_(torch.randn(network.head.weight.shape, generator=torch.Generator().manual_seed(1)))
    return network.eval().requires_grad_(False)


@pytest.fixture
def network(any_model) -> RewardNetwork:
    return randomise_head(RewardNetwork(any_model))


@pytest.fixture
def llama(tiny_model) -> RewardNetwork:
    return randomise_head(RewardNetwork(tiny_model))


def alone(network: RewardNetwork, prompts, responses) -> torch.Tensor:
    """Scores of the rows one by one, without any padding: the reference."""
    pairs = zip(prompts, responses, strict=True)
    return torch.cat([network(stack_sequences([prompt], [response], PAD)) for prompt, response in pairs])


# ---------------------------------------------------------------------- invariances


def test_a_score_is_that_of_the_last_token_alone(network):
    prompts, responses = random_rows()
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([prompt + response])
        state = network.model.base_model(input_ids=ids).last_hidden_state[0, -1]
        expected = state @ network.head.weight[0]
        torch.testing.assert_close(network(stack_sequences([prompt], [response], PAD))[0], expected)
        assert expected != 0


def test_a_score_depends_neither_on_neighbours_nor_on_padding(network):
    prompts, responses = random_rows()
    expected = alone(network, prompts, responses)
    assert expected.unique().numel() == len(expected)
    generator = torch.Generator().manual_seed(2)
    for trial in range(6):
        order = torch.randperm(len(prompts), generator=generator)[: trial + 3]
        rows = [prompts[i] for i in order], [responses[i] for i in order]
        batch = stack_sequences(*rows, pad_id=[PAD, EOS, 7, 300, 0, WORDS - 1][trial])
        garbage = torch.randint(WORDS, (len(order), 2 * trial), generator=generator)
        wider = Sequences(torch.cat([batch.ids, garbage], 1), batch.prompt_length, batch.length)
        noise = torch.randint(WORDS, wider.ids.shape, generator=generator)
        noisy = Sequences(torch.where(wider.mask, wider.ids, noise), batch.prompt_length, batch.length)
        for each in (batch, wider, noisy):
            torch.testing.assert_close(network(each), expected[order], atol=1e-5, rtol=1e-5)


def test_no_gradient_comes_from_padding(llama):
    prompts, responses = random_rows()
    unused = min(set(range(WORDS)).difference(*prompts, *responses))
    batch = stack_sequences(prompts, responses, pad_id=unused)
    vectors = llama.model.get_input_embeddings().weight.requires_grad_(True)
    llama(batch).sum().backward()
    assert (batch.ids == unused).any()
    assert (vectors.grad[unused] == 0).all()
    assert (vectors.grad[7] != 0).any()


# ---------------------------------------------------------------------- export and plain transformers


def padded_left(batch: Sequences, filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = batch.ids.shape[1]
    rows = [[filler] * (width - n) + ids[:n] for ids, n in zip(batch.ids.tolist(), batch.length.tolist(), strict=True)]
    masks = [[0] * (width - n) + [1] * n for n in batch.length.tolist()]
    return torch.tensor(rows), torch.tensor(masks)


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
def test_an_exported_model_scores_alike_under_plain_transformers(any_model, tmp_path, pad):
    renderer = Renderer.load(any_model)
    renderer.tokenizer.pad_token = pad
    network = randomise_head(RewardNetwork(any_model))
    ensure_pad_token(network.model, renderer)
    prompts, responses = random_rows()
    batch = stack_sequences(prompts, responses, 7)
    expected = network(batch)
    target = export(network.model, renderer, tmp_path / "model")

    theirs = AutoModelForSequenceClassification.from_pretrained(target, dtype=torch.float32).eval()
    filler = AutoTokenizer.from_pretrained(target).pad_token_id
    assert filler != EOS
    right = torch.where(batch.mask, batch.ids, filler)
    left, mask = padded_left(batch, filler)
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # absolute positions begin at the first real token
    with torch.no_grad():
        on_the_right = theirs(input_ids=right, attention_mask=batch.mask.long()).logits[:, 0]
        on_the_left = theirs(input_ids=left, attention_mask=mask, position_ids=positions).logits[:, 0]
    torch.testing.assert_close(on_the_right, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(on_the_left, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(RewardNetwork(str(target)).eval()(batch), expected)


def test_padding_with_the_end_of_sequence_would_move_the_score(llama, tiny_model, tmp_path):
    """Why an exported model gets a padding token of its own: plain transformers looks for the last other token."""
    renderer = Renderer.load(tiny_model)
    batch = stack_sequences(*random_rows(), pad_id=EOS)
    llama.model.config.pad_token_id = EOS
    target = export(llama.model, renderer, tmp_path / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(target, dtype=torch.float32).eval()
    wrong = theirs(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[:, 0]
    ends = batch.ids[torch.arange(len(batch)), batch.length - 1] == EOS
    assert ends.sum() == 8
    assert ((wrong - llama(batch)).abs()[ends] > 1e-3).all()


# ---------------------------------------------------------------------- values


def test_values_are_scores_of_what_stands_before_each_token(network):
    prompts, responses = random_rows()
    batch = stack_sequences(prompts, responses, PAD)
    values = network(batch, values=True)
    assert values.shape == batch.response_mask.shape
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        for t in range(len(response)):
            before = prompt + response[:t]
            expected = network(stack_sequences([before[:-1]], [before[-1:]], PAD))[0]
            torch.testing.assert_close(values[row, t], expected, atol=1e-5, rtol=1e-5)


def test_token_scores_are_scores_of_what_stands_up_to_each_token(network):
    prompts, responses = random_rows()
    batch = stack_sequences(prompts, responses, PAD)
    scores = network.token_scores(batch)
    assert scores.shape == batch.response_mask.shape
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        for t in range(len(response)):
            expected = network(stack_sequences([prompt], [response[: t + 1]], PAD))[0]
            torch.testing.assert_close(scores[row, t], expected, atol=1e-5, rtol=1e-5)
    last = scores.gather(1, batch.response_length[:, None] - 1)[:, 0]
    torch.testing.assert_close(last, network(batch), atol=1e-5, rtol=1e-5)


def test_scale_multiplies_scores_and_values(tiny_reward_model):
    batch = stack_sequences(*random_rows(), pad_id=PAD)
    plain, scaled = RewardNetwork(tiny_reward_model).eval(), RewardNetwork(tiny_reward_model, scale=2.5).eval()
    for values in (False, True):
        torch.testing.assert_close(scaled(batch, values), 2.5 * plain(batch, values))
        scores = plain(batch, values)
        assert (scores[batch.response_mask] if values else scores).abs().min() > 0


def test_the_head_computes_in_single_precision_under_autocast(llama):
    states = torch.randn(100, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = llama.score(states)
        body = llama.features(stack_sequences(*random_rows(), pad_id=PAD))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, states @ llama.head.weight[0])
    assert llama.score(body.bfloat16()).dtype == torch.float32


# ---------------------------------------------------------------------- what is refused


def test_a_head_that_is_no_linear_layer_is_refused(tiny_reward_model, monkeypatch):
    def odd(path, kind, dtype):
        model = AutoModelForSequenceClassification.from_pretrained(path)
        model.score = torch.nn.Sequential(torch.nn.Flatten(0), torch.nn.Tanh())
        model.fresh = frozenset()
        return model

    monkeypatch.setattr("lit_rlhf.networks.reward_network.load_model", odd)
    with pytest.raises(DataError, match="no single linear head"):
        RewardNetwork(tiny_reward_model)
