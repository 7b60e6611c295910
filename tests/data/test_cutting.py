import pytest

from lit_rlhf.data.cutting import cut_prompt, token_starts
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from tests.data.families import FAMILIES

CHAT = (
    Message("system", "Be quick."),
    Message("user", "Who are you? " * 5),
    Message("assistant", "A fox. " * 5),
    Message("user", "The quick fox is good. How are you? And I am fine, thank you."),
)


@pytest.fixture(params=FAMILIES)
def renderer(request) -> Renderer:
    return Renderer(FAMILIES[request.param].tokenizer())


def test_a_cut_prompt_is_a_shorter_conversation_with_the_same_frame(renderer):
    frame = renderer.prompt_ids((CHAT[0], Message("user", "x")))
    last_turn = renderer.prompt_ids((CHAT[0], CHAT[-1]))
    for room in range(len(renderer.prompt_ids(CHAT)) + 1):
        ids = cut_prompt(CHAT, renderer, room)
        if ids is None:
            assert room < len(frame) + 3
            continue
        assert len(ids) <= room
        assert "quick." in renderer.tokenizer.decode(ids), "the system turn stays"
        if room >= len(last_turn):
            assert ids == last_turn, "whole turns leave first"


def test_what_is_left_is_the_end_of_the_last_message_in_the_template_s_frame(renderer):
    content = CHAT[-1].content
    shorter = [renderer.prompt_ids((CHAT[0], Message("user", content[start:]))) for start in range(len(content))]
    for room in range(len(shorter[-1]) + 4, len(shorter[0]), 9):
        assert cut_prompt(CHAT, renderer, room) in shorter


def test_as_much_as_fits_is_kept(renderer):
    prompt = (Message("user", "How are you? I am fine, thank you. " * 4),)
    whole = renderer.prompt_ids(prompt)
    for room in range(len(whole) - 20, len(whole)):
        ids = cut_prompt(prompt, renderer, room)
        assert ids is not None
        assert room - 6 <= len(ids) <= room


def test_words_are_cut_where_a_tokenizer_tells_no_places(renderer, monkeypatch):
    text = "How are you? I am fine,  thank you."
    monkeypatch.setattr(type(renderer.tokenizer), "is_fast", False)
    assert [text[start:].split()[0] for start in token_starts(text, renderer.tokenizer)] == text.split()
