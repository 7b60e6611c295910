import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message, Source
from lit_rlhf.data.texts import LabelledTexts, TextPrompts


@pytest.fixture
def write(tmp_path):
    def to_file(rows) -> str:
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return to_file


def labelled(positive: int, negative: int) -> list[dict]:
    rows = [{"text": f"good {i}", "label": "pos"} for i in range(positive)]
    return rows + [{"text": f"bad {i}", "label": "neg"} for i in range(negative)]


def test_every_positive_text_is_paired_with_a_negative_one(write):
    path = write(labelled(6, 6))
    source = LabelledTexts(path, positive="pos", prompt="Review:", name="reviews")
    records = list(source.records())
    assert isinstance(source, Source)
    assert [record.chosen for record in records] == [f"good {i}" for i in range(6)]
    assert sorted(record.rejected for record in records) == [f"bad {i}" for i in range(6)]
    assert {record.prompt for record in records} == {(Message("user", "Review:"),)}
    assert {record.source for record in records} == {"reviews"}
    assert [record.location for record in records] == [f"{path}:{i}" for i in range(1, 7)]


def test_pairing_depends_on_the_seed_alone(write):
    path = write(labelled(20, 20))

    def rejected(seed: int) -> list[str]:
        return [record.rejected for record in LabelledTexts(path, positive="pos", seed=seed).records()]

    assert rejected(0) == rejected(0)
    assert rejected(0) != rejected(1)
    source = LabelledTexts(path, positive="pos")
    assert list(source.records()) == list(source.records())


@pytest.mark.parametrize(("positive", "negative", "pairs"), [(5, 3, None), (3, 5, 17), (4, 7, 2)])
def test_texts_are_used_about_equally_often(write, positive, negative, pairs):
    source = LabelledTexts(write(labelled(positive, negative)), positive="pos", pairs=pairs)
    records = list(source.records())
    count = positive if pairs is None else pairs
    assert len(records) == count
    for texts, size in (([r.chosen for r in records], positive), ([r.rejected for r in records], negative)):
        uses = Counter(texts)
        assert max(uses.values()) == -(-count // size)
        assert len(uses) == min(size, count)


@pytest.mark.parametrize(
    ("rows", "positive", "says"),
    [
        (labelled(2, 2), 1, "expected two labels, the positive one being 1; found 'pos', 'neg'"),
        (labelled(2, 0), "pos", "found 'pos'"),
        ([*labelled(1, 1), {"text": "so so", "label": "mid"}], "pos", "found 'pos', 'neg', 'mid'"),
        ([{"text": "a", "label": [1]}], 1, "field 'label': expected a whole number or text, found a list"),
        ([{"text": "", "label": 1}], 1, "texts.jsonl:1: field 'text': empty"),
        ([{"label": 1}], 1, "field 'text': missing"),
    ],
)
def test_labels_that_make_no_pairs_are_an_error(write, rows, positive, says):
    with pytest.raises(DataError, match=says):
        list(LabelledTexts(write(rows), positive=positive).records())


def test_labelled_texts_skip_and_count_bad_rows(write):
    rows = [{"text": "x", "label": None}, *labelled(2, 2), {"text": 3, "label": "pos"}]
    source = LabelledTexts(write(rows), positive="pos", on_bad_row="skip")
    for _ in range(2):
        assert len(list(source.records())) == 2
        assert source.bad_rows == 2


blanks = st.text(st.sampled_from(" \n\t"), min_size=1, max_size=3)
words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=5).filter(
    lambda w: not re.search(r"\s", w)
)


@given(st.lists(st.tuples(words, blanks), min_size=2, max_size=8), st.data())
def test_prompt_and_rest_make_up_the_text(parts, data):
    count = data.draw(st.integers(1, len(parts) - 1))
    text = "".join(word + blank for word, blank in parts)
    prompt, rest = TextPrompts("unused.jsonl", words=count)._cut({"text": text})
    assert prompt.split() == [word for word, _ in parts[:count]]
    assert text.startswith(prompt)
    assert text.rstrip().endswith(rest)
    assert text.split() == prompt.split() + rest.split()
    assert prompt == prompt.strip()
    assert rest == rest.strip()


def test_text_prompts_are_demonstrations_with_their_place(write):
    path = write([{"story": "Once upon a time there was"}, {"story": "too short"}])
    source = TextPrompts(path, text_field="story", words=3, on_bad_row="skip", name="stories")
    (record,) = source.records()
    assert record.prompt == (Message("user", "Once upon a"),)
    assert (record.chosen, record.rejected) == ("time there was", None)
    assert (record.source, record.location, source.bad_rows) == ("stories", f"{path}:1", 1)
    with pytest.raises(DataError, match=r"texts\.jsonl:2: field 'story': expected more than 3 words, found 2"):
        list(TextPrompts(path, text_field="story", words=3).records())
    assert len(list(TextPrompts(path, text_field="story", words=3, limit=1).records())) == 1


def test_bad_options_are_refused():
    with pytest.raises(DataError, match="words: expected a positive number"):
        TextPrompts("a.jsonl", words=0)
    with pytest.raises(DataError, match="pairs: expected a positive number"):
        LabelledTexts("a.jsonl", pairs=0)
