"""Prompt ids and response ids are those of the whole conversation, token by token, whoever wrote the template."""

import importlib.util
from pathlib import Path

import pytest
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.templates import write
from lit_rlhf.data.tool_turns import as_dicts
from tests.data.families import FAMILIES, Family
from tests.data.tokenizers import byte_level

QUESTION = (Message("user", "How are you?"),)
CHAT = (*QUESTION, Message("assistant", "I am fine."), Message("user", "Good. And the fox?"))
WITH_SYSTEM = (Message("system", "Be quick."), *CHAT)
ANSWERS = [
    "I am fine",
    "fine",
    "1. One\n\n2. Two",
    "Good morning!  Thank  you.",
    "- a\n- b\n",
    " fine ",
    "Ä 北京 🙂",
    "?",
]


@pytest.fixture(params=FAMILIES)
def family(request) -> Family:
    return FAMILIES[request.param]


def whole(renderer: Renderer, prompt: tuple[Message, ...], answer: str) -> list[int]:
    text = write(renderer.tokenizer, as_dicts((*prompt, Message("assistant", answer))), False)
    return renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompt_and_response_are_the_whole_conversation(family):
    renderer = Renderer(family.tokenizer())
    for prompt in (QUESTION, CHAT):
        for answer in ANSWERS:
            if answer.startswith(" ") and family.strips:
                continue  # its special tokens swallow the white space behind them: docs/templates.md
            assert renderer.prompt_ids(prompt) + renderer.response_ids(answer) == whole(renderer, prompt, answer)


def test_a_system_turn_stays_whatever_the_template_makes_of_it(family):
    renderer = Renderer(family.tokenizer())
    text = renderer.prompt_text(WITH_SYSTEM)
    assert text.count("Be quick.") == 1
    try:
        expected = whole(renderer, WITH_SYSTEM, "fine")
    except DataError:
        assert "Be quick.\n\nHow are you?" in text, "it stands before the user's first words"
        return
    assert renderer.prompt_ids(WITH_SYSTEM) + renderer.response_ids("fine") == expected


def test_generation_stops_where_the_template_ends_an_answer(family):
    renderer = Renderer(family.tokenizer())
    (sampled,) = renderer.responses_ids(["I am fine"], as_sampled=True)
    assert renderer.tokenizer.convert_ids_to_tokens(sampled[-1]) == family.end
    assert renderer.end_ids[0] == sampled[-1] == renderer.eos_id
    assert set(sampled[:-1]).isdisjoint(renderer.end_ids)
    assert renderer.tokenizer.eos_token_id in renderer.end_ids


def test_declared_ends_stop_generation_too(family, tmp_path):
    from transformers import GenerationConfig, LlamaConfig

    tokenizer = family.tokenizer()
    ends = tokenizer.convert_tokens_to_ids(list(family.declared))
    LlamaConfig().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[*ends, 7]).save_pretrained(tmp_path)
    assert {*ends, 7} <= set(Renderer.load(str(tmp_path)).end_ids)


def test_text_comes_back_from_the_ids(family):
    renderer = Renderer(family.tokenizer())
    for answer in ("I am fine", "fine", "1. One\n\n2. Two", "Good morning!  Thank  you.", "?"):
        ids = renderer.response_ids(answer)
        assert renderer.response_text(ids) == answer
        assert renderer.response_text(renderer.responses_ids([answer], as_sampled=True)[0]) == answer
        assert renderer.response_text(renderer.responses_ids([answer], [True])[0]) == answer


def test_a_beginning_that_the_tokenizer_would_add_by_itself_does_not_come_twice(family):
    renderer, adding = (Renderer(family.tokenizer()) for _ in range(2))
    mark, place = adding.tokenizer.eos_token, adding.tokenizer.eos_token_id
    adding.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{mark} $A", pair=f"{mark} $A $B", special_tokens=[(mark, place)]
    )
    assert adding.tokenizer("fine")["input_ids"][0] == place, "it really adds one"
    assert adding.prompt_ids(CHAT) == renderer.prompt_ids(CHAT)
    assert adding.response_ids("fine") == renderer.response_ids("fine")


@pytest.mark.parametrize("name", ["Qwen 3", "Qwen 3.5", "SmolLM 3"])
def test_an_answer_has_one_think_block(name):
    renderer = Renderer(FAMILIES[name].tokenizer())
    opening, closing = renderer.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    for prompt in (QUESTION, CHAT) if name != "SmolLM 3" else (QUESTION,):  # which writes one into each turn
        ids = renderer.prompt_ids(prompt) + renderer.response_ids("fine")
        assert ids.count(opening) == ids.count(closing) == 1
        assert opening not in renderer.response_ids("fine"), "the policy answers at once"


@pytest.mark.parametrize("name", ["Qwen 3", "Qwen 3.5", "DeepSeek R1"])
def test_reasoning_in_an_answer_is_written_as_the_template_writes_it(name):
    renderer = Renderer(FAMILIES[name].tokenizer())
    opening = renderer.tokenizer.convert_tokens_to_ids("<think>")
    for prompt in (QUESTION, CHAT, WITH_SYSTEM):
        thought, direct = "<think>\nIs it good?\n</think>\n\nIt is.", "It is good."
        asked, answers = renderer.encoded(prompt, [thought, direct])
        for answer, ids in zip((thought, direct), answers, strict=True):
            assert asked + ids == whole(renderer, prompt, answer)
            assert (asked + ids).count(opening) == (0 if name == "DeepSeek R1" else 1)


def test_a_policy_that_is_to_think_is_prompted_as_its_makers_do():
    for name in ("Qwen 3", "Qwen 3.5", "DeepSeek R1"):
        renderer = Renderer(FAMILIES[name].tokenizer(), thinking=True)
        makers = write(renderer.tokenizer, as_dicts(CHAT), True)
        assert renderer.prompt_text(CHAT) == makers


def test_an_answer_that_was_cut_off_has_no_end(family):
    renderer = Renderer(family.tokenizer())
    (cut,) = renderer.responses_ids(["I am fine"], [True])
    assert set(cut).isdisjoint(renderer.end_ids)
    assert renderer.response_ids("I am fine") == [*cut, *renderer.closing_ids]


def test_turns_that_a_template_refuses_are_named():
    renderer = Renderer(FAMILIES["Gemma 2"].tokenizer())
    with pytest.raises(DataError, match="roles must alternate"):
        renderer.prompt_ids((Message("user", "a"), Message("user", "b")))


def test_a_template_that_ends_no_answer_is_made_to_end_it():
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    renderer = Renderer(tokenizer)
    ids = renderer.response_ids("I am fine")
    assert tokenizer.decode(ids) == " I am fine\n<|endoftext|>"
    assert renderer.prompt_ids(QUESTION) + ids == tokenizer.apply_chat_template(
        as_dicts((*QUESTION, Message("assistant", "I am fine"))), return_dict=False
    )
    assert renderer.response_text(ids) == "I am fine"
    again = Renderer(tokenizer)
    assert again.fingerprint == renderer.fingerprint
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    assert tokenizer.decode(Renderer(tokenizer, exact=True).prompt_ids(QUESTION)).endswith("assistant:")


# ---------------------------------------------------------------------- templates as others ship them


def _shipped() -> list[Path]:
    package = importlib.util.find_spec("trl")
    folder = Path(package.submodule_search_locations[0]) / "chat_templates" if package else None  # type: ignore[index]
    of_parts = ("idefics", "llava", "smolvlm")  # whose messages are lists of texts and pictures
    files = sorted(folder.glob("*.jinja")) if folder is not None and folder.is_dir() else []
    return [path for path in files if not path.stem.startswith(of_parts)]


@pytest.mark.parametrize("path", _shipped(), ids=lambda path: path.stem)
def test_templates_that_another_package_carries(path):
    template = path.read_text("utf-8")
    tokenizer = byte_level()
    marks = {mark for name in FAMILIES.values() for mark in (*name.specials, *name.words) if mark and mark in template}
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in sorted(marks)])
    tokenizer.bos_token, tokenizer.chat_template = "<|endoftext|>", template
    renderer = Renderer(tokenizer)
    for prompt in (QUESTION, CHAT):
        for answer in ANSWERS:
            asked, (ids,) = renderer.encoded(prompt, [answer])
            assert asked + ids == whole(renderer, prompt, answer), f"{answer!r} {path.stem}"


def test_a_server_that_renders_itself_is_told_to_answer_at_once():
    family = FAMILIES["Qwen 3"]
    switch = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    tokenizer = family.tokenizer()
    tokenizer.chat_template = family.template.removesuffix("{% endif %}") + switch + "{% endif %}"
    assert Renderer(tokenizer).server_options == {"enable_thinking": False}
    assert Renderer(tokenizer, thinking=True).server_options == {}
    told = tokenizer.apply_chat_template(
        as_dicts(CHAT), tokenize=False, add_generation_prompt=True, **Renderer(tokenizer).server_options
    )
    assert told == Renderer(tokenizer).prompt_text(CHAT)
    assert Renderer(FAMILIES["Llama 3"].tokenizer()).server_options == {}
