"""Other people's reward models asked, used as rewards and trained on: dtype, attributes, bias, tokenizer."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.evaluation.evaluate import evaluate
from lit_rlhf.rewards import RewardModel, ScalarReward
from tests.networks.folders import folder, with_head
from tests.networks.test_encoders import write

PROMPTS, RESPONSES = ["Hello", "the red sea"], ["the house", "cold wind by the sea"]


@pytest.fixture(scope="module")
def several(tiny_reward_model, tmp_path_factory) -> str:
    """A reward model whose head gives three numbers with names."""
    labels = {"0": "helpfulness", "1": "correctness", "2": "verbosity"}
    change = with_head("score", rows=3)
    options = {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}, "calibration": None}
    return folder(tiny_reward_model, tmp_path_factory.mktemp("several") / "model", change, **options)


def without_tokenizer(path: Path) -> Path:
    for file in path.iterdir():
        if "token" in file.name or "template" in file.name:
            file.unlink()
    return path


# ---------------------------------------------------------------------- attributes


def test_a_score_is_the_weighted_sum_of_the_numbers_that_were_chosen(several):
    parts = [RewardModel.load(several, attributes=number).score(PROMPTS, RESPONSES) for number in range(3)]
    chosen = RewardModel.load(several, attributes={"helpfulness": 2, "verbosity": -1}).score(PROMPTS, RESPONSES)
    assert chosen == pytest.approx([2 * a - b for a, b in zip(parts[0], parts[2], strict=True)], abs=1e-5)
    with pytest.raises(DataError, match=r"3 numbers \(helpfulness, [\s\S]*Choose with attributes"):
        RewardModel.load(several)


@pytest.mark.parametrize("given", ["verbosity", 2, {"verbosity": 1.0}, {2: 1.0}])
def test_a_reward_in_a_config_may_choose_as_well(several, completions, renderer, lit, tiny_model, tmp_path, given):
    expected = ScalarReward(several, 1.0, attributes="verbosity").load(renderer, "policy")
    other = ScalarReward(several, 1.0, attributes="helpfulness").load(renderer, "policy")
    assert expected.fingerprint != other.fingerprint
    reward = {"class_path": "lit_rlhf.rewards.ScalarReward"}
    reward["init_args"] = {"model": several, "scale": 1.0, "attributes": given, "dtype": "bfloat16"}
    model = {"class_path": "lit_rlhf.policy.BaselineModule"}
    model["init_args"] = {"policy": tiny_model, "reward": reward, "store": str(tmp_path / "store"), "k": 1}
    model["init_args"]["sampling"] = {"max_new_tokens": 2}
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 2}}
    cli = lit("predict", tmp_path, {"model": model, "data": {"sources": source, "max_length": 200}})
    found = cli.model.reward.model.network
    torch.testing.assert_close(found.head.weight, expected.model.network.head.weight)
    assert next(found.model.base_model.parameters()).dtype == torch.bfloat16


def test_evaluate_may_choose_as_well(several, tmp_path):
    rows = [{"prompt": "Hello", "chosen": "the sea", "rejected": "a house", "subset": "a"}] * 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"out": str(tmp_path / "out"), "benchmarks": str(tmp_path / "rows.jsonl"), "device": "cpu"}
    shares = [
        evaluate(several, **options, attributes={"helpfulness": sign})["benchmarks"]["rows"] for sign in (1.0, -1.0)
    ]
    assert str(shares[0]) != str(shares[1])
    with pytest.raises(DataError, match="Choose with attributes"):
        evaluate(several, **options)


def test_training_begins_from_a_chosen_number_or_not_at_all(several, lit, tmp_path):
    source = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 8}}
    model = {"class_path": "lit_rlhf.rewards.ScalarRewardModule", "init_args": {"model": several}}
    data = {"sources": source, "batch_size": 4, "max_length": 200, "val_fraction": 0.0}
    options = {"model": model, "data": data, "trainer": {"max_steps": 1}}
    with pytest.raises(DataError, match=r"3 numbers \(helpf.*[\s\S]*Choose with attributes of ScalarRewardModule"):
        lit("fit", tmp_path / "none", options)
    model["init_args"] |= {"attributes": "helpfulness", "optimizer": {"lr": 0.0}}
    options["export"] = {"directory": str(tmp_path / "model")}
    lit("fit", tmp_path / "one", options)
    expected = RewardModel.load(several, attributes="helpfulness").network.head.weight
    assert torch.equal(RewardModel.load(tmp_path / "model").network.head.weight, expected)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert theirs.score.weight.equal(expected)


# ---------------------------------------------------------------------- bias


def test_a_bias_counts_in_scores_and_is_left_out_of_training_in_words(tiny_reward_model, lit, tmp_path, caplog):
    path = folder(tiny_reward_model, tmp_path / "biased", with_head("v_head.summary", bias=True), calibration=None)
    model = RewardModel.load(path)
    bias = model.network.head.bias.item()
    scores = model.score(PROMPTS, RESPONSES)
    model.network.without_bias()
    assert model.score(PROMPTS, RESPONSES) == pytest.approx([score - bias for score in scores], abs=1e-5)
    options = {
        "model": {"class_path": "ScalarRewardModule", "init_args": {"model": path, "optimizer": {"lr": 0.0}}},
        "data": {
            "sources": {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 8}},
            "batch_size": 4,
            "max_length": 200,
            "val_fraction": 0.0,
        },
        "trainer": {"max_steps": 1},
        "export": {"directory": str(tmp_path / "model")},
    }
    caplog.clear()
    with caplog.at_level("INFO"):
        lit("fit", tmp_path / "run", options)
    assert f"the bias of its head, {bias:.4g}, is left out" in caplog.text
    network = RewardModel.load(tmp_path / "model").network
    assert network.head.bias is None
    assert torch.equal(network.head.weight, model.network.head.weight)


# ---------------------------------------------------------------------- dtype


@pytest.mark.parametrize("architecture", ["llama", "bert", "roberta"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scores_can_be_computed_in_half_precision(tiny_reward_model, tmp_path, architecture, dtype):
    path = tiny_reward_model if architecture == "llama" else write(architecture, tmp_path / "model")
    exact, rough = RewardModel.load(path), RewardModel.load(path, dtype=dtype)
    body = {each.dtype for each in rough.network.model.base_model.parameters()}
    assert body == {getattr(torch, dtype)}
    assert rough.network.head.weight.dtype == torch.float32
    assert torch.equal(rough.network.head.weight, exact.network.head.weight), "not rounded on the way"
    expected, found = (model.score(PROMPTS * 9, RESPONSES * 9) for model in (exact, rough))
    assert found == pytest.approx(expected, abs=0.05, rel=0.05)
    assert found != expected


def test_another_dtype_is_refused(tiny_reward_model):
    with pytest.raises(DataError, match=r"no such dtype: int8\n.*float32, bfloat16, float16"):
        RewardModel.load(tiny_reward_model, dtype="int8")
    RewardModel.load(tiny_reward_model, dtype=torch.bfloat16)


# ---------------------------------------------------------------------- tokenizer


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(tiny_reward_model, tmp_path):
    path = folder(tiny_reward_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    size = len(tokenizer)
    tokenizer.add_tokens(["zebra", "yak"])
    tokenizer.save_pretrained(path)
    with pytest.raises(DataError, match=rf"has {size + 2} tokens, .* embeddings for {size} \('zebra' has none"):
        RewardModel.load(path)


def test_tokens_that_stand_for_pictures_need_no_rows(tiny_reward_model, tmp_path):
    """The tokenizers of some text models of a family that sees bring them."""
    path = folder(tiny_reward_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(path)
    expected = RewardModel.load(tiny_reward_model).score(PROMPTS, RESPONSES)
    assert RewardModel.load(path).score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "bert"])
def test_a_folder_without_a_tokenizer_is_refused_and_the_hint_helps(tiny_reward_model, tiny_model, tmp_path, kind):
    """For some architectures transformers makes up a tokenizer of a single token."""
    path = str(without_tokenizer(Path(folder(tiny_reward_model, tmp_path / "model"))))
    if kind == "llama":
        with pytest.raises(DataError, match=r"there is none in it\n[\s\S]*tokenizer of RewardModel\.load"):
            RewardModel.load(path)
        given = RewardModel.load(path, tokenizer=tiny_model).score(PROMPTS, RESPONSES)
        assert given == pytest.approx(RewardModel.load(tiny_reward_model).score(PROMPTS, RESPONSES), abs=1e-5)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
        RewardModel.load(path)
    else:
        (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(DataError, match="no tokenizer could be loaded: there is none in it"):
            Renderer.load(path)


@pytest.mark.parametrize(
    ("name", "content", "what", "helps"),
    [
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer", "git lfs pull"),
        ("tokenizer.model", "abc", "tokenizer.model cannot be read without another package", "pip install"),
        ("tokenizer.json", "{", "no tokenizer could be loaded", "Hugging Face directory"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_refused_with_what_helps(tiny_model, tmp_path, name, content, what, helps):
    path = without_tokenizer(Path(folder(tiny_model, tmp_path / "model")))
    (path / name).write_text(content)
    with pytest.raises(DataError, match=what) as caught:
        Renderer.load(str(path))
    assert helps in str(caught.value)


def test_a_tokenizer_of_own_code_is_refused(tiny_model, tmp_path):
    path = Path(folder(tiny_model, tmp_path / "model"))
    file = path / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
    with pytest.raises(DataError, match="code that lies in the folder, and such code is never run"):
        Renderer.load(str(path))


def test_rewards_take_a_tokenizer_from_elsewhere(tiny_reward_model, tiny_model, renderer, completions, tmp_path):
    path = str(without_tokenizer(Path(folder(tiny_reward_model, tmp_path / "model"))))
    expected = ScalarReward(tiny_reward_model, 1.0).load(renderer, "policy")(completions)
    reward = ScalarReward(path, 1.0, tokenizer=tiny_model).load(renderer, "policy")
    torch.testing.assert_close(reward(completions), expected)
