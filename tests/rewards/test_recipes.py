"""Reward models score as their makers' recipe does: the chat template, then the sequence classifier."""

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_rlhf.data.answers import adding_nothing
from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.templates import choose, write
from lit_rlhf.data.tool_turns import as_dicts
from lit_rlhf.networks.backbone import ensure_pad_token, export
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.policy.rollout import complete
from lit_rlhf.rewards import RewardModel, ScalarReward, TokenIncrementReward
from lit_rlhf.rewards.model import READ_AT
from tests.data.families import FAMILIES

QUESTION = (Message("user", "How are you?"),)
CHAT = (*QUESTION, Message("assistant", "I am fine."), Message("user", "Good. And the fox?"))
ANSWERS = ["I am fine", "Good morning! Thank you.", "The quick fox is good.", "no"]


def write_foreign(name: str, folder, pad: str | None = None) -> str:
    """A reward model of somebody else's: random weights, a family's tokenizer and template."""
    tokenizer = FAMILIES[name].tokenizer()
    if pad is not None:
        tokenizer.pad_token = pad
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=512,
        **shape,
    )
    torch.manual_seed(3)
    model = transformers.LlamaForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def recipe(folder: str, prompt, answer: str) -> float:
    """What a model card says: one conversation, its template, the model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer.chat_template = choose(tokenizer, None)  # as on a fixed day
    text = write(tokenizer, as_dicts((*prompt, Message("assistant", answer))), False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    return float(model(**{key: ids[key] for key in ("input_ids", "attention_mask")}).logits[0, 0])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_foreign_reward_model_gives_its_own_score(name, tmp_path):
    folder = write_foreign(name, tmp_path)
    expected = [recipe(folder, prompt, answer) for prompt in (QUESTION, CHAT) for answer in ANSWERS]
    prompts = [as_dicts(prompt) for prompt in (QUESTION, CHAT) for _ in ANSWERS]
    model = RewardModel.load(folder)
    assert model.score(prompts, ANSWERS * 2) == pytest.approx(expected, abs=1e-5)
    rows = model.renderer.rows_ids([QUESTION] * len(ANSWERS), ANSWERS)
    assert model.score_sequences(stack_sequences(*rows, 0)).tolist() == pytest.approx(expected[:4], abs=1e-5)


@pytest.mark.parametrize("name", ["Mistral", "Qwen 2.5", "OLMo 2"])
def test_padding_that_ends_turns_is_read_as_transformers_reads_it(name, tmp_path):
    """A known trap: the classifier reads the last token that is not padding."""
    folder = write_foreign(name, tmp_path, pad=FAMILIES[name].end)
    expected = [recipe(folder, CHAT, answer) for answer in ANSWERS]
    model = RewardModel.load(folder)
    assert model.score([as_dicts(CHAT)] * len(ANSWERS), ANSWERS) == pytest.approx(expected, abs=1e-5)
    rows = model.renderer.rows_ids([CHAT] * len(ANSWERS), ANSWERS)
    assert model.score_sequences(stack_sequences(*rows, 0)).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_foreign_encoder_gives_its_own_score(tmp_path):
    tokenizer = FAMILIES["Qwen 2.5"].tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = [recipe(str(tmp_path), CHAT, answer) for answer in ANSWERS]
    model = RewardModel.load(tmp_path)
    assert model.score([as_dicts(CHAT)] * len(ANSWERS), ANSWERS) == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------------- models that were trained here


def exported(name: str, tmp_path, pad: str | None = None) -> str:
    """As the training of a reward model exports it."""
    network = RewardNetwork(write_foreign(name, tmp_path / "start", pad))
    renderer = Renderer.load(str(tmp_path / "start"))
    ensure_pad_token(network.model, renderer)
    network.model.config.update({READ_AT: "template end", "problem_type": "regression", "calibration": {"std": 1.0}})
    return str(export(network.model, renderer, tmp_path / "model"))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_model_scores_the_same_however_it_is_used(name, tmp_path):
    folder = exported(name, tmp_path)
    scores = RewardModel.load(folder).score([as_dicts(CHAT)] * len(ANSWERS), ANSWERS)
    assert scores == pytest.approx([recipe(folder, CHAT, answer) for answer in ANSWERS], abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    texts = [write(tokenizer, as_dicts((*CHAT, Message("assistant", answer))), False) for answer in ANSWERS]
    rows = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        padded = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, 0]
    assert padded.tolist() == pytest.approx(scores, abs=1e-5)
    classify = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert [found["score"] for found in classify(texts)] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(("name", "pad"), [("Phi 3", "<|endoftext|>"), ("Qwen 2.5", "<|im_end|>"), ("Mistral", "</s>")])
def test_padding_of_a_trained_model_is_no_token_that_a_template_writes_after_an_answer(name, pad, tmp_path):
    folder = exported(name, tmp_path, pad)
    model = RewardModel.load(folder)
    assert model.network.model.config.pad_token_id not in model.renderer.closing_ids
    (answer,) = model.tokenise(["How are you?"], ["fine"])[1]
    assert answer == model.renderer.response_ids("fine"), "read at its very end"
    scores = model.score([as_dicts(CHAT)] * len(ANSWERS), ANSWERS)
    assert scores == pytest.approx([recipe(folder, CHAT, answer) for answer in ANSWERS], abs=1e-5)


@pytest.mark.parametrize("name", ["Qwen 2.5", "Gemma 2", "Llama 2", "Phi 3", "Qwen 3"])
def test_sampled_ids_score_as_their_texts_do(name, tmp_path):
    folder = exported(name, tmp_path)
    policy = Renderer.load(str(tmp_path / "start"))
    reward = ScalarReward(folder, scale=1.0).load(policy, "policy")
    assert reward.shares_ids
    sampled = policy.responses_ids(ANSWERS, [False, False, False, True], as_sampled=True)
    sequences = stack_sequences([policy.prompt_ids(CHAT)] * len(ANSWERS), sampled, policy.pad_id)
    truncated = torch.tensor([False, False, False, True])
    completions = Completions(sequences, truncated, [Record(CHAT)] * len(ANSWERS), ANSWERS)
    expected = RewardModel.load(folder).score([as_dicts(CHAT)] * 3, ANSWERS[:3])
    assert reward.scores(completions)[:3].tolist() == pytest.approx(expected, abs=1e-5)
    increments = TokenIncrementReward(folder, scale=1.0).load(policy, "policy")
    torch.testing.assert_close(increments(completions).sum(1), reward.scores(completions))
    assert increments(completions).shape == sequences.response_mask.shape


def test_reasoning_of_a_policy_that_thinks_is_scored_as_the_template_writes_it(tmp_path):
    """DeepSeek's template drops it: the ids that were sampled are not those that the reward model was trained on."""
    folder = exported("DeepSeek R1", tmp_path)
    policy = Renderer.load(str(tmp_path / "start"), thinking=True)
    reward = ScalarReward(folder, scale=1.0).load(policy, "policy")
    text = "<think>\nIs it good?\n</think>\n\nIt is."
    sampled = [*policy.plain_ids("Is it good?\n</think>\n\nIt is."), policy.eos_id]
    sequences = stack_sequences([policy.prompt_ids(CHAT)], [sampled], policy.pad_id)
    completions = Completions(sequences, torch.tensor([False]), [Record(CHAT)], [text])
    assert reward.scores(completions).tolist() == pytest.approx([recipe(folder, CHAT, text)], abs=1e-5)


def test_a_model_of_an_earlier_version_is_read_as_it_was_trained(tmp_path):
    folder = exported("Qwen 2.5", tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder)
    delattr(config, READ_AT)
    config.save_pretrained(folder)
    model = RewardModel.load(folder)
    answers = model.tokenise(["How are you?"], ["fine"])[1]
    assert model.renderer.tokenizer.convert_ids_to_tokens(answers[0])[-1] == "<|im_end|>"


def test_a_policy_that_says_nothing_but_its_end_is_never_cut_off(tmp_path):
    """Gemma's kind: the tokenizer's end-of-sequence is another token than the one that ends turns."""
    from lit_rlhf.data.batches import PromptBatch, pad_rows
    from lit_rlhf.networks.policy_network import PolicyNetwork
    from lit_rlhf.networks.sampling import Sampling

    folder = write_foreign("Gemma 2", tmp_path / "foreign")
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.LlamaForCausalLM(config)
    renderer = Renderer.load(folder)
    end = renderer.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head = torch.nn.Linear(16, config.vocab_size)
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[end] = 50.0
    prompts = [renderer.prompt_ids(CHAT)] * 24
    batch = PromptBatch(*pad_rows(prompts, 0), [Record(CHAT)] * 24)
    policy = PolicyNetwork(model.eval())
    completions = complete(policy, batch, renderer, Sampling(max_new_tokens=4))
    assert not completions.truncated.any()
    assert completions.texts == [""] * 24
    assert completions.sequences.responses[:, -1].tolist() == [end] * 24


def test_special_tokens_that_a_tokenizer_adds_by_itself_come_once(tmp_path):
    """Pipelines ask for special tokens, and the template has written them already."""
    from tokenizers.processors import TemplateProcessing

    name = "Llama 3"
    network = RewardNetwork(write_foreign(name, tmp_path / "start"))
    renderer = Renderer.load(str(tmp_path / "start"))
    begin = (renderer.tokenizer.bos_token, renderer.tokenizer.bos_token_id)
    renderer.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin[0]} $A", pair=f"{begin[0]} $A $B", special_tokens=[begin]
    )
    ensure_pad_token(network.model, renderer)
    network.model.config.update({READ_AT: "template end", "problem_type": "regression", "calibration": {"std": 1.0}})
    with adding_nothing(renderer.tokenizer):
        export(network.model, renderer, tmp_path / "model")
    assert renderer.tokenizer("fine")["input_ids"][0] == begin[1], "its own tokenizer goes on as before"
    scores = RewardModel.load(tmp_path / "model").score([as_dicts(CHAT)] * len(ANSWERS), ANSWERS)
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "model"))
    texts = [write(classify.tokenizer, as_dicts((*CHAT, Message("assistant", answer))), False) for answer in ANSWERS]
    assert [found["score"] for found in classify(texts)] == pytest.approx(scores, abs=1e-5)


def test_a_model_without_a_chat_template_is_read_as_a_transcript_and_says_so(tmp_path):
    folder = write_foreign("Zephyr", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.warns(UserWarning, match="brings no chat template"):
        model = RewardModel.load(folder)
    assert model.renderer.prompt_text(QUESTION).endswith("Human: How are you?\n\nAssistant:")
