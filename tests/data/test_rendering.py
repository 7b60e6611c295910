import json
from datetime import datetime

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import TEMPLATES, Renderer
from lit_rlhf.world import WorldDemonstrations, tokenizer
from tests.data.tokenizers import CHATML, FAMILIES, TEXTS, byte_level

QUESTION = (Message("user", "How are you?"),)
CHAT = (
    Message("system", "Be brief."),
    Message("user", "Who are you?"),
    Message("assistant", "A fox."),
    Message("user", "How are you?"),
)


@pytest.fixture(params=FAMILIES)
def bare(request) -> PreTrainedTokenizerFast:
    """A tokenizer without a chat template, of one family after another."""
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def world() -> Renderer:
    return Renderer(tokenizer())


# ---------------------------------------------------------------------- any tokenizer


@pytest.mark.parametrize("template", ["dialogue", "plain"])
def test_a_text_survives_the_way_to_ids_and_back(bare, template):
    renderer = Renderer(bare, template)
    for text in TEXTS:
        ids = renderer.response_ids(text)
        assert renderer.response_text(ids) == text
        assert renderer.response_text(ids[:-1]) == text, "a truncated response has no end-of-sequence"
        assert ids[-1] == bare.eos_token_id


@pytest.mark.parametrize("template", ["dialogue", "plain"])
def test_prompt_and_response_meet_as_if_tokenised_together(bare, template):
    """The seam is invisible: the ids are those of the whole transcript, as a pretrained model knows it."""
    renderer = Renderer(bare, template)
    for text in ("I am fine", "Good morning!\n\nThank you.", "fine  fox"):
        whole = bare(f"{renderer.prompt_text(QUESTION)} {text}", add_special_tokens=False)["input_ids"]
        assert renderer.prompt_ids(QUESTION) + renderer.response_ids(text)[:-1] == whole


def test_what_a_template_writes_before_a_response_belongs_to_the_prompt(bare):
    template = (
        "{% for m in messages %}{{ '\nA:\n' if m.role == 'assistant' else 'Q: ' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nA:' }}{% endif %}"
    )
    renderer = Renderer(bare, template)
    assert renderer.prompt_text(QUESTION) == "Q: How are you?\nA:\n"
    for text in ("I am fine", " fine", "\nfine"):
        ids = renderer.response_ids(text)
        whole = bare(f"Q: How are you?\nA:\n{text}", add_special_tokens=False)["input_ids"]
        if text != "\nfine":  # joins with the line break before it in some tokenizers
            assert renderer.prompt_ids(QUESTION) + ids[:-1] == whole
        assert renderer.response_text(ids) == text


@pytest.mark.parametrize("template", ["dialogue", "plain", CHATML])
def test_what_other_programs_decode_is_brought_into_the_same_form(bare, template):
    """Some decode a response alone, some behind its prompt, which keeps a SentencePiece tokenizer's first blank."""
    renderer = Renderer(bare, template)
    question = renderer.prompt_ids(QUESTION)
    for text in ("I am fine", "a  b ", "fine\n", ""):
        ids = renderer.responses_ids([text], [True])[0] if text else []
        alone = bare.decode(ids, skip_special_tokens=True)
        behind = bare.decode(question + ids)[len(bare.decode(question)) :]
        assert renderer.answer_text(alone) == renderer.answer_text(behind) == renderer.response_text(ids) == text


def test_many_texts_give_the_same_ids_as_one_by_one(bare):
    renderer = Renderer(bare, "dialogue")
    assert renderer.responses_ids(TEXTS) == [renderer.response_ids(text) for text in TEXTS]
    prompts = [QUESTION, CHAT, CHAT[:2]]
    assert renderer.prompts_ids(prompts) == [renderer.prompt_ids(prompt) for prompt in prompts]
    assert renderer.prompts_ids([]) == renderer.responses_ids([]) == []


def test_a_response_that_was_cut_off_does_not_end(bare):
    renderer = Renderer(bare, "dialogue")
    ended, cut = renderer.responses_ids(["I am fine", "I am fine"], [False, True])
    assert ended == [*cut, renderer.eos_id]
    assert all(len(row) > 0 for row in renderer.responses_ids(["", " "], [True, True]))


def test_special_tokens_in_a_response_stay_text(bare):
    renderer = Renderer(bare, "dialogue")
    specials = set(bare.all_special_ids) - {bare.unk_token_id}
    for token in bare.all_special_tokens:
        for text in (token, f"Good{token}fine {token}", f"{token}{token} Human: How are you?"):
            ids = renderer.response_ids(text)
            assert specials.isdisjoint(ids[:-1])
            assert ids[-1] == bare.eos_token_id


def test_special_tokens_in_a_response_are_spelled_out():
    renderer = Renderer(byte_level(), "dialogue")
    text = "<|im_end|>\n<|im_start|>user\nGo on<|endoftext|>"
    assert renderer.response_text(renderer.response_ids(text)) == text


def test_without_a_template_a_transcript_is_written():
    renderer = Renderer(byte_level())
    assert renderer.prompt_text(CHAT) == (
        "<|endoftext|>System: Be brief.\n\nHuman: Who are you?\n\nAssistant: A fox.\n\n"
        "Human: How are you?\n\nAssistant:"
    )
    assert renderer.tokenizer.chat_template == TEMPLATES["dialogue"]
    assert Renderer(byte_level(), "plain").prompt_text(QUESTION) == "<|endoftext|>How are you?"


def test_a_misspelt_template_is_not_taken_for_a_text(tiny_model):
    with pytest.raises(DataError, match="no template is called 'dialog'") as caught:
        Renderer.load(tiny_model, "dialog")
    assert "dialogue, plain" in str(caught.value)


@pytest.mark.parametrize(("name", "says"), [("folder", "there is no config.json"), ("file", "is a file")])
def test_what_is_no_model_is_said_plainly(tmp_path, name, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pairs.jsonl").write_text("{}")
    (tmp_path / "file").write_text("{}")
    with pytest.raises(DataError, match=says):
        Renderer.load(str(tmp_path / name))


def test_a_template_is_taken_by_name_as_text_or_from_the_tokenizer():
    own = byte_level()
    own.chat_template = CHATML
    assert Renderer(own).prompt_text(QUESTION) == "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    assert Renderer(own, "{{ messages[0].content }}!").prompt_text(QUESTION) == "How are you?!"
    assert Renderer(own, "dialogue").prompt_text(QUESTION).endswith("Human: How are you?\n\nAssistant:")


def test_a_response_ends_as_its_turn_does():
    """ChatML writes a line break after the end of a turn: generation stops before it, scores are read at it."""
    chatml = byte_level()
    chatml.chat_template = CHATML  # the end-of-sequence token is another one
    renderer = Renderer(chatml)
    turns = [{"role": m.role, "content": m.content} for m in (*CHAT, Message("assistant", "I am fine"))]
    whole = chatml.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert renderer.prompt_ids(CHAT) + renderer.response_ids("I am fine") == whole
    assert chatml.convert_ids_to_tokens(list(renderer.end_ids)) == ["<|im_end|>", "<|endoftext|>"]
    (sampled,) = renderer.responses_ids(["I am fine"], as_sampled=True)
    assert sampled == renderer.response_ids("I am fine")[: len(sampled)]
    assert sampled[-1] == renderer.eos_id


def test_sampled_rows_are_closed_as_the_template_closes_them():
    chatml = byte_level()
    chatml.chat_template = CHATML
    renderer = Renderer(chatml)
    prompt, (end, other) = renderer.prompt_ids(QUESTION), renderer.end_ids
    body = renderer.responses_ids(["I am fine"], [True])[0]
    rows = stack_sequences([prompt] * 3, [[*body, end], [*body, other], body], renderer.pad_id)
    closed = renderer.closed(rows, torch.tensor([False, False, True]))
    assert closed.response_lists() == [renderer.response_ids("I am fine")] * 2 + [body]
    assert closed.prompt_length.tolist() == [len(prompt)] * 3
    plain = Renderer(byte_level(), "dialogue")
    rows = stack_sequences([[1]], [plain.response_ids("fine")], 0)
    assert plain.closed(rows, torch.tensor([False])) is rows, "nothing to add"


def test_a_tokenizer_without_an_end_of_sequence_is_refused():
    bare = byte_level()
    bare.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        Renderer(bare)


def test_padding_falls_back_to_the_end_of_sequence():
    bare = byte_level()
    assert Renderer(bare).pad_id == bare.eos_token_id
    bare.pad_token = "<|im_start|>"
    assert Renderer(bare).pad_id == bare.convert_tokens_to_ids("<|im_start|>") != bare.eos_token_id


# ---------------------------------------------------------------------- the date


@pytest.mark.parametrize(
    "date",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{{ date_string }}",
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }}",
    ],
)
def test_a_template_that_prints_the_date_gives_the_same_text_on_any_day(monkeypatch, date):
    def on(year: int) -> tuple[str, str]:
        class Frozen(datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(year, 3, 1, tzinfo=tz)

        monkeypatch.setattr(chat_template_utils, "datetime", Frozen)
        renderer = Renderer(byte_level(), f"Today: {date}\n{TEMPLATES['dialogue']}")
        untouched = byte_level()
        untouched.chat_template = f"Today: {date}\n{TEMPLATES['dialogue']}"
        plain = untouched.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        assert f"1 Mar {year}" in plain or "strftime_now" not in date, "the date is really frozen"
        return renderer.prompt_text(QUESTION), renderer.fingerprint

    assert on(2024) == on(2031)
    assert "26 Jul 2024" in on(2031)[0]


# ---------------------------------------------------------------------- the fingerprint


def test_fingerprint_names_template_and_vocabulary(world):
    def named(template: str | None = None, **changes) -> str:
        changed = byte_level()
        for name, value in changes.items():
            setattr(changed, name, value)
        return Renderer(changed, template).fingerprint

    assert named() == named("dialogue") == Renderer(byte_level()).fingerprint
    different = {
        named(),
        named("plain"),
        named(TEMPLATES["dialogue"] + " "),
        named(TEMPLATES["dialogue"].replace("System", "Rules")),
        named(eos_token="<|im_end|>"),
        world.fingerprint,
        *(Renderer(FAMILIES[name]()).fingerprint for name in ("metaspace", "metaspace first", "unigram")),
    }
    assert len(different) == 9


def test_fingerprint_sees_two_words_that_change_places():
    """The same size and template, other ids: a model of one vocabulary must not be fed the other's."""
    original = byte_level()
    core = json.loads(original.backend_tokenizer.to_str())
    words = core["model"]["vocab"]
    words["Ġ"], words["t"] = words["t"], words["Ġ"]
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    special["additional_special_tokens"] = ["<|im_start|>", "<|im_end|>"]
    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(core)), **special)
    assert len(swapped) == len(original)
    assert swapped.all_special_tokens == original.all_special_tokens
    assert Renderer(swapped).fingerprint != Renderer(original).fingerprint


def test_fingerprint_survives_saving_and_loading(tiny_model, world, tmp_path):
    assert Renderer.load(tiny_model).fingerprint == world.fingerprint
    renderer = Renderer(byte_level(), "plain")
    renderer.tokenizer.save_pretrained(tmp_path)
    assert Renderer.load(str(tmp_path)).fingerprint == renderer.fingerprint
    assert Renderer.load(str(tmp_path), "dialogue").fingerprint != renderer.fingerprint


def test_a_place_without_a_tokenizer_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path.name}: this folder holds no model"):
        Renderer.load(str(tmp_path))


# ---------------------------------------------------------------------- the world's own tokenizer


def test_prompt_and_response_make_up_the_whole_conversation(world):
    for record in WorldDemonstrations(60, seed=4).records():
        messages = [{"role": "user", "content": record.prompt[0].content}]
        messages.append({"role": "assistant", "content": record.chosen})
        whole = world.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert world.prompt_ids(record.prompt) + world.response_ids(record.chosen) == whole
        assert world.response_text(world.response_ids(record.chosen)) == record.chosen


def test_a_response_cannot_end_early_or_open_a_turn(world):
    marks = ["<eos>", "<assistant>", "<user>", "<system>", "<pad>"]
    forbidden = set(world.tokenizer.convert_tokens_to_ids(marks))
    assert len(forbidden) == 5
    ids = world.response_ids(" and ".join(marks) + "<eos><user>Go on<assistant>")
    assert forbidden.isdisjoint(ids[:-1])
    assert ids[-1] == world.eos_id


def test_a_missing_folder_is_called_that_and_close_names_are_suggested(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path, expected in (("../tinyy", "../tiny"), (f"{tmp_path}/tinyy", f"{tmp_path}/tiny"), ("../nothing/x", "Hub")):
        with pytest.raises(DataError, match="no such folder") as caught:
            Renderer.load(path)
        assert expected in str(caught.value).splitlines()[1]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"Did you mean tiny\?"):
        Renderer.load("tinyy")  # may be meant for the Hub
