from statistics import pvariance
from types import SimpleNamespace

import pytest
import torch

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.functional import ngram_repetition
from lit_rlhf.policy.diagnostics import (
    completion_metrics,
    example_rows,
    judged_components,
    opens_with_refusal,
    reward_diagnostics,
    special_tokens,
    token_texts,
    trajectory_metrics,
)
from lit_rlhf.policy.trajectory import Trajectory
from lit_rlhf.rewards import EnsembleReward, GoldReward, PythonReward
from lit_rlhf.rewards.reward import Reward
from lit_rlhf.world import GOLD_WEIGHTS, WorldDemonstrations, gold_reward


@pytest.fixture
def completions(renderer) -> Completions:
    records = list(WorldDemonstrations(6, seed=1).records())
    texts = [record.chosen or "" for record in records]
    responses = [renderer.response_ids(text) for text in texts]
    prompts = [renderer.prompt_ids(record.prompt) for record in records]
    truncated = torch.tensor([False, True, False, True, False, False])
    return Completions(stack_sequences(prompts, responses, renderer.pad_id), truncated, records, texts)


@pytest.fixture
def reward(renderer) -> PythonReward:
    return PythonReward(lambda prompt, response: float(len(response))).load(renderer, "")


def test_completion_metrics_are_plain_means(completions, reward, renderer):
    metrics = completion_metrics(completions, reward, GoldReward().load(renderer, ""))
    golds = [
        gold_reward(record.prompt[-1].content, text)
        for record, text in zip(completions.records, completions.texts, strict=True)
    ]
    assert metrics["reward"].item() == pytest.approx(sum(map(len, completions.texts)) / 6)
    assert metrics["gold_reward"].item() == pytest.approx(sum(golds) / 6, abs=1e-6)
    assert metrics["truncated"].item() == pytest.approx(2 / 6)
    lengths = [len(renderer.response_ids(text)) for text in completions.texts]
    assert metrics["response_length"].item() == pytest.approx(sum(lengths) / 6)
    alone = completion_metrics(completions, reward, None)
    lengths = [float(len(text)) for text in completions.texts]
    assert alone["reward_variance"].item() == pytest.approx(pvariance(lengths), rel=1e-5)
    assert not any(name.startswith("gold") for name in alone)
    assert set(alone) == {name for name in metrics if not name.startswith("gold")}


def test_stock_answers_and_repetitions_are_counted(completions, reward, renderer):
    once, again = "Alice has a cat.", "Alice has a cat. Alice has a cat. Alice has a cat."
    completions.texts = [once, once, once, again, again, "I like tea."]
    responses = [renderer.response_ids(text) for text in completions.texts]
    prompts = [renderer.prompt_ids(record.prompt) for record in completions.records]
    completions.sequences = stack_sequences(prompts, responses, renderer.pad_id)
    metrics = completion_metrics(completions, reward, None)
    assert metrics["distinct_responses"].item() == pytest.approx(3 / 6)
    mask, ids = completions.sequences.response_mask, completions.sequences.responses
    assert metrics["repetition"].item() == pytest.approx(ngram_repetition(ids, mask).mean().item())
    assert metrics["repetition"].item() > 0.1


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I am sorry, but I cannot help you with that.", True),
        ("I'm sorry, that is not something to do.", True),
        ("No, I won’t help with that.", True),
        ("As an AI, I have no opinion.", True),
        ("I can help: paint it blue.", False),
        ("Alice cannot swim.", False),
        ("To open the lock, " + "turn the key slowly and " * 6 + "I cannot help it.", False),  # not how it opens
    ],
)
def test_a_refusal_is_known_by_how_it_opens(completions, reward, text, refuses):
    assert opens_with_refusal(text) == refuses
    completions.texts = [text, *["Alice has a cat."] * 5]
    assert completion_metrics(completions, reward, None)["refusal"].item() == pytest.approx(refuses / 6)


def test_the_judges_components_are_reported_by_name(completions, reward, renderer):
    judge = GoldReward().load(renderer, "")
    columns = judged_components(completions, judge)
    assert set(columns) == {*(f"gold/{name}" for name in GOLD_WEIGHTS), "refusal"}
    metrics = completion_metrics(completions, reward, judge)
    for name, column in columns.items():
        assert metrics[name].item() == pytest.approx(sum(column.tolist()) / 6)
    total = sum(weight * metrics[f"gold/{name}"].item() for name, weight in GOLD_WEIGHTS.items())
    assert metrics["gold_reward"].item() == pytest.approx(total, abs=1e-6)
    assert judged_components(completions, reward) == {}


def test_example_rows_are_the_first_few_as_people_read_them(completions, reward, renderer):
    rows = example_rows(completions, reward, GoldReward().load(renderer, ""), n=2)
    assert len(rows) == 2
    for i, row in enumerate(rows):
        prompt, text = completions.records[i].prompt[-1].content, completions.texts[i]
        assert (row["prompt"], row["response"], row["proxy_reward"]) == (prompt, text, len(text))
        assert row["baseline_mean"] is None
        assert row["gold_reward"] == pytest.approx(gold_reward(prompt, text), abs=1e-6)


def test_example_rows_show_the_proxy_and_the_baselines_of_a_wrapper(completions, reward):
    class Centred(Reward):
        proxy = reward

        def baseline_mean(self, completions):
            return torch.full((len(completions),), 2.5)

    rows = example_rows(completions, Centred(), None)
    assert [row["proxy_reward"] for row in rows] == [len(text) for text in completions.texts[:4]]
    assert {row["baseline_mean"] for row in rows} == {2.5}
    assert not any("gold_reward" in row for row in rows)


def test_example_rows_with_a_trajectory_hold_every_real_token(completions, reward, renderer):
    mask = completions.sequences.response_mask
    values = {name: torch.randn(mask.shape) for name in ("rewards", "advantages", "values", "logprobs")}
    trajectory = Trajectory(completions.sequences, mask, reference_logprobs=values["logprobs"], **values)
    rows = example_rows(completions, reward, None, 3, trajectory, renderer)
    for i, row in enumerate(rows):
        length = int(completions.sequences.response_length[i])
        assert "".join(row["tokens"]) == row["response"] == completions.texts[i] + renderer.tokenizer.eos_token
        assert row["special"] == [False] * (length - 1) + [True]
        assert row["token_rewards"] == pytest.approx(values["rewards"][i, :length].tolist(), abs=1e-6)
        assert row["token_advantages"] == pytest.approx(values["advantages"][i, :length].tolist(), abs=1e-6)
        assert len(row["tokens"]) == length
    assert len(rows) == 3


def test_example_rows_say_which_response_was_cut_off(completions, reward, renderer):
    assert [row["truncated"] for row in example_rows(completions, reward, None)] == [False, True, False, True]
    assert [row["truncated"] for row in example_rows(completions, reward, None, 2, None, renderer)] == [False, True]


def test_special_tokens_are_shown_wherever_they_stand(completions, renderer):
    """A policy that writes such tokens in the middle of a response is seen to."""
    tokenizer = renderer.tokenizer
    other = next(token for token in tokenizer.all_special_ids if token not in renderer.end_ids)
    words = renderer.response_ids(completions.texts[0])
    ids = [*words[:-1], other, *words]
    one = Completions(stack_sequences([[1]], [ids], 0), torch.tensor([False]), completions.records[:1], [""])
    (tokens,), (special,) = token_texts(one, renderer), special_tokens(one, renderer)
    shown = [text for text, is_special in zip(tokens, special, strict=True) if is_special]
    assert shown == [tokenizer.decode([other]), tokenizer.eos_token]
    assert "".join(tokens).startswith(f"{completions.texts[0]}{shown[0]}")
    assert len(tokens) == len(ids)


def test_tokens_of_the_world_are_its_words(completions, renderer):
    for ids, tokens in zip(completions.sequences.response_lists(), token_texts(completions, renderer), strict=True):
        assert tokens[-1] == renderer.tokenizer.eos_token
        assert all(tokens)
        for t in range(len(ids) - 1):
            assert "".join(tokens[: t + 1]) == renderer.response_text(ids[: t + 1])


def test_tokens_join_to_a_text_whose_characters_take_several():
    class Bytes:
        """A byte-level tokenizer whose template puts two line breaks before a response."""

        tokenizer, end_ids = SimpleNamespace(added_tokens_decoder={}, all_special_ids=[]), ()

        def response_text(self, ids: list[int]) -> str:
            return bytes(ids).decode("utf-8", "replace").removeprefix("\n\n")

    text = "\n\nä 🙂!"
    one = stack_sequences([[1]], [list(text.encode())], 0)
    completions = Completions(one, torch.tensor([False]), [], [text.strip()])
    (tokens,) = token_texts(completions, Bytes())  # type: ignore[arg-type]
    assert tokens == ["", "", "", "ä", " ", "", "", "", "🙂", "!"]


def test_what_a_reward_says_of_itself_stands_below_reward(completions, reward):
    assert reward_diagnostics(completions, reward) == {}
    both = EnsembleReward([reward, reward])
    assert set(reward_diagnostics(completions, both)) == {"reward/disagreement", "reward/member_1", "reward/member_2"}


def test_a_prompt_has_improved_if_its_responses_earn_more_than_its_baselines_on_average(completions, reward):
    class Centred(Reward):
        proxy = reward

        def baseline_mean(self, completions):
            return torch.tensor([1.0, 1e3, 1.0, 1e3, 1.0, 1.0])

    assert reward_diagnostics(completions, Centred())["improved"].item() == pytest.approx(4 / 6)
    assert "improved" not in reward_diagnostics(completions, reward)
    completions.records[1] = completions.records[0]  # one prompt: a little gained, much lost
    assert reward_diagnostics(completions, Centred())["improved"].item() == pytest.approx(3 / 5)


@pytest.fixture
def trajectory() -> Trajectory:
    """Two responses, of three and one tokens, with NaN in the padding."""
    sequences = stack_sequences([[5], [5, 5]], [[1, 2, 3], [4]], 0)
    nan = torch.nan
    return Trajectory(
        sequences,
        sequences.response_mask,
        logprobs=torch.tensor([[-1.0, -2.0, -3.0], [-4.0, nan, nan]]),
        reference_logprobs=torch.tensor([[-1.5, -2.0, -2.0], [-5.0, nan, nan]]),
        values=torch.tensor([[1.0, 2.0, 3.0], [4.0, nan, nan]]),
        rewards=torch.tensor([[0.0, 0.0, 2.0], [5.0, 0.0, 0.0]]),
        returns=torch.tensor([[2.0, 2.0, 4.0], [4.0, nan, nan]]),
    )


def test_trajectory_metrics_by_hand(trajectory):
    metrics = {name: value.item() for name, value in trajectory_metrics(trajectory).items()}
    assert metrics["kl"] == pytest.approx(((0.5 + 0 - 1) + 1) / 2)  # per response, summed over its tokens
    assert (metrics["kl_max"], metrics["kl_token_max"]) == pytest.approx((1.0, 1.0))
    assert metrics["sqrt_kl"] == pytest.approx(0.5)
    assert metrics["entropy"] == pytest.approx((1 + 2 + 3 + 4) / 4)  # per token
    assert metrics["trained_reward"] == pytest.approx(3.5)
    assert metrics["trained_reward_std"] == pytest.approx(1.5)
    assert metrics["value_mean"] == pytest.approx(2.5)
    assert metrics["trained_reward_variance"] == pytest.approx(1.5**2)
    assert metrics["token_reward_abs"] == pytest.approx((0 + 0 + 2 + 5) / 4)
    assert metrics["advantage_std"] == pytest.approx(0.5)  # of 1 0 1 0
    # Returns 2 2 4 4 have variance 1, what the critic misses (1 0 1 0) has variance 1/4.
    assert metrics["explained_variance"] == pytest.approx(0.75)


def test_a_perfect_critic_explains_all_and_equal_returns_stay_finite(trajectory):
    trajectory.values = trajectory.returns
    assert trajectory_metrics(trajectory)["explained_variance"].item() == pytest.approx(1.0)
    trajectory.returns = torch.ones(2, 3)
    assert trajectory_metrics(trajectory)["explained_variance"].isfinite()


def test_without_a_critic_there_is_nothing_to_say_of_one(trajectory):
    with_critic = trajectory_metrics(trajectory)
    trajectory.values = None
    metrics = trajectory_metrics(trajectory)
    assert set(with_critic) - set(metrics) == {"value_mean", "explained_variance"}
    assert metrics["advantage_std"].item() == pytest.approx(1.0)  # of the returns 2 2 4 4
    assert all(metrics[name] == with_critic[name] for name in set(metrics) - {"advantage_std"})


@pytest.mark.parametrize(("largest", "share"), [(2.0, 0.0), (30.0, 0.1)])
def test_a_spike_stands_out_from_the_other_responses(largest, share):
    sequences = stack_sequences([[5]] * 10, [[1]] * 10, 0)
    zeros, mask = torch.zeros(10, 1), sequences.response_mask
    logprobs = torch.full((10, 1), 0.1)
    logprobs[3], logprobs[7] = largest, -3.0  # below the reference is no spike, but large all the same
    trajectory = Trajectory(sequences, mask, logprobs, zeros, values=None, rewards=zeros, returns=zeros)
    metrics = trajectory_metrics(trajectory)
    assert metrics["kl_spikes"].item() == pytest.approx(share)
    assert metrics["kl_max"].item() == metrics["kl_token_max"].item() == pytest.approx(largest)


def test_the_root_of_a_negative_estimate_is_zero(trajectory):
    trajectory.reference_logprobs = torch.zeros(2, 3)
    metrics = trajectory_metrics(trajectory)
    assert metrics["kl"].item() < 0
    assert metrics["sqrt_kl"].item() == 0.0
