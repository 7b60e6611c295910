import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.world import SPLITS, WorldDemonstrations, WorldPairs, tokenizer, write_base_model
from lit_rlhf.world.presets import SPECIAL_TOKENS, vocabulary


def test_the_vocabulary_is_small_and_has_no_doubles():
    assert len(set(vocabulary())) == len(vocabulary()) < 700


def test_texts_survive_the_round_trip():
    words = tokenizer()
    records = [*WorldDemonstrations(2000).records()]
    records += [record for split in SPLITS for record in WorldPairs(100, split=split).records()]
    for record in records:
        for text in (record.prompt[0].content, record.chosen, record.rejected or "Of course."):
            ids = words(text)["input_ids"]
            assert words.unk_token_id not in ids, text
            assert words.decode(ids) == text
            assert len(ids) <= 47


def test_prompts_are_short():
    words = tokenizer()
    assert max(len(words(r.prompt[0].content)["input_ids"]) for r in WorldDemonstrations(1000).records()) <= 32


def test_the_chat_template_brackets_a_turn():
    words = tokenizer()
    chat = [{"role": "user", "content": "How do I burn a candle?"}, {"role": "assistant", "content": "Of course."}]
    asked = words.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<user>How do I burn a candle?<assistant>"
    assert words.apply_chat_template(chat, tokenize=False) == asked + "Of course.<eos>"
    both = words.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    answer = [i for i, own in zip(both["input_ids"], both["assistant_masks"], strict=True) if own]
    assert words.decode(answer) == "Of course.<eos>"


def test_special_tokens_are_single_and_apart():
    words = tokenizer()
    ids = words.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(SPECIAL_TOKENS)))
    assert words.pad_token_id != words.eos_token_id
    assert words("<user>How<eos>")["input_ids"] == [ids[3], words.convert_tokens_to_ids("How"), ids[5]]
    assert words.decode([ids[3], words.convert_tokens_to_ids("How"), ids[5]], skip_special_tokens=True) == "How"


def test_a_base_model_is_read_back(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = write_base_model(tmp_path / "a", "tiny", seed=1)
    models = [AutoModelForCausalLM.from_pretrained(first)]
    for name, seed in (("b", 1), ("c", 2)):
        models.append(AutoModelForCausalLM.from_pretrained(write_base_model(tmp_path / name, "tiny", seed=seed)))
    weights = [model.get_input_embeddings().weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    words = AutoTokenizer.from_pretrained(first)
    text = "The old harbour is grey. Even its boats seem sad."
    assert words.decode(words(text)["input_ids"]) == text
    assert words.chat_template == tokenizer().chat_template
    assert models[0].config.vocab_size == len(words)
    assert models[0].generation_config.eos_token_id == words.eos_token_id
    assert models[0].generation_config.pad_token_id == words.pad_token_id
    batch = words(["How do I burn a candle?", "Who is Anna?"], return_tensors="pt", padding=True)
    assert models[0](**batch).logits.shape == (2, batch["input_ids"].shape[1], len(words))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("preset", "low", "high"), [("tiny", 3e4, 8e4), ("200k", 1.8e5, 2.3e5), ("1m", 8e5, 1.2e6), ("5m", 4e6, 6e6)]
)
def test_presets_are_as_large_as_they_say(preset, low, high):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lit_rlhf.world import PRESETS

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary()), tie_word_embeddings=True, **PRESETS[preset]))
    assert low < sum(parameter.numel() for parameter in model.parameters()) < high


def test_a_base_model_replaces_a_model_and_nothing_else(tmp_path):
    write_base_model(tmp_path / "model", "tiny")
    write_base_model(tmp_path / "model", "tiny", seed=2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(DataError, match="not a model directory"):
        write_base_model(tmp_path / "notes", "tiny")
    with pytest.raises(DataError, match="tiny"):
        write_base_model(tmp_path / "other", "7b")


def test_the_world_itself_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, lit_rlhf.world; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
