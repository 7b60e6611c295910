import json
import shutil

import pytest
import torch
import transformers

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.slices import weights_in_files
from lit_rlhf.rewards import RewardModel, ScalarReward

PROMPTS = ["What is the capital of France?", "Hi", "Describe a red house by the sea, please."]
RESPONSES = ["It is Paris.", "", "A red house stands by the sea, and the wind is cold there, and the sea is blue."]


@pytest.fixture(scope="module")
def model(tiny_reward_model) -> RewardModel:
    return RewardModel.load(tiny_reward_model)


def test_scores_are_those_of_transformers_asked_one_by_one(model, tiny_reward_model):
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_reward_model).eval()
    scores = model.score(PROMPTS, RESPONSES)
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        words = model.renderer
        ids = words.prompt_ids((Message("user", prompt),)) + words.response_ids(response)
        assert ids[-1] == words.eos_id
        with torch.no_grad():
            assert score == pytest.approx(plain(input_ids=torch.tensor([ids])).logits.item(), abs=1e-5)
    assert all(isinstance(score, float) for score in scores)
    assert len({round(score, 4) for score in scores}) == len(scores)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_a_score_depends_neither_on_the_batch_nor_on_the_order(model, tiny_reward_model, batch_size):
    prompts, responses = PROMPTS * 4, [text + " sea" * i for i in range(4) for text in RESPONSES]
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0)).tolist()
    small = RewardModel.load(tiny_reward_model, batch_size)
    shuffled = small.score([prompts[i] for i in order], [responses[i] for i in order])
    expected = [model.score([prompts[i]], [responses[i]])[0] for i in order]
    assert shuffled == pytest.approx(expected, abs=1e-5)


def test_rows_of_similar_length_are_batched_together(tiny_reward_model, monkeypatch):
    monkeypatch.setenv("LIT_RLHF_FAST", '{"packing": false}')
    model = RewardModel.load(tiny_reward_model, batch_size=2)
    widths = []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda rows: widths.append(rows.ids.shape[1]) or forward(rows))
    responses = ["sea " * n for n in (30, 1, 29, 2)]
    lengths = sorted(model.lengths(["Hi"] * 4, responses))
    model.score(["Hi"] * 4, responses)
    assert widths == [lengths[1], lengths[3]]


def test_rows_of_one_prompt_are_batched_together_where_it_is_computed_once(tiny_reward_model, monkeypatch):
    model, seen = RewardModel.load(tiny_reward_model, batch_size=2), []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda rows: seen.append(rows.prompt_length) or forward(rows))
    prompts, responses = ["Hi", "How are you doing?", "Hi", "How are you doing?"], ["a", "sea " * 9, "sea " * 9, "a"]
    scores = model.score(prompts, responses)
    assert [len(lengths.unique()) for lengths in seen] == [1, 1]
    alone = [model.score([prompt], [response])[0] for prompt, response in zip(prompts, responses, strict=True)]
    assert scores == pytest.approx(alone, abs=1e-5)


def test_a_prompt_may_be_text_messages_or_dicts(model):
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "How are you?")]
    as_dicts = [{"role": role, "content": content} for role, content in turns]
    as_messages = tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]
    scores = model.score([as_dicts, as_messages, tuple(as_dicts), list(as_messages)], ["Fine."] * 4)
    assert scores == pytest.approx([scores[0]] * 4, abs=1e-5)
    assert model.score(["Hi"], ["Fine."]) == model.score([[{"role": "user", "content": "Hi"}]], ["Fine."])
    assert model.score(["Hi"], ["Fine."]) != model.score([as_dicts], ["Fine."])


def test_the_head_turns_features_into_scores(model):
    features = model.features(PROMPTS, RESPONSES)
    assert features.shape == (3, model.network.head.in_features)
    assert not features.requires_grad
    expected = (features @ model.network.head.weight.T).squeeze(1)
    assert model.score(PROMPTS, RESPONSES) == pytest.approx(expected.tolist(), abs=1e-5)


def test_nothing_asked_nothing_answered(model):
    assert model.score([], []) == []
    assert model.features([], []).shape == (0, model.network.head.in_features)
    assert model.lengths([], []) == []


def test_scores_are_those_of_the_reward_before_its_scale(model, tiny_reward_model, completions, renderer):
    rows = [i for i, cut in enumerate(completions.truncated.tolist()) if not cut]
    prompts = [completions.records[i].prompt for i in rows]
    scores = model.score(prompts, [completions.texts[i] for i in rows])
    reward = ScalarReward(tiny_reward_model, scale=3.0).load(renderer, "policy")
    assert [3 * score for score in scores] == pytest.approx(reward.scores(completions)[rows].tolist(), abs=1e-4)


def test_calibration_is_what_the_model_brings(model, tiny_reward_model):
    assert model.calibration == {"mean": 0.0, "std": 1.0, "n": 10, "data": "test"}
    bare = RewardModel.load(tiny_reward_model)
    bare.network.model.config.calibration = None
    assert bare.calibration is None


def test_a_text_that_is_too_long_is_named(model):
    longest = model.positions
    responses = ["short", "sea " * (longest + 1), "short"]
    with pytest.raises(DataError, match=rf"number 1 .*the model has {longest} positions"):
        model.score(["Hi"] * 3, responses)
    lengths = model.lengths(["Hi"] * 3, responses)
    assert [length > longest for length in lengths] == [False, True, False]
    room = longest - model.lengths(["Hi"], [""])[0]
    word = next(word for word in ("sea", " sea", "a") if len(model.renderer.response_ids(word * 2)) == 3)
    assert model.lengths(["Hi"], [word * room]) == [longest]
    assert model.score(["Hi"], [word * room])  # the longest that fits


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (["a", "b"], ["c"], "2 prompts but 1 responses"),
        ("a", ["c"], "lists"),
        (["a"], "c", "lists"),
        (["a", 5], ["b", "c"], r"prompts\[1\]"),
        (["a"], [None], r"responses\[0\]"),
        ([[]], ["c"], r"prompts\[0\]"),
        ([[{"role": "user"}]], ["c"], r"prompts\[0\]\[0\]"),
        ([[{"role": "assistant", "content": "x"}]], ["c"], r"prompts\[0\].*assistant"),
    ],
)
def test_wrong_questions_are_refused_by_name(model, prompts, responses, message):
    with pytest.raises(DataError, match=message):
        model.score(prompts, responses)


def test_a_batch_size_below_one_is_refused(tiny_reward_model):
    with pytest.raises(DataError, match="batch_size"):
        RewardModel.load(tiny_reward_model, 0)


@pytest.mark.parametrize("kinds", [["LlamaModel"], ["LlamaForSequenceClassification"], None], ids=str)
@pytest.mark.parametrize("in_files", [False, True])
def test_a_body_alone_is_no_reward_model_whatever_its_config_says(kinds, in_files, tiny_model, tmp_path):
    Renderer.load(tiny_model).tokenizer.save_pretrained(tmp_path)
    transformers.AutoModel.from_pretrained(tiny_model).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": kinds}))
    with (
        weights_in_files(in_files),
        pytest.raises(DataError, match=r"without a head for scores|lack 1 \(score\.weight\)"),
    ):
        RewardModel.load(str(tmp_path))


@pytest.mark.parametrize("in_files", [False, True])
def test_a_head_is_enough_whatever_the_config_says(tiny_reward_model, tmp_path, in_files):
    shutil.copytree(tiny_reward_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    with weights_in_files(in_files):
        RewardModel.load(str(tmp_path / "model"))


def test_a_language_model_is_no_reward_model(tiny_model):
    with pytest.raises(DataError, match=r"a language model .*ForCausalLM.*without a head"):
        RewardModel.load(tiny_model)
