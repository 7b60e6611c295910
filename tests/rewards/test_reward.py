import torch

from lit_rlhf.rewards.reward import Reward, SequenceReward, on_last_token


def test_a_score_stands_on_the_last_real_token_and_nowhere_else(completions):
    scores = torch.arange(1.0, len(completions) + 1)
    placed = on_last_token(scores, completions)
    assert placed.shape == completions.sequences.response_mask.shape
    for row, length in enumerate(completions.sequences.response_length.tolist()):
        expected = torch.zeros(placed.shape[1])
        expected[length - 1] = scores[row]
        assert torch.equal(placed[row], expected)


def test_a_subclass_gives_scores_and_gets_tokens(completions):
    class Length(SequenceReward):
        def scores(self, completions):
            return completions.sequences.response_length.bfloat16()

    rewards = Length()(completions)
    assert rewards.dtype == torch.float32
    assert rewards.sum(1).tolist() == completions.sequences.response_length.tolist()
    assert not rewards[~completions.sequences.response_mask].any()


def test_a_plain_reward_is_its_own_proxy_and_has_no_baselines(completions):
    reward = Reward()
    assert reward.proxy is reward
    assert reward.baseline_mean(completions) is None
    assert reward.load(None, "") is reward  # type: ignore[arg-type]


def test_the_same_completions_are_computed_once_and_others_anew(completions, complete, records):
    reward, asked = Reward(), []

    def compute(given):
        asked.append(len(given))
        return torch.ones(len(given))

    first = reward.remembered(completions, compute)
    assert reward.remembered(completions, compute) is first
    assert len(reward.remembered(complete(records[:2]), compute)) == 2
    assert len(reward.remembered(completions, compute)) == len(completions)
    assert asked == [6, 2, 6]
    assert Reward().diagnostics(completions) == {}
    assert Reward().components(completions) == {}
