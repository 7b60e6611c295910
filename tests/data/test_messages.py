"""Messages in unusual shapes: texts that only look like a list of them, and calls that no template could write."""

import json
import warnings

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import prompt, reply
from lit_rlhf.data.messages import messages, spelled_out, tools
from lit_rlhf.data.records import Message

ASKED = {"role": "user", "content": "When does tin melt?"}


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


LOOK_LIKE_LISTS = [
    "{{}}",
    "{{ name }}, when does tin melt?",
    "{[]: 1}",
    "[{}, {}]",
    "[1",
    "[" * 3000,
    "[" + "-" * 3000 + "1]",
    "[" + "1+" * 3000 + "1]",
    "['\\d+']",
    "[0x]",
    "{'role': 'user'}",
    "[\0]",
]


@pytest.mark.parametrize("text", LOOK_LIKE_LISTS, ids=lambda text: text[:12])
def test_a_text_that_only_looks_like_a_list_is_a_text(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spelled_out(text) == text
        assert prompt(text) == (Message("user", text),)


CALLED = {"role": "assistant", "content": None}


@pytest.mark.parametrize("levels", [200, 900])
def test_what_is_nested_too_deeply_for_a_template_is_refused(levels):
    call = {"name": "melt", "arguments": nested(levels)}
    for calls in ([call], [{"function": call}], json.dumps([call])):
        with pytest.raises(DataError, match=r"(?s)nested more than 100 levels deep|call of a tool as JSON"):
            messages([ASKED, CALLED | {"tool_calls": calls}], "prompt")
    with pytest.raises(DataError, match="nested more than 100 levels deep"):
        messages(
            [ASKED, CALLED | {"tool_calls": [{"name": "melt", "arguments": "[" * levels + "]" * levels}]}], "prompt"
        )
    with pytest.raises(DataError, match="field 'tools': nested more than 100 levels deep"):
        tools([call], "tools")
    assert messages([ASKED, CALLED | {"tool_calls": [{"name": "melt", "arguments": nested(50)}]}], "prompt")


TURNS = [ASKED, {"role": "assistant", "content": "At 232 C."}]
PRINTED = "[{'role': 'user', 'content': 'When does tin melt?'}\n {'role': 'assistant', 'content': 'At 232 C.'}]"


@pytest.mark.parametrize("text", [PRINTED, *(json.dumps(TURNS)[:end] for end in (12, 30, 45, 60, -1))])
def test_a_list_of_messages_that_was_cut_off_or_printed_by_numpy_is_no_text(text):
    for read in (lambda: prompt(text), lambda: reply(text, "chosen", ())):
        with pytest.raises(DataError, match=r"(?s)a list of messages as text, but.*json\.dumps"):
            read()


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user", "content": "hi"}] What does this mean?',
        'What is missing here? [{"role": "user"',
        '[{"value": 1}, {"value": 2}]',
        '{"role": "user"}',
        "[{'role': name}]",
        '[{"name": "x',
        '[{"value": 1},\n{"value": 2}]',
    ],
)
def test_texts_about_messages_are_texts(text):
    assert prompt(text) == (Message("user", text),)
    assert reply(text, "chosen", ()) == text
