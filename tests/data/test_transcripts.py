import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.transcripts import is_open_transcript, is_transcript, parse_prompt, parse_reply, parse_transcript

SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def write(turns) -> str:
    return "".join(f"\n\n{SPEAKERS[turn.role]}: {turn.content}" for turn in turns)


contents = st.text(st.sampled_from("ab:\n 1é"), min_size=1).map(str.strip).filter(bool)
conversations = st.lists(contents, min_size=1, max_size=6).map(
    lambda texts: tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
)


@given(conversations, st.sampled_from(["", "\n", "  "]))
def test_writing_and_parsing_are_inverse(turns, ending):
    assert parse_transcript(write(turns) + ending, "x") == turns
    # The blank line in front of the first turn may be missing.
    assert parse_transcript(write(turns).lstrip(), "x") == turns


def test_only_a_blank_line_and_a_speaker_begin_a_turn():
    turns = parse_transcript("Human: the Human: said\nAssistant: no\n\nHumans: yes\n\nAssistant: ok", "x")
    assert turns == (Message("user", "the Human: said\nAssistant: no\n\nHumans: yes"), Message("assistant", "ok"))


def test_turns_of_one_speaker_in_a_row_become_one():
    text = "Human: a\n\nAssistant: b\n\nAssistant:\n\nAssistant: c\n\nHuman: d\n\nHuman: e"
    expected = (Message("user", "a"), Message("assistant", "b\n\nc"), Message("user", "d\n\ne"))
    assert parse_transcript(text, "x") == expected


@pytest.mark.parametrize("text", ["", "  \n", "Hello\n\nHuman: a", "human: a", "Human a"])
def test_text_that_is_no_transcript_is_refused(text):
    assert not is_transcript(text)
    with pytest.raises(DataError, match="field 'prompt': no transcript"):
        parse_transcript(text, "prompt")


def test_a_prompt_may_end_with_the_open_turn_of_the_assistant_or_without():
    asked = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert parse_prompt(write(asked), "prompt") == asked
    assert parse_prompt(write(asked) + "\n\nAssistant:", "prompt") == asked
    assert is_open_transcript(write(asked) + "\n\nAssistant: ")
    assert not is_open_transcript(write(asked))
    for text in (write(asked[:2]), "\n\nAssistant:", write(asked[:2]) + "\n\nAssistant:"):
        with pytest.raises(DataError, match=r"turn of the assistant, not of the user|there is no prompt"):
            parse_prompt(text, "prompt")


def test_a_reply_is_stripped_cleared_of_stray_markers_and_holds_no_human_turn():
    assert parse_reply("  just\n\nAssistant: this \n", "chosen") == "just\n\nthis"
    with pytest.raises(DataError, match="further turn"):
        parse_reply("yes\n\nHuman: thanks", "chosen")
    with pytest.raises(DataError, match="empty response"):
        parse_reply(" \n", "chosen")
