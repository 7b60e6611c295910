import json

import pytest
from transformers import AutoTokenizer

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.gguf import convert
from tests.networks.gguf_samples import TEMPLATE, random_model, write_gguf


def converted(tmp_path, tokenizer=None, **facts):
    """The notes of a conversion, and the tokenizer that it wrote."""
    path = write_gguf(tmp_path / "model.gguf", random_model(), **facts)
    header = convert(str(path), tmp_path / "model", tokenizer=tokenizer)
    return header.notes, AutoTokenizer.from_pretrained(tmp_path / "model")


def ends(tmp_path):
    return json.loads((tmp_path / "model" / "generation_config.json").read_text()).get("eos_token_id")


def test_the_chat_template_and_the_marks_are_the_files(tmp_path):
    notes, tokenizer = converted(tmp_path)
    assert notes == []
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.tokenize("<|im_end|>\n") == ["<|im_end|>", "Ċ"]
    renderer = Renderer.load(str(tmp_path / "model"))
    assert renderer.end_ids == (2,)


def test_digits_are_split_as_the_makers_split_them(tmp_path):
    """Before a number, a word's splitting of GPT-2 would leave one blank behind."""
    text = "or\n\n1  2"
    _, tokenizer = converted(tmp_path)
    assert tokenizer.tokenize(text) == ["or", "ĊĊ", "1", "ĠĠ", "2"]
    _, other = converted(tmp_path, tokenizer__ggml__pre="gpt-2")
    assert other.tokenize(text) == ["or", "Ċ", "Ċ", "1", "Ġ", "Ġ", "2"]


@pytest.mark.parametrize("way", ["llama-bpe", "qwen2", "tekken", "smollm", "gpt-2"])
def test_known_ways_of_splitting_need_no_note(tmp_path, way):
    assert converted(tmp_path, tokenizer__ggml__pre=way)[0] == []


@pytest.mark.parametrize("way", ["deepseek-v3", "default", None])
def test_a_way_of_splitting_that_is_not_known_is_noted_in_the_card_too(tmp_path, way):
    notes, _ = converted(tmp_path, tokenizer__ggml__pre=way)
    assert len(notes) == 1
    assert f"({way or 'default'!r}) is not known" in notes[0]
    assert "--tokenizer FOLDER" in notes[0]
    assert notes[0] in (tmp_path / "model" / "README.md").read_text()


def test_whole_words_are_taken_as_they_are_where_the_makers_do(tmp_path):
    merges = ["Ġ w", "o r", "Ċ Ċ", "Ġ Ġ"]  # nothing leads to the word " wor"
    assert converted(tmp_path, tokenizer__ggml__pre="smollm", tokenizer__ggml__merges=merges)[1].tokenize(" wor") == [
        "Ġw",
        "or",
    ]
    _, tokenizer = converted(tmp_path, tokenizer__ggml__pre="llama-bpe", tokenizer__ggml__merges=merges)
    assert tokenizer.tokenize(" wor") == ["Ġwor"]


def test_generation_stops_at_the_end_of_the_template_and_that_of_the_tokenizer(tmp_path):
    converted(tmp_path, tokenizer__ggml__eos_token_id=0)
    assert ends(tmp_path) == [2, 0]


def test_generation_stops_at_further_ends_that_the_file_names(tmp_path):
    converted(tmp_path, tokenizer__ggml__eot_token_id=3)
    assert ends(tmp_path) == [2, 3]


def test_a_model_without_a_chat_template_is_converted_with_a_note(tmp_path):
    notes, tokenizer = converted(tmp_path, tokenizer__chat_template=None)
    assert tokenizer.chat_template is None
    assert len(notes) == 1
    assert "no chat template" in notes[0]
    assert "data.template" in notes[0]
    assert ends(tmp_path) == 2


@pytest.mark.parametrize("facts", [{"tokenizer__ggml__model": None}, {"tokenizer__ggml__tokens": None}])
def test_a_file_without_a_tokenizer_asks_for_one(tmp_path, facts):
    with pytest.raises(DataError, match=r"holds no tokenizer\n  .*--tokenizer FOLDER"):
        converted(tmp_path, **facts)
    assert not (tmp_path / "model").exists()


def test_a_kind_of_tokenizer_that_is_not_read_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"its tokenizer cannot be read: .*\n  .*--tokenizer FOLDER"):
        converted(tmp_path, tokenizer__ggml__model="rwkv")


def test_a_tokenizer_of_ones_own_takes_the_place_of_the_files(tmp_path):
    converted(tmp_path)
    own = (tmp_path / "model").rename(tmp_path / "own")
    _, tokenizer = converted(tmp_path, str(own), tokenizer__ggml__model=None)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.tokenize("\n\n1") == ["ĊĊ", "1"]
    assert str(own) in (tmp_path / "model" / "README.md").read_text()


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_is_refused(tmp_path, tiny_model):
    with pytest.raises(DataError, match=r"tokenizer has \d+ tokens, the model embeddings for 265"):
        converted(tmp_path, tiny_model)
