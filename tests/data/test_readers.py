import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data import public_readers, readers
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.formats import FORMATS, detect_format
from lit_rlhf.data.records import Message, Record

SYSTEM = {"role": "system", "content": "be kind"}
ASKED = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
PROMPT = (Message("user", "q"), Message("assistant", "a"), Message("user", "r"))
TRANSCRIPT = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"
POST = {"id": "t3_1", "post": "a long story ", "title": "A title", "subreddit": "advice", "article": None}


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


PAIR = Record(PROMPT, "good", "bad")
SHORT = Record(PROMPT[:1], "good", "bad")
BAD = Record(PROMPT[:1], rejected="bad")
GRADED = Record(PROMPT[:1], "good", "bad", responses=("bad", "good"), grades=(1.0, 4.0))
EXAMPLES = [
    ("explicit", {"query": "q", "response": "good", "rejected_response": "bad"}, SHORT),
    ("explicit", {"query": "r", "response": "good", "rejected_response": "bad", "history": [["q", "a"]]}, PAIR),
    ("explicit", {"query": "r", "output": "good", "bad_response": "bad", "history": ASKED[:2]}, PAIR),
    ("explicit", {"prompt": "", "question": "q", "chosen": "good", "rejected": "bad"}, SHORT),
    (
        "explicit",
        {"input": {"messages": ASKED}, "preferred_output": said("good"), "non_preferred_output": said("bad")},
        PAIR,
    ),
    ("explicit", {"prompt": "r", "messages": ASKED, "chosen": "good", "rejected": "bad"}, PAIR),
    (
        "explicit",
        {"developer": "be kind", "prompt": "q", "chosen": "good", "rejected": "bad"},
        Record((Message("system", "be kind"), *PROMPT[:1]), "good", "bad"),
    ),
    (
        "demonstration",
        {"conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "good"}]},
        Record(PROMPT, "good"),
    ),
    ("demonstration", {"conversations": ["q", "good"]}, Record(PROMPT[:1], "good")),
    ("prompt", {"conversation": ["q", "a", "r"]}, Record(PROMPT)),
    ("graded", {"prompt": "q", "responses": [str(said("bad")), "good"], "scores": [1, 4]}, GRADED),
    ("graded", {"prompt": "q", "responses": [said("bad"), said("good")], "rating": [1, 4]}, GRADED),
    ("graded", {"prompt": "q", "answers": [{"text": "bad", "votes": 1}, {"text": "good", "votes": 4}]}, GRADED),
    (
        "graded",
        {"prompt": "q", "responses": ["bad", "good"], "best_index": 1},
        Record(PROMPT[:1], "good", "bad", responses=("bad", "good"), grades=(0.0, 1.0)),
    ),
    (
        "graded",
        {"prompt": "q", "responses": ["bad", "good"], "preferred_response": "good"},
        Record(PROMPT[:1], "good", "bad", responses=("bad", "good"), grades=(0.0, 1.0)),
    ),
    (
        "graded",
        {"prompt": "q", "response_1": "good", "response_2": "x", "response_3": "bad", "best": "response_1"},
        Record(PROMPT[:1], "good", "bad", responses=("good", "x", "bad"), grades=(1.0, 0.0, 0.0)),
    ),
    ("compared", {"prompt": "q", "responseA": "bad", "responseB": "good", "betterResponse": "B"}, SHORT),
    ("explicit", {"userPrompt": "q", "chosenResponse": "good", "rejectedResponse": "bad"}, SHORT),
    ("prompt", {"contents": [{"role": "user", "parts": [{"text": "q"}]}]}, Record(PROMPT[:1])),
    (
        "demonstration",
        {"chat": [{"role": "USER", "message": "q"}, {"role": "CHATBOT", "message": "good"}]},
        Record(PROMPT[:1], "good"),
    ),
    (
        "demonstration",
        {
            "messages": [
                *ASKED,
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "good"}],
                },
            ]
        },
        Record(PROMPT, "<think>\nhm\n</think>\n\ngood"),
    ),
    (
        "prompt",
        {"prompt": "q", "tools": {"name": "look"}},
        Record((Message("tools", '[{"name": "look"}]'), *PROMPT[:1])),
    ),
    ("graded", {"prompt": "q", "responses": ["bad", "so so", "good"], "ratings": ["1", "N/A", 4]}, GRADED),
    ("explicit", {"prompt": "q", "chosen": {"text": "good"}, "rejected": {"text": "bad"}, "margin": "large"}, SHORT),
    ("marked", {"prompt": "q", "response": "bad", "is_good": -1}, BAD),
    ("marked", {"prompt": "q", "response": "bad", "liked": False}, BAD),
    ("marked", {"prompt": "q", "response": "bad", "is_toxic": True}, BAD),
    ("marked", {"prompt": "q", "response": "good", "is_toxic": 0}, Record(PROMPT[:1], "good")),
    ("marked", {"prompt": "q", "response": "bad", "quality": "bad"}, BAD),
    ("marked", {"prompt": TRANSCRIPT, "response": "bad", "label": False}, Record(PROMPT, rejected="bad")),
    ("demonstration", {"prompt": TRANSCRIPT, "answer": "good"}, Record(PROMPT, "good")),
    ("explicit", {"prompt": "q", "chosen": "good", "rejected": "bad"}, Record(PROMPT[:1], "good", "bad")),
    ("explicit", {"prompt": ASKED, "chosen": "good", "rejected": said("bad")}, PAIR),
    ("explicit", {"prompt": "", "chosen": "b", "rejected": "b"}, Record((Message("user", ""),), "b", "b")),
    ("explicit", {"prompt": "q", "chosen": "x", "rejected": "y", "tie": True}, Record(PROMPT[:1], "x", "y", tie=True)),
    ("conversational", {"prompt": ASKED, "chosen": said("good"), "rejected": said("bad")}, PAIR),
    ("conversational", {"prompt": ASKED, "chosen": ASKED + said("good"), "rejected": said("bad")}, PAIR),
    ("implicit", {"chosen": ASKED + said("good"), "rejected": ASKED + said("bad")}, PAIR),
    ("implicit", {"chosen": ASKED + said("good"), "rejected": ASKED + said("good")}, Record(PROMPT, "good", "good")),
    ("hh", {"chosen": f"{TRANSCRIPT} good", "rejected": f"{TRANSCRIPT} bad"}, PAIR),
    ("hh", {"prompt": TRANSCRIPT, "chosen": " good", "rejected": "bad\n"}, PAIR),
    ("hh", {"prompt": TRANSCRIPT.lstrip(), "chosen": "good", "rejected": "bad"}, PAIR),
    ("hh", {"prompt": TRANSCRIPT, "response": "good"}, Record(PROMPT, "good")),
    ("hh", {"prompt": TRANSCRIPT}, Record(PROMPT)),
    (
        "hh-strength",
        {
            "chosen": ["q", "a", "r", "good"],
            "rejected": ["q", "a", "r", "bad"],
            "chosen score list": [1.0, 2.0],
            "rejected score list": [0.5, 3],
            "mean preference difference": -0.25,
            "std preference difference": 0.75,
            "GPT4 label": 0,
        },
        Record(
            PROMPT,
            "good",
            "bad",
            chosen_scores=(1.0, 2.0),
            rejected_scores=(0.5, 3.0),
            strength=-0.25,
            meta={"gpt4_label": 0},
        ),
    ),
    (
        "hh-strength",
        {
            "chosen": ["q", "good"],
            "rejected": ["q", "bad"],
            "chosen_score_list": [1.0, 2.0],
            "rejected_score_list": [0.0, 0.5],
            "GPT4 label": -1,
        },
        Record(PROMPT[:1], "good", "bad", chosen_scores=(1.0, 2.0), rejected_scores=(0.0, 0.5), strength=1.25),
    ),
    (
        "ultrafeedback-binarized",
        {
            "prompt": "q",
            "prompt_id": "0",
            "chosen": [ASKED[0], *said("good")],
            "rejected": [ASKED[0], *said("bad")],
            "messages": [ASKED[0], *said("good")],
            "score_chosen": 8.5,
            "score_rejected": 7,
        },
        Record(PROMPT[:1], "good", "bad", chosen_scores=(8.5,), rejected_scores=(7.0,)),
    ),
    (
        "ultrafeedback-binarized",
        {"chosen": ASKED + said("good"), "rejected": ASKED + said("bad"), "score_chosen": 5, "score_rejected": 5.0},
        Record(PROMPT, "good", "bad", chosen_scores=(5.0,), rejected_scores=(5.0,), tie=True),
    ),
    (
        "safe-rlhf",
        {"prompt": "q", "response_0": "bad", "response_1": "good", "better_response_id": 1, "safer_response_id": 0},
        Record(PROMPT[:1], "good", "bad"),
    ),
    (
        "tldr",
        {"info": POST, "summaries": [{"text": " bad "}, {"text": " good"}], "choice": 1, "worker": "w"},
        Record(
            (Message("user", "SUBREDDIT: r/advice\n\nTITLE: A title\n\nPOST: a long story\n\nTL;DR:"),), "good", "bad"
        ),
    ),
    (
        "tldr",
        {"info": {"article": "news", "post": None}, "summaries": [{"text": "good"}, {"text": "bad"}], "choice": 0},
        Record((Message("user", "ARTICLE: news\n\nTL;DR:"),), "good", "bad"),
    ),
    ("demonstration", {"prompt": "q", "response": "good"}, Record(PROMPT[:1], "good")),
    ("demonstration", {"prompt": ASKED, "completion": said("good")}, Record(PROMPT, "good")),
    ("demonstration", {"messages": ASKED + said("good"), "prompt": "q"}, Record(PROMPT, "good")),
    (
        "demonstration",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]},
        Record(PROMPT[:1], "good"),
    ),
    ("marked", {"prompt": "q", "completion": "good", "label": True}, Record(PROMPT[:1], "good")),
    ("marked", {"prompt": "q", "completion": "bad", "label": False}, Record(PROMPT[:1], rejected="bad")),
    (
        "compared",
        {"prompt": "q", "response_a": "bad", "response_b": "good", "preferred": "b"},
        Record(PROMPT[:1], "good", "bad"),
    ),
    (
        "compared",
        {"context": ASKED, "response1": "good", "response2": "bad", "overall_preference": -3},
        Record(PROMPT, "good", "bad", strength=3.0),
    ),
    (
        "compared",
        {"history": "q", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0, "score_A": 2, "score_B": 9},
        Record(PROMPT[:1], "good", "bad", chosen_scores=(9.0,), rejected_scores=(2.0,)),
    ),
    (
        "compared",
        {"conversation_a": ASKED + said("good"), "conversation_b": ASKED + said("bad"), "winner": "tie"},
        Record(PROMPT, "good", "bad", tie=True),
    ),
    (
        "graded",
        {"prompt": "q", "responses": ["so", "good", "bad"], "scores": [5, 9.5, 1]},
        Record(PROMPT[:1], "good", "bad", responses=("so", "good", "bad"), grades=(5.0, 9.5, 1.0)),
    ),
    (
        "graded",
        {"prompt": TRANSCRIPT, "answers": [{"answer": "bad", "rank": 2}, {"answer": "good", "rank": 1}]},
        Record(PROMPT, "good", "bad", responses=("bad", "good"), grades=(-2.0, -1.0)),
    ),
    (
        "graded",
        {"prompt": "q", "chosen": ["good"], "rejected": ["bad", "so"]},
        Record(PROMPT[:1], "good", "so", responses=("good", "bad", "so"), grades=(1.0, 0.0, 0.0)),
    ),
    (
        "ranked",
        {"instruction": "q", "input": "", "output": ["good", "bad"]},
        Record(PROMPT[:1], "good", "bad", responses=("good", "bad"), grades=(0.0, -1.0)),
    ),
    ("prompt", {"prompt": ASKED, "difficulty": 3}, Record(PROMPT)),
    ("prompt", {"prompt": [SYSTEM, ASKED[0]]}, Record((Message("system", "be kind"), PROMPT[0]))),
]


@pytest.mark.parametrize(("name", "row", "expected"), EXAMPLES)
def test_each_format_is_recognised_and_read(name, row, expected):
    assert detect_format(row) == name
    assert FORMATS[name](row) == expected


def test_every_format_that_is_recognised_has_an_example():
    assert {name for name, _, _ in EXAMPLES} == set(FORMATS) - {"unprompted", "stepwise"}


def test_texts_without_a_prompt_are_read_when_asked_for():
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    assert detect_format(row) is None
    assert FORMATS["implicit"](row) == Record((Message("user", "The sky is"),), "blue.", "black.")
    assert FORMATS["unprompted"](row) == Record((Message("user", ""),), row["chosen"], row["rejected"])


def test_steps_with_labels_are_refused_by_name():
    row = {"prompt": "q", "completions": ["one", "two"], "labels": [True, False]}
    assert detect_format(row) == "stepwise"
    with pytest.raises(DataError, match=r"field 'completions': steps of one answer.*no preferences"):
        FORMATS["stepwise"](row)


def test_the_other_label_of_safe_rlhf():
    row = next(row for name, row, _ in EXAMPLES if name == "safe-rlhf")
    assert public_readers.read_safe_rlhf(row, label="safer_response_id") == Record(PROMPT[:1], "bad", "good")


BROKEN = [
    ("explicit", {"prompt": "q", "chosen": "x"}, "field 'rejected': missing"),
    ("explicit", {"prompt": "q", "chosen": "x", "rejected": " "}, "field 'rejected': empty response"),
    ("explicit", {"prompt": "q", "chosen": 7, "rejected": "y"}, "field 'chosen': expected text, found a number"),
    ("explicit", {"prompt": ASKED[:2], "chosen": "x", "rejected": "y"}, "field 'prompt': the prompt ends with"),
    ("conversational", {"prompt": "q", "chosen": said("x"), "rejected": said("y")}, "field 'prompt': expected a list"),
    ("implicit", {"chosen": ASKED + said("x"), "rejected": ASKED[:1] + said("y")}, "shares no prompt"),
    ("implicit", {"chosen": ASKED, "rejected": ASKED}, "field 'chosen': the last turn is the user's"),
    ("implicit", {"chosen": "same", "rejected": "same"}, "field 'rejected': the same as 'chosen'"),
    ("implicit", {"chosen": "blue sky", "rejected": "black sky"}, "does not begin with the same words"),
    ("implicit", {"chosen": "The sky", "rejected": "The sky is"}, "field 'chosen': empty response"),
    ("hh", {"chosen": f"{TRANSCRIPT} x", "rejected": "\n\nHuman: z\n\nAssistant: y"}, "differ at turn 1"),
    ("hh", {"chosen": f"{TRANSCRIPT} x", "rejected": TRANSCRIPT}, "field 'rejected': empty response"),
    ("hh", {"chosen": f"{TRANSCRIPT} x\n\nHuman: y", "rejected": "Human: z"}, "the last turn is the user's"),
    ("hh", {"prompt": "no transcript", "chosen": "x", "rejected": "y"}, "field 'prompt': no transcript"),
    ("hh", {"prompt": TRANSCRIPT, "chosen": "x"}, "field 'rejected': missing"),
    ("hh-strength", {"chosen": ["q"], "rejected": ["q", "x"]}, "an even number of turns.*found 1 of them"),
    ("hh-strength", {"chosen": ["q", "x"], "rejected": ["q", "y"]}, "field 'chosen score list': missing"),
    (
        "hh-strength",
        {"chosen": ["q", "x"], "rejected": ["q", "y"], "chosen score list": [1, 2], "rejected score list": [1]},
        "field 'rejected score list': 1 scores against 2",
    ),
    ("safe-rlhf", {"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 2}, "0 or 1, found 2"),
    ("safe-rlhf", {"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": True}, "0 or 1"),
    ("safe-rlhf", {"prompt": "q", "response_0": "x", "response_1": "y"}, "field 'better_response_id': missing"),
    ("tldr", {"info": POST, "summaries": [{"text": "x"}], "choice": 0}, "two summaries, found 1 of them"),
    ("tldr", {"info": {}, "summaries": [{"text": "x"}, {"text": "y"}], "choice": 0}, "field 'info.post': missing"),
    ("tldr", {"info": POST, "summaries": [{"text": "x"}, "y"], "choice": 0}, r"field 'summaries\[1\]'"),
    ("ultrafeedback-binarized", {"prompt": "q", "chosen": "x", "rejected": "y"}, "field 'score_chosen': missing"),
    ("demonstration", {"prompt": "q"}, "field 'response': missing"),
    ("demonstration", {"messages": said("x")}, "field 'messages': there is no prompt"),
    ("marked", {"prompt": "q", "completion": "x", "label": "maybe"}, "field 'label': expected true or false"),
    ("compared", {"prompt": "q", "response_a": "x", "response_b": "y"}, "field 'response_a': nothing says which"),
    ("graded", {"prompt": "q", "responses": ["x", "y"], "scores": [1]}, "one number for each of 2 responses"),
    ("graded", {"prompt": "q", "responses": "x"}, "field 'responses': expected a list of responses"),
    ("ranked", {"prompt": "q", "responses": []}, "field 'responses': expected a list of responses"),
    ("prompt", {"text": "q"}, "field 'prompt': missing; the row has: text"),
]


@pytest.mark.parametrize(("name", "row", "says"), BROKEN)
def test_a_bad_row_names_its_field(name, row, says):
    with pytest.raises(DataError, match=says):
        FORMATS[name](row)


plain = st.text(st.sampled_from("ab:é \n"), min_size=1).map(str.strip).filter(bool)


@given(st.lists(plain, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2), plain, plain, st.booleans())
def test_whole_transcripts_and_parted_ones_give_the_same_record(turns, better, worse, stray):
    speakers = ("Human", "Assistant")
    prompt = "".join(f"\n\n{speakers[i % 2]}: {turn}" for i, turn in enumerate(turns)) + "\n\nAssistant:"
    better = f"well\n\nAssistant: {better}" if stray else better
    parted = public_readers.read_hh({"prompt": prompt, "chosen": better, "rejected": worse})
    assert public_readers.read_hh({"chosen": f"{prompt} {better}", "rejected": f"{prompt} {worse}"}) == parted
    assert [message.content for message in parted.prompt] == turns


@given(plain, plain, plain)
def test_an_implicit_text_prompt_is_shared_and_nothing_is_lost(prompt, better, worse):
    row = {"chosen": f"{prompt} {better}", "rejected": f"{prompt} {worse}"}
    try:
        record = readers.read_implicit(row)
    except DataError:
        assert better.split()[0] == worse.split()[0] or better == worse
        return
    head = record.prompt[0].content
    for response, whole in ((record.chosen, row["chosen"]), (record.rejected, row["rejected"])):
        assert whole.startswith(head)
        assert whole.split() == head.split() + response.split()


words = st.sampled_from(["", " ", "x", "the y", "\ud800", TRANSCRIPT, f"{TRANSCRIPT} a", "Human: q", "Assistant: "])
roles = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", None])
message = st.fixed_dictionaries({}, optional={"role": roles, "content": words, "from": roles, "value": words})
conversation = st.lists(st.sampled_from([*ASKED, *said("a"), *said("b"), SYSTEM]), max_size=4)
numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.sampled_from([0, 1, 10**400]))
leaf = st.one_of(st.none(), words, st.text(max_size=5), numbers)
anything = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
value = st.one_of(anything, conversation, st.lists(message, max_size=3), st.lists(words, max_size=4), st.lists(numbers))
info = st.fixed_dictionaries({}, optional={key: anything for key in ("post", "title", "subreddit", "article", "text")})
VOCABULARY = sorted({key for _, row, _ in EXAMPLES for key in row} | {"tie"})
changes = st.dictionaries(st.sampled_from(VOCABULARY), value, max_size=1)
rows = st.one_of(
    st.dictionaries(st.sampled_from(VOCABULARY), value, max_size=6),
    st.dictionaries(st.text(max_size=3), anything, max_size=3),
    st.fixed_dictionaries({"info": info, "summaries": st.lists(info, max_size=3), "choice": value}),
)


def check(record: Record) -> None:
    assert isinstance(record.prompt, tuple)
    assert record.prompt[-1].role in ("user", "tool")
    for turn in record.prompt:
        assert turn.role in ("tools", "system", "user", "assistant", "tool")
        turn.content.encode("utf-8")
    for response in (record.chosen, record.rejected):
        assert response is None or response.strip()
    assert len(record.responses) == len(record.grades)
    assert isinstance(record.tie, bool)
    scores = (record.chosen_scores, record.rejected_scores)
    assert (scores[0] is None) == (scores[1] is None)
    for score in (*(scores[0] or ()), *(scores[1] or ()), record.strength or 0.0):
        assert isinstance(score, float)
        assert math.isfinite(score)


def attempt(name: str, row: dict) -> Record | str:
    try:
        return FORMATS[name](row)
    except DataError as error:
        return str(error)


def check_all(row: dict) -> None:
    assert detect_format(row) in (None, *FORMATS)
    for name in FORMATS:
        outcome = attempt(name, row)
        if isinstance(outcome, Record):
            check(outcome)
        else:
            assert "field '" in outcome


@settings(max_examples=300, deadline=None)
@given(rows)
def test_any_row_gives_a_valid_record_or_a_data_error(row):
    check_all(row)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([row for _, row, _ in EXAMPLES]), changes)
def test_a_good_row_with_one_field_changed_does_too(row, change):
    check_all(row | change)


def test_a_prompt_that_shows_a_picture_is_refused_and_a_picture_that_no_prompt_shows_is_left_aside():
    row = {"prompt": "<image> What is it?", "images": ["a.png"], "chosen": "A cat.", "rejected": "A dog."}
    with pytest.raises(DataError, match="'images': pictures"):
        FORMATS["explicit"](row)
    assert FORMATS["explicit"](row | {"prompt": "What is it?"}).chosen == "A cat."
    assert FORMATS["explicit"](row | {"images": []}).chosen == "A cat."
