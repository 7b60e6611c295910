"""Folders that other people's trainers leave: read for what they are, or refused by name."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.slices import stored_of, values_of, weights_in_files
from tests.networks.folders import Weights, folder, renamed, with_head
from tests.networks.test_encoders import write

ROWS = stack_sequences([[7, 8, 9], [10, 11]], [[12, 13, 5], [14, 15, 16, 5]], 0)
PREFIXES = (
    "base_model.model.", "base_model.", "module.", "_orig_mod.", "llm.", "model.", "transformer.", "pretrained_model.",
    "module.base_model.model.", "_orig_mod.module.", "base_model.model.model.", "_fsdp_wrapped_module.",
)  # fmt: skip
HEADS = (
    "reward_head", "v_head", "v_head.summary", "value_head", "value_head.summary", "score.modules_to_save.default",
    "classifier", "rm_head", "regression_layer", "regression_head", "rank_head", "score_head", "score.0",
    "base_model.model.score.modules_to_save.default", "module.v_head", "llm.score",
)  # fmt: skip


def scores(path: str) -> torch.Tensor:
    return RewardNetwork(path).eval()(ROWS).detach()


def without(*parts: str):
    return lambda weights: {name: each for name, each in weights.items() if not any(part in name for part in parts)}


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_trainers_put_before_names_does_not_matter(write_model, tmp_path, prefix, architecture):
    path = write_model(architecture)
    expected = PolicyNetwork(path)(ROWS)
    torch.testing.assert_close(PolicyNetwork(folder(path, tmp_path / "policy", renamed(prefix)))(ROWS), expected)
    expected = scores(folder(path, tmp_path / "reward", with_head("score")))
    other = folder(path, tmp_path / "other", lambda weights: renamed(prefix)(with_head("score")(weights)))
    torch.testing.assert_close(scores(other), expected)


@pytest.mark.parametrize("lazily", [False, True])
def test_renamed_weights_can_stay_in_their_files_too(tiny_reward_model, tmp_path, lazily):
    path = folder(tiny_reward_model, tmp_path / "model", renamed("module.base_model.model."))
    with weights_in_files() if lazily else nullcontext():
        model = load_model(path, "scalar")
    assert any(stored_of(each) for each in model.parameters()) == lazily
    for name, expected in load_model(tiny_reward_model, "scalar").named_parameters():
        assert torch.equal(values_of(model.get_parameter(name)), expected)


def test_a_missing_prefix_is_added_and_wrappers_inside_names_are_taken_out(tiny_reward_model, tmp_path):
    expected = scores(tiny_reward_model)
    bare = folder(
        tiny_reward_model, tmp_path / "bare", lambda w: {name.removeprefix("model."): each for name, each in w.items()}
    )
    torch.testing.assert_close(scores(bare), expected)
    inside = "._checkpoint_wrapped_module.self_attn"
    checkpointed = lambda w: {name.replace(".self_attn", inside): w[name] for name in w}  # noqa: E731
    torch.testing.assert_close(scores(folder(tiny_reward_model, tmp_path / "inside", checkpointed)), expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_head_is_known_by_any_of_its_usual_names(write_model, tmp_path, head, architecture):
    path = write_model(architecture)
    expected = scores(folder(path, tmp_path / "own", with_head("score")))
    assert expected.unique().numel() == 2
    torch.testing.assert_close(scores(folder(path, tmp_path / "other", with_head(head))), expected)


def test_weights_that_transformers_converts_are_found_behind_a_prefix(tmp_path):
    config = transformers.MixtralConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=60, num_local_experts=2,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "own")
    stored = load_file(tmp_path / "own" / "model.safetensors")
    assert any("experts.0." in name for name in stored), "one weight for each expert, which the model has as one"
    expected = load_model(str(tmp_path / "own"), "causal").state_dict()
    for prefix in ("module.", "base_model.model."):
        path = folder(str(tmp_path / "own"), tmp_path / prefix, renamed(prefix))
        for name, value in load_model(path, "causal").state_dict().items():
            assert torch.equal(value, expected[name])


def test_a_peft_copy_of_a_trained_head_is_left_aside(tiny_model, tmp_path):
    def change(weights: Weights) -> Weights:
        changed = with_head("score.modules_to_save.default")(weights)
        return changed | {"score.original_module.weight": torch.ones(1, 32)}

    expected = scores(folder(tiny_model, tmp_path / "own", with_head("score")))
    torch.testing.assert_close(scores(folder(tiny_model, tmp_path / "other", change)), expected)


@pytest.mark.parametrize("name", ["score", "v_head.summary", "reward_head"])
def test_the_bias_of_a_head_counts(tiny_model, tmp_path, name):
    path = folder(tiny_model, tmp_path / "with", with_head(name, bias=True))
    bias = load_file(Path(path) / "model.safetensors")[f"{name}.bias"]
    plain = scores(folder(tiny_model, tmp_path / "without", with_head(name)))
    assert bias.abs().item() > 0.01
    torch.testing.assert_close(scores(path), plain + bias)
    with weights_in_files():
        head = load_model(path, "scalar").score
    assert torch.equal(head.bias, bias)


def test_an_encoders_head_is_known_by_another_name(tmp_path):
    path = write("bert", tmp_path / "bert")
    expected = scores(path)
    change = lambda w: {name.replace("classifier.", "reward_head."): each for name, each in w.items()}  # noqa: E731
    torch.testing.assert_close(scores(folder(path, tmp_path / "other", change)), expected)
    everything = folder(path, tmp_path / "all", renamed("module."))
    torch.testing.assert_close(scores(everything), expected)


# ---------------------------------------------------------------------- nothing is random, nothing is lost


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("kind", ["causal", "scalar", "rewriter"])
def test_a_model_without_half_of_its_layers_is_refused(write_model, tmp_path, kind, lazily):
    for architecture, part in (("llama", ".layers.1."), ("gpt2", ".h.1.")):
        path = folder(write_model(architecture), tmp_path / architecture, without(part))
        with weights_in_files(lazily), pytest.raises(DataError, match=r"lack \d+ \(.*\.1\..*, …\) of \d+") as caught:
            load_model(path, kind)
        assert path in str(caught.value)


def test_more_layers_than_the_config_says_are_refused(tiny_model, tmp_path):
    path = folder(tiny_model, tmp_path / "model", num_hidden_layers=1)
    for kind in ("causal", "scalar"):
        with pytest.raises(DataError, match=r"no place for 9 \(model\.layers\.1\."):
            load_model(path, kind)


def test_a_weight_of_another_shape_is_refused_with_both_shapes(tiny_model, tmp_path):
    path = folder(tiny_model, tmp_path / "model", intermediate_size=32)
    with pytest.raises(DataError, match=r"\(32, 64\) in the files, \(32, 32\) by the config"):
        load_model(path, "causal")


def test_a_reward_model_that_lost_its_head_is_refused(tiny_reward_model, tmp_path):
    path = folder(tiny_reward_model, tmp_path / "model", without("score"))
    with pytest.raises(DataError, match=r"lack 1 \(score\.weight\)"):
        load_model(path, "scalar")


def test_a_head_of_an_unknown_name_is_refused_by_that_name(tiny_reward_model, tmp_path):
    path = folder(tiny_reward_model, tmp_path / "model", lambda w: {n.replace("score", "oracle"): w[n] for n in w})
    with pytest.raises(DataError, match=r"no place for 1 \(oracle\.weight\)"):
        load_model(path, "scalar")


def test_statistics_beside_a_head_are_not_lost_in_silence(tiny_reward_model, tmp_path):
    change = lambda w: w | {"normalizer.mean": torch.zeros(1), "normalizer.var": torch.ones(1)}  # noqa: E731
    with pytest.raises(DataError, match=r"no place for 2 \(normalizer\.mean, normalizer\.var\)"):
        load_model(folder(tiny_reward_model, tmp_path / "model", change), "scalar")


def test_a_head_of_several_layers_is_refused_for_what_it_is(tiny_model, tmp_path):
    change = lambda w: w | {"score.0.weight": torch.ones(32, 32), "score.2.weight": torch.ones(1, 32)}  # noqa: E731
    path = folder(tiny_model, tmp_path / "model", change, architectures=["LlamaForRewardModel"])
    with pytest.raises(DataError, match=r"2 \(score\.0\.weight, score\.2\.weight\).*a head of several layers"):
        load_model(path, "scalar")


def test_two_heads_for_one_place_are_refused(tiny_reward_model, tmp_path):
    path = folder(tiny_reward_model, tmp_path / "model", lambda w: w | {"v_head.weight": torch.ones(1, 32)})
    with pytest.raises(DataError, match=r"score\.weight and v_head\.weight would both be the model's score\.weight"):
        load_model(path, "scalar")


def test_adapters_that_were_never_merged_are_refused(tiny_model, tmp_path):
    def change(weights: Weights) -> Weights:
        name = "model.layers.0.self_attn.q_proj"
        added = {f"base_model.model.{name}.lora_A.default.weight": torch.ones(2, 32)}
        return {f"base_model.model.{key.replace(name, f'{name}.base_layer')}": weights[key] for key in weights} | added

    with pytest.raises(DataError, match=r"holds adapters beside the weights[\s\S]*merge_and_unload"):
        load_model(folder(tiny_model, tmp_path / "model", change), "causal")


def test_what_is_computed_today_or_belongs_to_another_head_is_left_aside(write_model, tmp_path):
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    path = folder(write_model("llama"), tmp_path / "llama", lambda w: w | buffers)
    load_model(path, "causal")
    load_model(folder(path, tmp_path / "tied", lambda w: w | {"lm_head.weight": torch.ones(674, 32)}), "scalar")
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 9, 9), "transformer.h.0.attn.masked_bias": torch.ones(())}
    load_model(folder(write_model("gpt2"), tmp_path / "gpt2", lambda w: w | masks), "causal")


@pytest.mark.parametrize("name", ["v_head.summary", "v_head", "value_head"])
def test_a_policy_with_a_head_for_values_loads_without_it_and_says_so(tiny_model, tmp_path, caplog, name):
    change = lambda w: w | {f"{name}.weight": torch.ones(1, 32), f"{name}.bias": torch.ones(1)}  # noqa: E731
    path = folder(tiny_model, tmp_path / "model", change)
    with caplog.at_level("INFO"):
        network = PolicyNetwork(path)
    torch.testing.assert_close(network(ROWS), PolicyNetwork(tiny_model)(ROWS))
    assert f"its head for values is left aside ({name}.bias, {name}.weight)" in caplog.text


@pytest.mark.parametrize("lazily", [False, True])
def test_a_new_head_is_said_on_the_screen(tiny_model, tiny_reward_model, tmp_path, caplog, lazily):
    with caplog.at_level("INFO"), weights_in_files(lazily):
        RewardNetwork(tiny_reward_model)
        assert "random" not in caplog.text
        assert RewardNetwork(tiny_model).fresh
    assert "its head for scores is new and random (score.weight)" in caplog.text
    assert len([line for line in caplog.messages if "random" in line]) == 1


def test_an_encoder_gets_a_new_pooler_and_head_and_says_so(tmp_path, caplog):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=60
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        network = RewardNetwork(str(tmp_path))
    assert network.fresh
    named = "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight"
    assert f"new and random ({', '.join(sorted(named.split(', ')))})" in caplog.text
