import pytest

from lit_rlhf.data import fields
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


def test_missing_and_null_are_told_apart():
    with pytest.raises(DataError, match="field 'chosen': missing; the row has: prompt, response"):
        fields.require({"prompt": "p", "response": "r"}, "chosen")
    with pytest.raises(DataError, match="field 'chosen': is null"):
        fields.require({"chosen": None}, "chosen")
    assert fields.require({"n": 0}, "n") == 0


def test_share_gpt_keys_give_the_same_messages():
    plain = [{"role": "system", "content": "s"}, USER, ASSISTANT]
    other = [{"from": r, "value": m["content"]} for r, m in zip(("system", "human", "gpt"), plain, strict=True)]
    assert fields.messages(plain, "x") == fields.messages(other, "x")
    assert fields.messages(plain, "x")[1] == Message("user", "q")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text", "field 'chosen': expected a list of messages, found text"),
        ([], "field 'chosen': the list of messages is empty"),
        (["q"], r"field 'chosen\[0\]': expected a message"),
        ([USER, {"role": "user"}], r"field 'chosen\[1\]': a message needs role and content .* it has: role"),
        (
            [{"role": "narrator", "content": "x"}],
            r"field 'chosen\[0\].role': unknown role 'narrator'; known are system, dev",
        ),
        ([{"role": None, "content": "x"}], r"field 'chosen\[0\].role': expected text, found null"),
        ([{"role": "user", "content": {"a": "x"}}], r"field 'chosen\[0\].content': expected text, found an object"),
        ([{"role": "user", "content": [3]}], r"field 'chosen\[0\].content\[0\]': expected a part of text"),
        ([{"role": "user", "content": "\ud800"}], "half a surrogate pair at character 1"),
    ],
)
def test_bad_messages_are_named(value, says):
    with pytest.raises(DataError, match=says):
        fields.messages(value, "chosen")


def test_a_prompt_is_text_or_ends_with_the_user():
    assert fields.prompt("") == (Message("user", ""),)
    assert fields.prompt([USER]) == (Message("user", "q"),)
    with pytest.raises(DataError, match="ends with a turn of the assistant, not of the user"):
        fields.prompt([USER, ASSISTANT])
    with pytest.raises(DataError, match="expected text, found a number"):
        fields.prompt(3)


def test_a_reply_may_repeat_its_prompt():
    asked = fields.prompt([USER])
    same = [fields.reply(value, "chosen", asked) for value in ("a", [ASSISTANT], [USER, ASSISTANT])]
    assert same == ["a", "a", "a"]
    other = {"role": "user", "content": "other"}
    with pytest.raises(DataError, match="expected one turn of the assistant after the prompt, found user, assistant"):
        fields.reply([other, ASSISTANT], "chosen", asked)
    with pytest.raises(DataError, match="found nothing"):
        fields.reply([USER], "chosen", asked)
    with pytest.raises(DataError, match="found assistant, assistant"):
        fields.reply([ASSISTANT, ASSISTANT], "chosen", asked)
    with pytest.raises(DataError, match="field 'chosen': empty response"):
        fields.reply(" \n", "chosen", asked)


def test_a_response_is_kept_to_the_letter():
    assert fields.filled("  indented\n", "chosen") == "  indented\n"


@pytest.mark.parametrize("value", [True, "1", None, [1], float("nan"), float("inf"), 10**400])
def test_only_finite_numbers_are_numbers(value):
    with pytest.raises(DataError, match="field 'score': expected a"):
        fields.number(value, "score")


def test_pairs_share_all_but_their_last_turn():
    prompt = (Message("user", "q"),)
    one, two = (*prompt, Message("assistant", "1")), (*prompt, Message("assistant", "2"))
    assert fields.split_pair(one, two) == (prompt, "1", "2")
    assert fields.split_pair(one, one) == (prompt, "1", "1")
    longer = (*one, Message("user", "r"), Message("assistant", "3"))
    with pytest.raises(DataError, match="field 'rejected': shares no prompt with 'chosen': they differ at turn 2"):
        fields.split_pair(one, longer)
    with pytest.raises(DataError, match="field 'rejected': the last turn is the user's"):
        fields.split_pair(one, prompt)
    with pytest.raises(DataError, match="there is no prompt"):
        fields.split_pair(one[1:], two[1:])
