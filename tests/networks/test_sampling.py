import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences, pad_rows
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.sampling import Sampling, draw, sample
from lit_rlhf.world import tokenizer

EOS, PAD, WORDS = tokenizer().eos_token_id, tokenizer().pad_token_id, len(tokenizer())
LIKELY = 12  # words that a talkative model mostly uses; the end of the sequence is one of them
GREEDY = Sampling(max_new_tokens=24, temperature=0.0)


def talkative(path: str) -> PreTrainedModel:
    """A model whose answers vary and end early, late or never: it mostly uses a few words, in any order."""
    model = load_model(path, "causal").eval()
    head = nn.Linear(model.config.hidden_size, WORDS)
    with torch.no_grad():
        head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(4))
        head.bias.fill_(-12.0)[:LIKELY] = 0.0
        head.bias[EOS] = 2.0
    model.set_output_embeddings(head)
    return model.requires_grad_(False)


@pytest.fixture
def model(any_model) -> PreTrainedModel:
    return talkative(any_model)


@pytest.fixture
def llama(tiny_model) -> PreTrainedModel:
    return talkative(tiny_model)


def some_prompts(lengths=(3, 9, 1, 20, 12, 7, 5, 16)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(6, WORDS, (n,), generator=generator).tolist() for n in lengths]
    rows[1][4] = EOS
    return pad_rows(rows, PAD)


def generated(model: PreTrainedModel, prompts: Tensor, lengths: Tensor, limit: int, end: int = EOS) -> list[list[int]]:
    """What transformers generates for each prompt alone."""
    answers = []
    for ids, length in zip(prompts, lengths.tolist(), strict=True):
        options = {"do_sample": False, "max_new_tokens": limit, "eos_token_id": end, "pad_token_id": PAD}
        output = model.generate(ids[None, :length], attention_mask=torch.ones(1, length, dtype=torch.long), **options)
        answers.append(output[0, length:].tolist())
    return answers


# ---------------------------------------------------------------------- greedy decoding


@pytest.mark.parametrize("k", [1, 3])
def test_greedy_answers_are_those_of_transformers_token_for_token(model, k):
    prompts, lengths = some_prompts()
    expected = generated(model, prompts, lengths, GREEDY.max_new_tokens)
    ends = [answer[-1] == EOS for answer in expected]
    assert any(ends), "some answer ends"
    assert not all(ends), "some does not"
    assert len({len(answer) for answer in expected}) > 2, "they end at different times"
    sequences, truncated = sample(model, prompts, lengths, EOS, GREEDY, k=k)
    assert sequences.response_lists() == [answer for answer in expected for _ in range(k)]
    assert truncated.tolist() == [not end for end in ends for _ in range(k)]


def test_greedy_answers_do_not_depend_on_the_company(model):
    prompts, lengths = some_prompts()
    together = sample(model, prompts, lengths, EOS, GREEDY)[0].response_lists()
    for rows in ([0], [3], [5, 2], [1, 4, 6, 7]):
        width = int(lengths[rows].max())
        part = sample(model, prompts[rows][:, :width], lengths[rows], EOS, GREEDY)[0].response_lists()
        assert part == [together[row] for row in rows]


def test_prompts_of_equal_length_need_no_mask_and_answer_alike(model):
    prompts, lengths = some_prompts((6,) * 5)
    sequences, _ = sample(model, prompts, lengths, EOS, GREEDY, k=2)
    expected = generated(model, prompts, lengths, GREEDY.max_new_tokens)
    assert sequences.response_lists() == [answer for answer in expected for _ in range(2)]


def test_long_answers_are_those_of_transformers_too(model):
    prompts, lengths = some_prompts((5, 11))
    sequences, _ = sample(model, prompts, lengths, WORDS - 1, Sampling(100, temperature=0.0), k=2)
    expected = generated(model, prompts, lengths, 100, end=WORDS - 1)
    assert sequences.response_lists() == [answer for answer in expected for _ in range(2)]
    assert len(expected[0]) == 100


def test_padding_of_the_prompts_does_not_matter(llama):
    prompts, lengths = some_prompts()
    expected, _ = sample(llama, prompts, lengths, EOS, GREEDY)
    noise = torch.randint(WORDS, (len(prompts), 30), generator=torch.Generator().manual_seed(1))
    noise[:, : prompts.shape[1]] = torch.where(
        torch.arange(prompts.shape[1]) < lengths[:, None], prompts, noise[:, : prompts.shape[1]]
    )
    found, _ = sample(llama, noise, lengths, EOS, GREEDY)
    assert found.response_lists() == expected.response_lists()
    assert torch.equal(found.prompt_length, lengths)
    assert all(torch.equal(a[:n], b[:n]) for a, b, n in zip(found.ids, expected.ids, expected.length, strict=True))


def test_dropout_is_off_while_sampling_and_on_again_afterwards(write_model):
    model = talkative(write_model("gpt2"))
    assert model.config.resid_pdrop > 0
    prompts, lengths = some_prompts()
    expected = sample(model, prompts, lengths, EOS, GREEDY)[0].response_lists()
    assert not model.training
    model.train()
    assert sample(model, prompts, lengths, EOS, GREEDY)[0].response_lists() == expected
    assert model.training
    with pytest.raises(DataError, match="exceeds the model's 256 positions"):
        sample(model, prompts, lengths, EOS, Sampling(max_new_tokens=250))
    assert model.training


# ---------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("k", [1, 4])
def test_rows_are_prompts_with_their_answers_in_order(llama, k):
    prompts, lengths = some_prompts()
    sampling = Sampling(max_new_tokens=10)
    sequences, truncated = sample(llama, prompts, lengths, EOS, sampling, torch.Generator().manual_seed(0), k)
    assert isinstance(sequences, Sequences)
    assert len(sequences) == len(truncated) == len(prompts) * k
    assert truncated.dtype == torch.bool
    assert sequences.ids.shape[1] == int(sequences.length.max())
    assert 0 < truncated.sum() < len(truncated)
    for row, answer in enumerate(sequences.response_lists()):
        length = int(lengths[row // k])
        assert sequences.prompt_length[row] == length
        assert torch.equal(sequences.ids[row, :length], prompts[row // k, :length])
        assert EOS not in answer[:-1]
        assert bool(truncated[row]) == (answer[-1] != EOS)
        assert len(answer) == 10 or answer[-1] == EOS
        assert 1 <= len(answer) <= 10


def test_an_answer_that_ends_with_the_last_allowed_token_is_not_truncated(llama):
    prompts, lengths = some_prompts()
    answers = sample(llama, prompts, lengths, EOS, GREEDY)[0].response_lists()
    row = next(i for i, answer in enumerate(answers) if answer[-1] == EOS and len(answer) > 1)
    for limit in (len(answers[row]) - 1, len(answers[row])):
        sampling = Sampling(max_new_tokens=limit, temperature=0.0)
        sequences, truncated = sample(llama, prompts, lengths, EOS, sampling)
        assert sequences.response_lists() == [answer[:limit] for answer in answers]
        assert bool(truncated[row]) == (limit < len(answers[row]))


def test_prompts_share_their_prefill_and_finished_rows_leave(llama, monkeypatch):
    rows, forward = [], llama.forward

    def spy(input_ids, **inputs):
        rows.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(llama, "forward", spy)
    prompts, lengths = some_prompts()
    sequences, truncated = sample(llama, prompts, lengths, EOS, Sampling(40), torch.Generator().manual_seed(0), k=8)
    (prefill, *steps) = rows
    assert prefill == (8, 20)
    sizes = [count for count, width in steps]
    assert {width for _, width in steps} == {1}
    going = [int((sequences.response_length > t).sum()) for t in range(1, len(steps) + 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(need <= size for need, size in zip(going, sizes, strict=True))
    assert all(size == 64 or need > 0.75 * size for need, size in zip(going, sizes, strict=True) if size != need)
    assert sizes[-1] < 64 / 2
    assert len(steps) == int(sequences.response_length.max()) - 1
    assert not truncated.all()


# ---------------------------------------------------------------------- randomness


def test_the_same_seed_draws_the_same(llama):
    prompts, lengths = some_prompts()

    def answers(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return sample(llama, prompts, lengths, EOS, Sampling(12), generator, k=2)[0].response_lists()

    state = torch.get_rng_state()
    first = answers(0)
    torch.rand(5)
    assert answers(0) == first
    torch.set_rng_state(state)
    assert answers(1) != first
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def chi_square_is_plausible(counts: Tensor, probabilities: Tensor) -> bool:
    """Pearson's test at a level of 0.1 % (Wilson–Hilferty), over tokens that are expected at least five times."""
    expected = probabilities.double() * counts.sum()
    often = expected >= 5
    observed = torch.cat([counts[often].double(), counts[~often].sum().double()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    if expected[-1] < 5:  # too rare for a bin of its own
        observed[0], expected[0] = observed[0] + observed[-1], expected[0] + expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    freedom = len(expected) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    return float(((observed - expected) ** 2 / expected).sum()) < limit


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_frequencies_follow_the_softmax_at_the_temperature(temperature):
    logits = torch.tensor([2.0, 0.3, -1.0, 1.2, 0.0, -0.4, 1.9, -8.0])
    sampling = Sampling(temperature=temperature)
    drawn = draw(logits.expand(20_000, -1), sampling, torch.Generator().manual_seed(0))
    counts = drawn.bincount(minlength=8)
    assert chi_square_is_plausible(counts, (logits / temperature).softmax(-1))
    for other in (0.7 * temperature, 1.4 * temperature):
        assert not chi_square_is_plausible(counts, (logits / other).softmax(-1)), "the test can tell"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_and_second_tokens_follow_the_model(llama, temperature):
    prompts, lengths = some_prompts((4, 9))
    sampling = Sampling(max_new_tokens=2, temperature=temperature)
    sequences, _ = sample(llama, prompts, lengths, EOS, sampling, torch.Generator().manual_seed(0), k=4000)
    for row in range(2):
        answers = sequences[row * 4000 : (row + 1) * 4000].response_lists()
        prompt = prompts[row, : lengths[row]]
        first = torch.tensor([answer[0] for answer in answers]).bincount(minlength=WORDS)
        assert chi_square_is_plausible(first, (llama(prompt[None]).logits[0, -1] / temperature).softmax(-1))
        first[EOS] = 0
        word = first.argmax()
        second = torch.tensor([answer[1] for answer in answers if answer[0] == word]).bincount(minlength=WORDS)
        logits = llama(torch.cat([prompt, word[None]])[None]).logits[0, -1]
        assert chi_square_is_plausible(second, (logits / temperature).softmax(-1))


def nucleus(probabilities: list[float], top_p: float) -> tuple[set[int], float]:
    """The smallest set of likeliest tokens that reaches ``top_p``, and how close the decision was."""
    kept: set[int] = set()
    total, margin = 0.0, 1.0
    for token in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        margin = min(margin, abs(total - top_p))
        if total >= top_p:
            break
        kept.add(token)
        total += probabilities[token]
    return kept, margin


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.floats(-4, 4), min_size=2, max_size=9, unique=True),
    top_p=st.floats(0.05, 1.0),
    top_k=st.integers(0, 10),
    temperature=st.sampled_from([0.5, 1.0, 1.5]),
)
def test_nothing_outside_nucleus_and_top_k_is_ever_drawn(logits, top_p, top_k, temperature):
    scaled = torch.tensor(logits, dtype=torch.float64) / temperature
    order = scaled.argsort(descending=True).tolist()
    likeliest = order[: top_k or len(logits)]
    assume(scaled.sort().values.diff().min() > 1e-4)
    probabilities = torch.zeros_like(scaled)
    probabilities[likeliest] = scaled[likeliest].softmax(-1)
    kept, margin = nucleus(probabilities.tolist(), top_p)
    kept &= set(likeliest)
    assume(margin > 1e-5 or top_p == 1)
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    drawn = draw(torch.tensor(logits).expand(2000, -1), sampling, torch.Generator().manual_seed(0))
    counts = drawn.bincount(minlength=len(logits))
    assert {token for token, count in enumerate(counts.tolist()) if count} <= kept
    inside = torch.tensor([token in kept for token in range(len(logits))])
    within = probabilities * inside / (probabilities * inside).sum()
    assert ((counts - 2000 * within).abs() <= 6 * (2000 * within * (1 - within)).sqrt() + 1e-6).all()


@pytest.mark.parametrize("options", [{}, {"top_p": 0.5}, {"top_k": 2}, {"temperature": 0.0}])
@pytest.mark.parametrize("row", [[0.0, float("nan"), 2.0], [0.0, float("inf"), 1.0], [-float("inf")] * 3])
def test_a_policy_whose_logits_are_not_finite_draws_nothing(options, row):
    with pytest.raises(DataError, match="not finite"):
        draw(torch.tensor([[0.0, 1.0, 2.0], row]), Sampling(**options))


def test_a_tiny_temperature_takes_the_likeliest():
    logits = torch.tensor([[0.0, 5.0, 4.0]]).expand(100, -1)
    assert (draw(logits, Sampling(temperature=1e-39)) == 1).all()


def test_the_last_token_is_drawn_when_all_mass_lies_on_it():
    logits = torch.full((1000, 7), -torch.inf)
    logits[:, -1] = 3.0
    assert (draw(logits, Sampling()) == 6).all()


def test_every_row_has_a_nucleus_of_its_own():
    logits = torch.tensor([[5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
    rows = logits.repeat_interleave(500, 0)
    drawn = draw(rows, Sampling(top_p=0.7), torch.Generator().manual_seed(0)).reshape(3, 500)
    assert [set(row.tolist()) for row in drawn] == [{0}, {2, 3}, {1, 2, 3}]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1.0}, "temperature: expected 0 or more, found -1.0"),
        ({"top_p": 0.0}, "top_p: expected above 0 and at most 1, found 0.0"),
        ({"top_p": 1.5}, "top_p: expected above 0 and at most 1, found 1.5"),
        ({"top_k": -1}, "top_k: expected 0 or more, found -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, found 0"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(DataError, match=f"sampling, {says}"):
        Sampling(**options)
