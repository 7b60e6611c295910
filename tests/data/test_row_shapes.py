"""The shapes in which people bring their rows: each is read as what it means, or refused with an option that helps."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.records import Message, ToolCall

CASES = Path(os.environ.get("LIT_RLHF_CASES", Path(__file__).parents[2] / "../shared/cases"))
Q, GOOD, BAD = "Which metal is liquid?", "Mercury is.", "Iron."
ASKED = [{"role": "user", "content": Q}]
SHARE_GPT = [{"from": "human", "value": Q}]
CALL = {"name": "melt", "arguments": '{"metal": "gallium"}'}


def said(text, **extra):
    return {"role": "assistant", "content": text, **extra}


@pytest.fixture
def read(tmp_path):
    def records(*rows, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = PairFiles(str(path), **options)
        found = list(source.records())
        return found, source.reports[str(path)]

    return records


PAIRS = [
    {"question": Q, "chosen": GOOD, "rejected": BAD},
    {"Question": Q, "Chosen Response": GOOD, "Rejected Response": BAD},
    {"query": Q, "answer_chosen": GOOD, "answer_rejected": BAD},
    {"instruction": Q, "chosen_response": GOOD, "rejected_response": BAD},
    {"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD},
    {"input": Q, "accepted": GOOD, "rejected": BAD},
    {"prompt": Q, "better": GOOD, "worse": BAD},
    {"prompt": Q, "good_answer": GOOD, "bad_answer": BAD},
    {"prompt": Q, "y_w": GOOD, "y_l": BAD},
    {"post": Q, "win_response": GOOD, "lose_response": BAD},
    {"question": Q, "response_j": GOOD, "response_k": BAD},
    {"prompt": ASKED, "chosen": [said(GOOD)], "rejected": [said(BAD)]},
    {"prompt": ASKED[0], "chosen": said(GOOD), "rejected": said(BAD)},
    {"prompt": Q, "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": json.dumps(ASKED), "chosen": json.dumps([said(GOOD)]), "rejected": json.dumps([said(BAD)])},
    {"prompt": str(ASKED), "chosen": str([said(GOOD)]), "rejected": str([said(BAD)])},
    {"chosen": [*ASKED, said(GOOD)], "rejected": [*ASKED, said(BAD)]},
    {"chosen": json.dumps([*ASKED, said(GOOD)]), "rejected": json.dumps([*ASKED, said(BAD)])},
    {"prompt": "liquid?", "chosen": [*ASKED, said(GOOD)], "rejected": [*ASKED, said(BAD)]},
    {"prompt": Q, "chosen": [*ASKED, said(GOOD)], "rejected": BAD},
    {"conversations": SHARE_GPT, "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}},
    {"conversations": SHARE_GPT, "chosen": GOOD, "rejected": [{"from": "gpt", "value": BAD}]},
    {"messages": ASKED, "chosen": said(GOOD), "rejected": BAD},
    {"messages": [*ASKED, said(GOOD)], "rejected_response": BAD},
    {"prompt": Q, "response_a": BAD, "response_b": GOOD, "winner": "model_b"},
    {"prompt": Q, "response_a": BAD, "response_b": GOOD, "preference": "B"},
    {"prompt": Q, "response_a": BAD, "response_b": GOOD, "label": "A<B"},
    {"prompt": Q, "answer1": BAD, "answer2": GOOD, "better": 2},
    {"prompt": Q, "answer_0": BAD, "answer_1": GOOD, "label": 1},
    {"prompt": Q, "output_1": BAD, "output_2": GOOD, "preferred": "second"},
    {"prompt": Q, "output_1": BAD, "output_2": GOOD, "choice": "output_2"},
    {"prompt": Q, "output_1": BAD, "output_2": GOOD, "best_response": GOOD},
    {"prompt": Q, "response_a": BAD, "response_b": GOOD, "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
    {"prompt": Q, "response_a": BAD, "response_b": GOOD, "model_a": "m", "model_b": "n", "winner": "n"},
    {"prompt": Q, "response_1": BAD, "response_2": GOOD, "preference_strength": 1},
    {"history": Q, "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0},
    {"prompt": Q, "response_1": BAD, "response_2": GOOD, "score_1": 2, "score_2": "7.5"},
    {"prompt": Q, "responses": [BAD, GOOD], "ratings": [1, 5]},
    {"prompt": Q, "responses": [BAD, GOOD], "rank": [2, 1]},
    {"prompt": Q, "completions": [{"text": BAD, "score": 0.1}, {"text": GOOD, "score": 0.9}]},
    {"instruction": Q, "input": "", "output": [GOOD, BAD]},
    {"question": {"full_text": Q, "id": 1}, "answer_0": BAD, "answer_1": GOOD, "score_0": -0.5, "score_1": 0.5},
    {"chosen": [Q, GOOD], "rejected": [Q, BAD]},
    {"prompt": [Q], "chosen": GOOD, "rejected": BAD},
    {
        "prompt": json.dumps([Q]),
        "response_a": json.dumps([BAD]),
        "response_b": json.dumps([GOOD]),
        "winner_model_a": 0,
        "winner_model_b": 1,
    },
    {"prompt_text": Q, "chosen_text": GOOD, "rejected_text": BAD},
    {"prompt": f"\n\nHuman: {Q}\n\nAssistant:", "answers": [{"answer": GOOD, "rank": 1}, {"answer": BAD, "rank": 2}]},
]


@pytest.mark.parametrize("row", PAIRS, ids=lambda row: " ".join(row))
def test_a_pair_in_any_shape_is_the_same_pair(read, row):
    (record,), report = read(row)
    assert [message.content for message in record.prompt] == [Q]
    assert (record.chosen, record.rejected, record.tie) == (GOOD, BAD, False)
    assert {*report.used, *report.left_aside} == set(row)


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize("row", [PAIRS[0], PAIRS[11], PAIRS[16], PAIRS[20], PAIRS[24], PAIRS[37], {"prompt": Q}])
def test_a_system_column_becomes_a_system_turn_in_every_format(read, row, name):
    (record,), report = read({name: "Be brief.", **row})
    assert record.prompt == (Message("system", "Be brief."), Message("user", Q))
    assert name in report.used


def test_a_conversation_keeps_its_own_system_turn_and_the_column_is_counted(read):
    own = [{"role": "system", "content": "Be kind."}, *ASKED]
    (record,), report = read({"system": "Be rude.", "prompt": own, "chosen": [said(GOOD)], "rejected": [said(BAD)]})
    assert record.prompt[0] == Message("system", "Be kind.")
    assert any("system turn of its own" in warning for warning in report.warnings)


DEMONSTRATIONS = [
    {"prompt": Q, "answer": GOOD},
    {"question": Q, "output": GOOD},
    {"instruction": Q, "input": "", "output": GOOD},
    {"messages": [*ASKED, said(GOOD)]},
    {"conversations": [*SHARE_GPT, {"from": "gpt", "value": GOOD}]},
    {"conversation": json.dumps([*ASKED, said(GOOD)])},
    {"messages": [{"role": "User", "content": Q}, {"role": "MODEL", "content": GOOD}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, said([{"text": GOOD}])]},
    {"prompt": Q, "completion": GOOD, "label": True},
    {"prompt": Q, "completion": GOOD, "label": "true"},
    {"prompt": Q, "response": GOOD, "is_safe": True},
    {"prompt": Q, "response": GOOD, "kto_tag": 1},
    {"messages": [*ASKED, said(GOOD)], "label": "desirable"},
]


@pytest.mark.parametrize("row", DEMONSTRATIONS, ids=lambda row: " ".join(row))
def test_a_demonstration_in_any_shape(read, row):
    (record,), _ = read(row)
    assert [message.content for message in record.prompt] == [Q]
    assert (record.chosen, record.rejected) == (GOOD, None)


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("label", (True, False)),
        ("label", ("good", "bad")),
        ("is_safe", (True, False)),
        ("thumbs_up", (1, 0)),
        ("kto_tag", ("1", "0")),
        ("label", ("chosen", "rejected")),
    ],
)
def test_what_is_marked_as_bad_is_no_demonstration(read, name, marks):
    (good, bad), report = read(*({"prompt": Q, "completion": GOOD, name: mark} for mark in marks))
    assert (good.chosen, good.rejected) == (GOOD, None)
    assert (bad.chosen, bad.rejected) == (None, GOOD)
    assert any("marked as bad" in warning for warning in report.warnings)


def test_an_instruction_and_its_input_are_joined_by_a_blank_line(read):
    (record,), _ = read({"instruction": "Translate.", "input": "good day", "output": "guten Tag"})
    assert record.prompt == (Message("user", "Translate.\n\ngood day"),)


def test_earlier_turns_in_a_history_of_pairs(read):
    (record,), _ = read({"instruction": "And a solid one?", "output": BAD, "history": [[Q, GOOD]]})
    assert [turn.role for turn in record.prompt] == ["user", "assistant", "user"]


NAMED_SCORES = [
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("reward_chosen", "reward_rejected"),
]


@pytest.mark.parametrize("names", NAMED_SCORES)
def test_scores_are_kept_whatever_their_names(read, names):
    row = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
    (record, equal, reversed_), report = read(
        *(row | dict(zip(names, pair, strict=True)) for pair in ((4, 1), (2, 2), (1, "3")))
    )
    assert (record.chosen_scores, record.rejected_scores, record.tie) == ((4.0,), (1.0,), False)
    assert equal.tie
    assert (reversed_.chosen, reversed_.chosen_scores, reversed_.rejected_scores) == (GOOD, (1.0,), (3.0,))
    assert any(said.startswith("1 of 3 rows: the chosen response has a lower score") for said in report.warnings)


@pytest.mark.parametrize("name", ["margin", "score_diff", "strength", "Reward Margin", "rating_delta"])
def test_a_margin_is_the_strength(read, name):
    (record,), _ = read({"prompt": Q, "chosen": GOOD, "rejected": BAD, name: 1.5})
    assert record.strength == 1.5


def test_helpsteer_counts_below_zero_for_the_first_response(read):
    rows = [{"context": ASKED, "response1": GOOD, "response2": BAD, "overall_preference": n} for n in (-2, 0, 3)]
    first, tie, second = read(*rows)[0]
    assert (first.chosen, first.strength, first.tie) == (GOOD, 2.0, False)
    assert tie.tie
    assert (second.chosen, second.strength) == (BAD, 3.0)


@pytest.mark.parametrize("word", ["tie", "Tie (bothbad)", "both_bad", "both", "neither", "equal", "A=B"])
def test_a_verdict_may_be_a_tie(read, word):
    (record,), _ = read({"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": word})
    assert record.tie


def test_of_many_graded_responses_the_best_and_the_worst_make_a_pair_or_every_two(read):
    row = {"prompt": Q, "responses": ["b", "a", "c", "d"], "scores": [2, 3, 1, 1]}
    (record,), report = read(row)
    assert (record.chosen, record.rejected, record.responses, record.grades) == (
        "a",
        "d",
        ("b", "a", "c", "d"),
        (2, 3, 1, 1),
    )
    assert any("only the best and the worst" in said for said in report.warnings)
    pairs, _ = read(row, pairs="all")
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
    }
    assert all(pair.chosen_scores > pair.rejected_scores for pair in pairs)


# ---------------------------------------------------------------------- tools and reasoning


@pytest.mark.parametrize(
    "turns",
    [
        [*ASKED, said(None, tool_calls=[{"type": "function", "function": CALL}]), {"role": "tool", "content": "30 C"}],
        [*ASKED, said("", function_call=CALL), {"role": "function", "name": "melt", "content": "30 C"}],
        [*SHARE_GPT, {"from": "function_call", "value": json.dumps(CALL)}, {"from": "observation", "value": "30 C"}],
        [*SHARE_GPT, {"from": "tool_call", "value": json.dumps([CALL])}, {"from": "tool", "value": "30 C"}],
    ],
)
def test_calls_of_tools_and_their_results_are_kept(read, turns):
    tools = [{"type": "function", "function": {"name": "melt", "parameters": None}}]
    (record,), report = read({"conversations": [*turns, said("At 30 C.")], "tools": json.dumps(tools)})
    listed, _, call, result = record.prompt
    assert json.loads(listed.content) == [{"type": "function", "function": {"name": "melt"}}]
    function = {"name": "melt", "arguments": {"metal": "gallium"}}
    assert json.loads(call.extra)["tool_calls"] == [{"type": "function", "function": function}]
    assert (result.role, result.content, record.chosen) == ("tool", "30 C", "At 30 C.")
    assert report.left_aside == []


def test_an_answer_may_be_a_call(read):
    (record,), _ = read({"messages": [*ASKED, said(None, tool_calls=[{"type": "function", "function": CALL}])]})
    assert isinstance(record.chosen, ToolCall)
    assert json.loads(record.chosen)["name"] == "melt"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_stands_before_the_answer_in_one_block(read, key):
    (record,), _ = read({"messages": [*ASKED, said(GOOD, **{key: "Not iron."})]})
    assert record.chosen == f"<think>\nNot iron.\n</think>\n\n{GOOD}"
    whole = f"<think>\nx\n</think>\n\n{GOOD}"
    (record,), _ = read({"messages": [*ASKED, said(whole, **{key: "Not iron."})]})
    assert record.chosen == whole


# ---------------------------------------------------------------------- refused, with the option that settles it


REFUSED = [
    ({"chosen": "Mercury is liquid.", "rejected": "Iron is."}, "no column is known to hold their prompt"),
    ({"chosen": "The metal is Mercury.", "rejected": "The metal is Iron."}, "no column is known to hold their prompt"),
    ({"riddle": Q, "chosen": GOOD, "rejected": BAD, "id": "7"}, "Is 'riddle' the prompt?"),
    ({"prompt": Q, "responses": [GOOD, BAD]}, "nothing tells which are better"),
    ({"prompt": Q, "response_a": GOOD, "response_b": BAD}, "nothing tells which is better"),
    ({"prompt": Q, "response_a": GOOD, "response_b": BAD, "label": 1}, "does not tell whether 'response_a'"),
    ({"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": "the green one"}, "does not tell whether"),
    ({"prompt": Q, "completion": GOOD, "label": 1}, "'label' is a number"),
    ({"question": Q, "instruction": "Answer.", "chosen": GOOD, "rejected": BAD}, "which of these is the prompt"),
    (
        {"conversations": [*SHARE_GPT, {"from": "gpt", "value": GOOD}, {"from": "human", "value": "Thanks"}]},
        "last turn",
    ),
    ({"riddle": Q, "fine": GOOD, "poor": BAD}, "no known format has the fields"),
    ({"riddle": Q, "solution to it": GOOD}, "no known format has the fields"),
    ({"system": "Be brief.", "riddle": Q, "solution to it": GOOD}, "'riddle' the prompt"),
    ({"promt": Q, "chosen": GOOD, "rejected": BAD}, "Is 'promt' the prompt?"),
    ({"prompt": Q, "ideal": GOOD, "flawed": BAD}, "Is 'ideal' the chosen, 'flawed' the rejected?"),
    ({"flawed": BAD, "id": "7", "prompt": Q, "ideal": GOOD}, "Is 'ideal' the chosen, 'flawed' the rejected?"),
    ({"question": Q, "best_answer": GOOD, "incorrect_answers": [BAD, "Tin."]}, "'incorrect_answers' the rejected?"),
    ({"task": "Answer.", "text": Q, "chosen": GOOD, "rejected": BAD}, "which of these is the prompt: task or text?"),
    ({"prompt": Q, "response_0": GOOD, "response_1": BAD, "safer_response_id": 1}, "which response is safer"),
]
REFUSED_FOR_GOOD = [
    ({"prompt": Q, "completions": ["One.", "Two."], "labels": [True, False]}, "steps of one answer"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, said("x")]}, "image_url"),
    ({"id": 3}, "no known format has the fields"),
    ({"prompt": Q, "rejected": BAD}, "'rejected' needs a better response beside it"),
    ({"prompt": Q, "responses": {"model_a": GOOD, "model_b": BAD}, "winner": "model_a"}, "as a list of texts"),
]


def commands(message: str) -> list[dict[str, str]]:
    """The options of each command line in a message."""
    found = []
    for line in re.findall(r"--data\.sources PairFiles (--data\.sources\..*)", message):
        words = shlex.split(line)
        found.append({k.removeprefix("--data.sources."): v for k, v in zip(words[::2], words[1::2], strict=True)})
    return found


def obeyed(hint: dict[str, str]) -> list:
    """What is read with the options of a hint."""
    fields = {name.removeprefix("fields."): value for name, value in hint.items() if name.startswith("fields.")}
    rest = {name: value for name, value in hint.items() if not name.startswith("fields.")}
    return list(PairFiles(**rest, **({"fields": fields} if fields else {})).records())


@pytest.mark.parametrize(("row", "says"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, dict) else "")
def test_a_hint_obeyed_to_the_letter_leads_to_records(read, row, says):
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        read(row)
    hints = commands(str(caught.value))
    assert hints
    for hint in hints:
        assert len(obeyed(hint)) == 1


@pytest.mark.parametrize(("row", "says"), REFUSED_FOR_GOOD)
def test_what_cannot_be_read_is_refused_without_an_option_that_leads_nowhere(read, row, says):
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        read(row)
    assert not commands(str(caught.value))


def test_the_value_that_means_the_first_settles_a_verdict(read):
    rows = [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "label": label} for label in (0, 1)]
    first, second = read(*rows, first_wins=0)[0]
    assert (first.chosen, second.chosen) == (GOOD, BAD)


REFUSED_CASES = ("responses_only", "prm", "ends_human", "system_null")


@pytest.mark.skipif(not CASES.is_dir(), reason="the collected cases are not here")
@pytest.mark.parametrize("path", sorted(map(str, (CASES / "rows").glob("*"))), ids=lambda path: Path(path).stem)
def test_collected_rows_are_read_or_refused_with_hints_that_work(path):
    if Path(path).stem in REFUSED_CASES:
        with pytest.raises(DataError) as caught:
            list(PairFiles(path).records())
        assert all(obeyed(hint) for hint in commands(str(caught.value)))
        return
    rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line]
    assert len(list(PairFiles(path).records())) == len(rows)


REAL = Path(os.environ.get("LIT_RLHF_REAL_DATA", Path(__file__).parents[2] / "../shared/data")) / "preference"
SETS = [path for path in sorted(map(str, REAL.glob("*.jsonl"))) if "raw" not in path and path.endswith(".train.jsonl")]


@pytest.mark.skipif(not SETS, reason="real preference data is not here")
@pytest.mark.parametrize("path", SETS, ids=lambda path: Path(path).stem)
def test_a_prompt_is_never_made_up_of_real_answers(path, tmp_path):
    rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({name: row[name] for name in ("chosen", "rejected")}) + "\n" for row in rows))
    with pytest.raises(DataError, match="no column is known to hold their prompt"):
        list(PairFiles(str(bare)).records())


CONFIG = re.compile(r"Name one of them: (\S+:\w+)$", re.MULTILINE)
FILES = sorted(map(str, (CASES / "files").glob("*")))


@pytest.mark.skipif(not FILES, reason="the collected cases are not here")
@pytest.mark.parametrize("path", FILES, ids=lambda path: Path(path).name)
def test_collected_files_are_read_or_refused_with_hints_that_work(path):
    try:
        records = list(PairFiles(path).records())
    except DataError as error:
        refusal = str(error)
    else:
        assert len(records) == 3
        return
    assert len(refusal.split("\n")) <= 3
    configs = [{"path": name} for name in CONFIG.findall(refusal)]
    for hint in [*commands(refusal), *configs]:
        assert obeyed(hint)
    assert bool(commands(refusal) or configs) == (Path(path).name not in BROKEN_WHOLE)


BROKEN_WHOLE = (
    "pairs.jsonl.zst",
    "zst_named.jsonl",
    "single_quotes.jsonl",
    "utf16.jsonl",
    "latin1.jsonl",
    "trailing_comma.json",
)


def test_scores_under_the_names_of_the_two_sides_are_kept(read):
    row = {"prompt": Q, "chosen": GOOD, "rejected": BAD, "scores": {"chosen": 9, "rejected": 2}}
    (record,), report = read(row)
    assert (record.chosen_scores, record.rejected_scores) == ((9.0,), (2.0,))
    assert "scores" in report.used


@pytest.mark.parametrize("responses", [{"a": GOOD, "b": BAD}, json.dumps({"a": GOOD, "b": BAD})])
def test_responses_as_an_object_are_refused_by_that_word(read, responses):
    with pytest.raises(DataError, match=r"'responses' is an object(.|\n)*as a list of texts"):
        read({"prompt": Q, "responses": responses, "scores": {"a": 1, "b": 0}})
