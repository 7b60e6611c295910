import json
import math
import statistics
from random import Random

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.preparation import Counts, tokenise
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.world import Annotator, prompt_bias
from lit_rlhf.world.checked import CheckedPrompts, SampledPairs, StubPairs, checked_gold, met_by_kind
from lit_rlhf.world.checked.requests import checked_prompts

PIECES = [
    "Well, I like it.",
    "It is small and old.",
    "People like the world because of it",
    "Is it good?",
    "Le monde est bon.",
]


def write(folder, rows):
    store = Store(folder)
    store.begin({"policy": "p"})
    store.write_part(0, rows)
    store.finish(1)
    return str(folder)


def row(record, responses, truncated=None, **other):
    return {
        "prompt_hash": record.prompt_hash,
        "messages": [{"role": message.role, "content": message.content} for message in record.prompt],
        "responses": responses,
        "truncated": truncated or [False] * len(responses),
        "meta": json.dumps(record.meta),
        **other,
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four made-up responses to each of 300 prompts, some of them cut off."""
    rng, rows = Random(0), []
    for record in CheckedPrompts(300).records():
        texts = [f"{rng.choice(PIECES)} The {record.meta['topic']} {i}." for i in range(4)]
        rows.append(row(record, texts, [rng.random() < 0.3 for _ in texts]))
    return write(tmp_path_factory.mktemp("samples") / "store", rows)


def golds(pair):
    return (pair.meta["gold_chosen"], pair.meta["gold_rejected"])


def test_pairs_know_their_truth(store):
    pairs = list(SampledPairs(store, annotator=Annotator(temperature=0.3, flip_rate=0.2)).records())
    assert pairs == list(SampledPairs(store, annotator=Annotator(temperature=0.3, flip_rate=0.2)).records())
    wrong = 0
    for number, pair in enumerate(pairs):
        sides = {"chosen": pair.chosen, "rejected": pair.rejected}
        again = [
            checked_gold(pair.meta["topic"], pair.meta["constraints"], text, side in pair.meta["truncated"])
            for side, text in sides.items()
        ]
        assert again == list(golds(pair))
        assert pair.location == f"sampled:{number}"
        assert pair.chosen != pair.rejected
        assert pair.tie == (again[0] == again[1])
        assert pair.chosen_is_better == (None if pair.tie else again[0] > again[1])
        wrong += pair.chosen_is_better is False
    assert 0.2 < wrong / len(pairs) < 0.45


def test_no_pair_of_a_prompt_comes_twice_and_none_has_more_than_asked_for(store):
    for most in (1, 3):
        seen: dict[str, set[frozenset[str]]] = {}
        pairs = list(SampledPairs(store, pairs=most).records())
        for pair in pairs:
            both = frozenset((pair.chosen, pair.rejected))
            assert both not in seen.setdefault(pair.prompt_hash, set())
            seen[pair.prompt_hash].add(both)
        assert max(map(len, seen.values())) == most


def test_the_widest_pairs_are_those_whose_gold_differs_most(store):
    def gaps(choice, most):
        found: dict[str, list[float]] = {}
        for pair in SampledPairs(store, pairs=most, choice=choice).records():
            found.setdefault(pair.prompt_hash, []).append(pair.meta["gold_chosen"] - pair.meta["gold_rejected"])
        return {prompt: sorted(map(abs, values), reverse=True) for prompt, values in found.items()}

    every = gaps("random", 100)
    assert gaps("widest", 2) == {prompt: values[:2] for prompt, values in every.items()}
    assert gaps("random", 2) != gaps("widest", 2)


def test_stubs_are_the_beginnings_of_responses_and_lose(store):
    pairs = list(StubPairs(store).records())
    assert pairs == list(StubPairs(store).records())
    assert len({pair.prompt_hash for pair in pairs}) == len(pairs) == 300
    texts = {row["prompt_hash"]: row["responses"] for row in Store(store).rows()}
    for pair in pairs:
        again = [checked_gold(pair.meta["topic"], pair.meta["constraints"], pair.rejected), pair.meta["gold_rejected"]]
        assert again == [-1.0, -1.0]
        assert pair.chosen_is_better
        assert pair.chosen in texts[pair.prompt_hash]
        assert any(text.startswith(pair.rejected) for text in texts[pair.prompt_hash])
        assert "rejected" not in pair.meta["truncated"]
    noisy = StubPairs(store, annotator=Annotator(temperature=0.0, flip_rate=0.4)).records()
    assert 0.3 < statistics.fmean(pair.chosen_is_better is False for pair in noisy) < 0.5


def test_responses_that_are_no_longer_than_a_stub_give_none(tmp_path):
    record = next(iter(CheckedPrompts(1).records()))
    folder = write(tmp_path / "short", [row(record, ["Yes.", "No way.", ""])])
    assert list(StubPairs(folder).records()) == []
    folder = write(tmp_path / "joined", [row(record, ["one/two/three/four"])])
    assert [pair.rejected for pair in StubPairs(folder).records()] == ["one"]


def test_the_annotator_changes_labels_and_never_texts(store):
    def texts(annotator):
        return [(r.prompt, {r.chosen, r.rejected}) for r in SampledPairs(store, annotator=annotator).records()]

    assert texts(None) == texts(Annotator(temperature=2.0, flip_rate=0.3, length_bias=1.0, seed=5))


def test_without_noise_the_better_one_is_chosen(store):
    pairs = [pair for pair in SampledPairs(store).records() if not pair.tie]
    assert pairs
    assert all(pair.chosen_is_better and not pair.meta["flipped"] for pair in pairs)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_the_flip_rate_is_realised_even_where_it_varies_with_the_prompt(store, rate):
    annotator = Annotator(temperature=0.0, flip_rate=rate, flip_spread=1.0)
    flipped = [pair.meta["flipped"] for pair in SampledPairs(store, annotator=annotator).records()]
    assert statistics.fmean(flipped) == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / len(flipped)))


def test_traits_of_prompts_are_scaled_on_the_prompts_of_their_own_world():
    prompts = checked_prompts(Random("other"), 2000)
    values = [prompt_bias(prompt, checked_prompts) for prompt in prompts]
    assert statistics.fmean(values) == pytest.approx(0.0, abs=0.1)
    assert statistics.pstdev(values) == pytest.approx(1.0, abs=0.1)
    there = Annotator(flip_rate=0.2, flip_spread=1.0).of_world(lambda prompt, response: 0.0, checked_prompts)
    assert statistics.fmean(map(there.flip_probability, prompts)) == pytest.approx(0.2, abs=0.02)


def test_another_world_leaves_the_annotator_itself_where_it_was():
    annotator = Annotator(length_bias=0.5)
    moved = annotator.of_world(lambda prompt, response: 7.0, checked_prompts)
    assert moved.score("Anything.", "One two") == 8.0
    prompt = "How do I burn a candle?"
    assert annotator.score(prompt, "No.") == Annotator(length_bias=0.5).score(prompt, "No.")


def test_a_bias_for_length_pulls_its_way(store):
    def longer(bias):
        pairs = SampledPairs(store, annotator=Annotator(temperature=0.1, length_bias=bias)).records()
        return statistics.fmean(len(pair.chosen.split()) - len(pair.rejected.split()) for pair in pairs)

    assert longer(-1.0) < longer(0.0) < longer(1.0)


def test_ambiguous_pairs_are_nearly_equal(tmp_path):
    record = next(iter(CheckedPrompts(1, kinds=["max_words"]).records()))
    record.meta["constraints"] = [{"kind": "max_words", "count": 15}]
    topic = record.meta["topic"]
    texts = [f"The {topic} is old.", f"The {topic} is", f"The {topic} is, the", f"The {topic} is old {'and ' * 30}"]
    folder = write(tmp_path / "store", [row(record, texts)])

    def gaps(ambiguous):
        every = (SampledPairs(folder, 1, seed, Annotator(ambiguous=ambiguous)).records() for seed in range(20))
        return {round(abs(golds(pair)[0] - golds(pair)[1]), 3) for pairs in every for pair in pairs}

    assert gaps(1.0) == {min(gaps(0.0))}
    assert len(gaps(0.0)) > 2


def test_prompts_whose_responses_earn_the_same_are_counted_as_ties(tmp_path, tiny_model):
    records = list(CheckedPrompts(3, kinds=["max_words"]).records())
    same = [f"The {records[0].meta['topic']} is {word}." for word in ("old", "new", "big")]
    folder = write(
        tmp_path / "store",
        [
            row(records[0], same),
            row(records[1], ["Alike."] * 3),  # one response: no pair at all
            row(records[2], [f"The {records[2].meta['topic']} is old.", "No"]),
        ],
    )
    pairs = list(SampledPairs(folder).records())
    assert [pair.tie for pair in pairs] == [True, False]
    counts = Counts()
    kept = list(tokenise(pairs, Renderer.load(tiny_model), "pairs", counts, 200))
    assert (len(kept), counts.tie) == (1, 1)


def test_a_response_that_was_cut_off_gets_no_end(tmp_path, tiny_model):
    record = next(iter(CheckedPrompts(1, kinds=["max_words"]).records()))
    good, cut = f"The {record.meta['topic']} is old.", f"The {record.meta['topic']} is"
    folder = write(tmp_path / "store", [row(record, [good, cut], [False, True])])
    [pair] = SampledPairs(folder).records()
    assert pair.meta["truncated"] == ["rejected"]
    renderer = Renderer.load(tiny_model)
    [kept] = tokenise([pair], renderer, "pairs", Counts(), 200)
    assert [kept.chosen, kept.rejected] == renderer.responses_ids([good, cut], [False, True])
    assert kept.rejected != renderer.response_ids(cut)


def test_a_store_that_does_not_say_what_was_asked_is_refused(tmp_path):
    record = next(iter(CheckedPrompts(1).records()))
    older = row(record, ["A b c.", "D e f."])
    del older["meta"]
    for name, rows, named in (
        ("older", [older], "older version"),
        ("other", [row(record, ["A b c.", "D e f."]) | {"meta": "{}"}], record.prompt_hash),
    ):
        with pytest.raises(DataError, match=named):
            list(SampledPairs(write(tmp_path / name, rows)).records())
    with pytest.raises(DataError, match="there is no store"):
        list(SampledPairs(str(tmp_path / "nowhere")).records())
    with pytest.raises(DataError, match="pairs"):
        SampledPairs("store", pairs=0)
    with pytest.raises(DataError, match=r"choice: is 'best'.*\n.*random or widest"):
        SampledPairs("store", choice="best")  # type: ignore[arg-type]


def test_rates_by_kind_are_counted(tmp_path):
    record = next(iter(CheckedPrompts(1, kinds=["max_words"]).records()))
    record.meta["constraints"] = [{"kind": "max_words", "count": 8}]
    folder = write(tmp_path / "store", [row(record, ["Short.", "Also short.", "word " * 20, "Short too."])])
    assert met_by_kind(folder) == {"max_words": (4, 0.75)}
