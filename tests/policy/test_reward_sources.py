"""Policy optimisation with rewards from elsewhere: another tokenizer, another process."""

import pytest
import torch

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.rewards import RewardModel, ScalarReward


def test_a_reward_model_with_another_tokenizer_is_asked_through_text(lit, ppo_options, letters, tmp_path, monkeypatch):
    seen, original = [], ScalarReward._score

    def spy(self, completions):
        scores = original(self, completions)
        seen.append((completions, scores))
        return scores

    monkeypatch.setattr(ScalarReward, "_score", spy)
    reward = {"class_path": "lit_rlhf.rewards.ScalarReward", "init_args": {"model": letters, "scale": 2.0}}
    cli = lit("fit", tmp_path, ppo_options(2, reward=reward))
    assert cli.trainer.global_step > 0
    assert not cli.model.reward.shares_ids
    model = RewardModel.load(letters)
    own = model.renderer
    for completions, scores in seen:
        rows = zip(completions.records, completions.texts, completions.truncated.tolist(), strict=True)
        asked = [(own.prompt_ids(record.prompt), own.response_ids(text), cut) for record, text, cut in rows]
        responses = [ids[:-1] if cut and len(ids) > 1 else ids for _, ids, cut in asked]
        expected = model.score_sequences(stack_sequences([prompt for prompt, _, _ in asked], responses, own.pad_id))
        torch.testing.assert_close(scores, 2 * expected, rtol=0, atol=1e-4)
    assert len(torch.cat([scores for _, scores in seen]).unique()) > 5


def test_a_server_trains_as_the_same_function_in_this_process_does(lit, ppo_options, taste, serve, tmp_path):
    def answer(path: str, question: dict, headers: dict) -> tuple[int, dict]:
        asked = [("\n\n".join(m["content"] for m in each["messages"]), each["response"]) for each in question["inputs"]]
        return 200, {"scores": [len(prompt) + 0.01 * len(response) for prompt, response in asked]}

    here = {"class_path": "lit_rlhf.rewards.PythonReward", "init_args": {"function": f"{taste}.letters"}}
    there = {"class_path": "lit_rlhf.rewards.RemoteReward", "init_args": {"endpoint": {"url": serve(answer)}}}
    runs = [lit("fit", tmp_path / name, ppo_options(2, reward=each)) for name, each in (("a", here), ("b", there))]
    one, other = (
        {name: float(value) for name, value in cli.trainer.logged_metrics.items() if not name.startswith("perf/")}
        for cli in runs
    )
    assert one == pytest.approx(other, nan_ok=True)
    assert any("reward" in name for name in one)


def test_a_server_that_fails_ends_the_run(lit, ppo_options, serve, tmp_path):
    calls = []

    def answer(path: str, question: dict, headers: dict) -> tuple[int, dict]:
        calls.append(path)
        return (200, {"scores": [0.0] * len(question["inputs"])}) if len(calls) < 2 else (400, {"error": "full"})

    reward = {"class_path": "lit_rlhf.rewards.RemoteReward", "init_args": {"endpoint": {"url": serve(answer)}}}
    with pytest.raises(DataError, match="full"):
        lit("fit", tmp_path, ppo_options(3, reward=reward))
    assert len(calls) >= 2
