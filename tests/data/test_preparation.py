import random
from collections import Counter
from dataclasses import replace

import pytest

from lit_rlhf.data import preparation
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.preparation import Counts, tokenise, validation_share, weighted
from lit_rlhf.data.records import Message, Record, Source, prompt_hash
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.world import WorldPairs
from tests.data.families import FAMILIES
from tests.data.tokenizers import byte_level

MANY = 10_000


@pytest.fixture(scope="module")
def renderer(tiny_model) -> Renderer:
    return Renderer.load(tiny_model)


class Listed(Source):
    """A source in memory."""

    def __init__(self, records: list[Record], name: str = "listed", weight: float = 1.0) -> None:
        self.listed, self.name, self.weight = records, name, weight

    def records(self):
        return iter(self.listed)


def pair(text: str, chosen: str | None = "Good.", rejected: str | None = "No.", **more) -> Record:
    return Record((Message("user", text),), chosen, rejected, **more)


# ---------------------------------------------------------------------- the split


def test_validation_shares_are_uniform_and_fixed_for_ever():
    shares = [validation_share(prompt_hash((Message("user", str(i)),))) for i in range(MANY)]
    assert all(0 <= share < 1 for share in shares)
    tenths = Counter(int(10 * share) for share in shares)
    assert sum((tenths[i] - MANY / 10) ** 2 / (MANY / 10) for i in range(10)) < 28  # χ², 9 degrees of freedom, 0.1 %
    # A published validation set must not change with a release: this one is written down.
    prompt = (Message("system", "Be brief."), Message("user", "Größe?"))
    assert validation_share(prompt_hash(prompt)) == pytest.approx(0.23773028691194042, abs=1e-12)


# ---------------------------------------------------------------------- weights


def test_half_the_weight_takes_a_fixed_half_in_order():
    records = [pair(str(i)) for i in range(MANY)]
    half = list(weighted(Listed(records, weight=0.5), seed=0))
    assert abs(len(half) - MANY / 2) < 4 * (MANY / 4) ** 0.5
    positions = [int(record.prompt[0].content) for record in half]
    assert positions == sorted(set(positions))
    assert half == list(weighted(Listed(records, weight=0.5), seed=0))
    for other in (weighted(Listed(records, weight=0.5), seed=1), weighted(Listed(records, "b", 0.5), seed=0)):
        shared = len(set(positions) & {int(record.prompt[0].content) for record in other})
        assert abs(shared - MANY / 4) < 4 * (3 * MANY / 16) ** 0.5, "another seed or source chooses independently"


@pytest.mark.parametrize(("weight", "least", "most"), [(1.0, 1, 1), (2.0, 2, 2), (2.5, 2, 3)])
def test_weights_from_one_on_repeat(weight, least, most):
    records = [pair(str(i)) for i in range(MANY)]
    uses = Counter(record.prompt[0].content for record in weighted(Listed(records, weight=weight), seed=0))
    assert len(uses) == MANY
    assert (min(uses.values()), max(uses.values())) == (least, most)
    assert abs(sum(uses.values()) - weight * MANY) < 4 * (MANY / 4) ** 0.5


# ---------------------------------------------------------------------- what is kept


RECORDS = [
    pair("Give a tip", "Good.", "No."),
    pair("Give a tip", "No.", "Good."),
    pair("What is good", "Good.", "Good."),
    pair("What is good", "Good.", "No.", tie=True),
    pair("What is good", "Good.", None),
    pair("Give a tip", None, None),
    pair("a " * 40, "Good.", "No."),
    pair("Give", "Good. " * 30, "No."),
]


@pytest.mark.parametrize(
    ("view", "counts"),
    [
        ("pairs", Counts(kept=2, identical=1, tie=1, incomplete=2, over_length=2)),
        ("responses", Counts(kept=5, incomplete=1, over_length=2)),
        ("prompts", Counts(kept=3, repeated=4, over_length=1)),
    ],
)
def test_counts_say_why_each_record_was_left_out(renderer, view, counts):
    found = Counts()
    rows = list(tokenise(RECORDS, renderer, view, found, max_length=40))
    assert found == counts
    assert len(rows) == found.kept
    assert sum(vars(found).values()) == len(RECORDS)


@pytest.mark.parametrize("view", ["pairs", "responses", "prompts"])
def test_records_are_tokenised_in_blocks_that_leave_no_trace(renderer, monkeypatch, view):
    def run(block: int) -> tuple[list, Counts]:
        monkeypatch.setattr(preparation, "_BLOCK", block)
        counts = Counts()
        return list(tokenise(RECORDS, renderer, view, counts, max_length=40)), counts

    assert run(1) == run(2) == run(3) == run(1000)


def test_counts_read_as_a_sentence():
    assert str(Counts(kept=12345, over_length=2, in_validation=1)) == "12,345 kept, 2 over length, 1 in validation"
    assert str(Counts()) == "0 kept"


@pytest.mark.parametrize(("view", "filled"), [("pairs", (1, 1)), ("responses", (1, 0)), ("prompts", (0, 0))])
def test_a_view_tokenises_what_it_needs_as_the_renderer_does(renderer, view, filled):
    records = list(WorldPairs(30, seed=1).records())
    for row in tokenise(records, renderer, view, Counts(), max_length=512):
        assert row.prompt == renderer.prompt_ids(row.record.prompt)
        assert row.chosen == (renderer.response_ids(row.record.chosen) if filled[0] else [])
        assert row.rejected == (renderer.response_ids(row.record.rejected) if filled[1] else [])
        assert row.length == max(len(row.prompt + row.chosen), len(row.prompt + row.rejected))


def test_a_row_may_be_as_long_as_the_limit_and_no_longer(renderer):
    records = list(WorldPairs(50, seed=2).records())
    lengths = [row.length for row in tokenise(records, renderer, "pairs", Counts(), 512)]
    limit = sorted(lengths)[25]
    counts = Counts()
    kept = [row.length for row in tokenise(records, renderer, "pairs", counts, limit)]
    assert kept == [length for length in lengths if length <= limit]
    assert counts.over_length == 50 - len(kept) > 0


def test_cutting_a_prompt_keeps_its_frame_and_its_end_and_the_whole_responses(renderer):
    record = pair("a " * 40, "Good.", "No no no.")
    (whole,) = tokenise([record], renderer, "pairs", Counts(), 512)
    frame = renderer.prompt_ids((Message("user", "a"),))
    longest = max(len(whole.chosen), len(whole.rejected))
    for limit in range(whole.length + 2):
        counts = Counts()
        rows = list(tokenise([record], renderer, "pairs", counts, limit, cut=True))
        if limit < longest + len(frame):  # not one token of the message would be left
            assert (rows, counts.over_length) == ([], 1)
            continue
        (row,) = rows
        assert row.length == min(limit, whole.length)
        assert row.prompt == frame[:1] + whole.prompt[-len(row.prompt) + 1 :]
        assert (row.chosen, row.rejected) == (whole.chosen, whole.rejected)
        assert counts == Counts(kept=1, cut=int(limit < whole.length))
        assert ("1 of them with a prompt that was cut" in str(counts)) == (limit < whole.length)


def test_a_conversation_that_the_template_refuses_is_named_by_its_row():
    tokenizer = byte_level()
    tokenizer.chat_template = FAMILIES["Gemma 2"].template
    refused = Record((Message("user", "a"), Message("user", "b")), "x", "y", location="data.jsonl:3")
    with pytest.raises(
        DataError, match=r"^data\.jsonl:3: the chat template cannot write a conversation of user, user: .*alternate"
    ):
        list(tokenise([pair("a"), refused], Renderer(tokenizer), "pairs", Counts(), 512))


def test_a_response_that_was_cut_off_gets_no_end(renderer):
    record = replace(pair("a", "Good.", "No no no."), meta={"truncated": ["rejected"]})
    (row,) = tokenise([record], renderer, "pairs", Counts(), 512)
    assert row.chosen == renderer.response_ids("Good.")
    assert row.rejected == renderer.responses_ids(["No no no."], [True])[0]


def test_reasoning_is_written_once_for_both_responses():
    tokenizer = FAMILIES["Qwen 3"].tokenizer()
    renderer, opening = Renderer(tokenizer), tokenizer.convert_tokens_to_ids("<think>")
    rows = list(
        tokenise(
            [pair("a", "<think>\nno\n</think>\n\nyes", "yes"), pair("a", "b", "c")], renderer, "pairs", Counts(), 512
        )
    )
    for row in rows:
        assert [(row.prompt + ids).count(opening) for ids in (row.chosen, row.rejected)] == [1, 1]
    assert opening not in rows[0].prompt
    assert opening in rows[1].prompt, "who does not reason answers at once"


def test_prompts_are_kept_once_in_the_order_of_their_first_coming(renderer):
    texts = [random.Random(3).choice("abcdefgh") for _ in range(100)]
    counts = Counts()
    rows = tokenise([pair(text) for text in texts], renderer, "prompts", counts, 100)
    assert [row.record.prompt[0].content for row in rows] == list(dict.fromkeys(texts))
    assert counts.kept + counts.repeated == 100


def test_a_prompt_without_tokens_is_an_error_that_says_where(tiny_model):
    renderer = Renderer.load(tiny_model, template="plain")
    with pytest.raises(DataError, match=r"data\.jsonl:7: the rendered prompt has no tokens"):
        list(tokenise([pair("", location="data.jsonl:7")], renderer, "prompts", Counts(), 100))
