"""What every stage says of a folder that it cannot use, before it spends any time."""

import pytest
from transformers import AutoTokenizer

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.compare import compare
from lit_rlhf.world import WorldPrompts
from tests.networks.folders import folder

STAGES = {
    "sft": ("fit", "policy.SFTModule", "model"),
    "scalar": ("fit", "rewards.ScalarRewardModule", "model"),
    "contrastive": ("fit", "rewards.ContrastiveRewardModule", "model"),
    "seq2seq": ("fit", "rewards.Seq2SeqRewardModule", "model"),
    "ppo": ("fit", "policy.PPOModule", "policy"),
    "trunk": ("fit", "policy.PPOModule", "policy"),
    "baselines": ("predict", "policy.BaselineModule", "policy"),
}
POLICIES = ("sft", "seq2seq", "ppo", "trunk", "baselines")


def options(stage: str, path: str, scorer: str, folder: str, critic: str | None = None) -> dict:
    _, name, argument = STAGES[stage]
    given = {argument: path}
    if argument == "policy":
        given["reward"] = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": scorer}}
    given |= {"store": f"{folder}/store"} if stage == "baselines" else {}
    given |= {"lora": {"r": 2}} if stage == "trunk" else {}
    given |= {"critic": critic} if critic else {}
    source = "WorldPrompts" if argument == "policy" else "WorldPairs"
    data = {"sources": {"class_path": f"lit_rlhf.world.{source}", "init_args": {"size": 4}}, "max_length": 200}
    model = {"class_path": f"lit_rlhf.{name}", "init_args": given}
    return {"model": model, "data": {**data, "batch_size": 2, "val_fraction": 0.0}, "trainer": {"max_steps": 1}}


@pytest.fixture
def larger(tiny_model, tmp_path) -> str:
    """A model whose tokenizer has two tokens more than it has rows."""
    path = folder(tiny_model, tmp_path / "larger")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["zebra", "yak"])
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(
    stage, larger, tiny_model, tiny_reward_model, lit, tmp_path
):
    what = r"the tokenizer has 676 tokens, the model embeddings for 674 \('zebra' has none\)"
    with pytest.raises(DataError, match=what):
        lit(STAGES[stage][0], tmp_path / "own", options(stage, larger, tiny_reward_model, str(tmp_path)))
    elsewhere = options(stage, tiny_model, tiny_reward_model, str(tmp_path))
    elsewhere["data"]["tokenizer"] = larger
    with pytest.raises(DataError, match=what):
        lit(STAGES[stage][0], tmp_path / "elsewhere", elsewhere)


@pytest.mark.parametrize("stage", POLICIES)
def test_a_reward_model_is_no_policy(stage, tiny_reward_model, lit, tmp_path):
    with pytest.raises(DataError, match=r"a reward model or classifier \(Llama\w+\), without a head for words"):
        lit(STAGES[stage][0], tmp_path, options(stage, tiny_reward_model, tiny_reward_model, str(tmp_path)))


def test_compare_refuses_both(larger, tiny_model, tiny_reward_model, tmp_path):
    for policy, what in ((larger, "676 tokens"), (tiny_reward_model, "a reward model")):
        data = PreferenceDataModule(WorldPrompts(8), max_length=200, val_fraction=0.5)
        with pytest.raises(DataError, match=what):
            compare(policies={"base": policy, "other": tiny_model}, data=data, out=str(tmp_path / "out"))


def test_a_critic_that_begins_from_a_language_model_says_so(tiny_model, tiny_reward_model, lit, tmp_path, caplog):
    with caplog.at_level("INFO"):
        lit("fit", tmp_path, options("ppo", tiny_model, tiny_reward_model, str(tmp_path)))
    assert f"{tiny_model}: a language model (LlamaForCausalLM); its head for scores is new and random" in caplog.text


def test_a_critic_without_half_of_its_layers_is_refused(tiny_model, tiny_reward_model, lit, tmp_path):
    half = folder(tiny_model, tmp_path / "half", lambda w: {name: w[name] for name in w if ".layers.1." not in name})
    with pytest.raises(DataError, match=r"lack 9 \(model\.layers\.1"):
        lit("fit", tmp_path, options("ppo", tiny_model, tiny_reward_model, str(tmp_path), half))
