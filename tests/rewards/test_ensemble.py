import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store
from lit_rlhf.rewards import ContrastiveReward, EnsembleReward, PythonReward, Reward


class PerToken(Reward):
    """Random rewards of each token, the same at every call; counts its calls."""

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.seed, self.scale, self.calls, self.fingerprint = seed, scale, 0, f"random {seed}"

    def forward(self, completions):
        self.calls += 1
        mask = completions.sequences.response_mask
        return torch.randn(mask.shape, generator=torch.Generator().manual_seed(self.seed)) * mask


@pytest.fixture
def members() -> list[Reward]:
    return [PerToken(0, scale=0.5), PerToken(1), PerToken(2)]


COMBINED = {
    "mean": lambda row: sum(row) / len(row),
    "worst": min,
    "lower_bound": lambda row: np.mean(row) - 0.7 * np.std(row),
}


@pytest.mark.parametrize("reduce", COMBINED)
def test_whole_responses_are_compared_and_their_tokens_rewarded(members, completions, renderer, reduce):
    """One member may reward every token, another the last one only: what counts is what a response gets in all."""
    reward = EnsembleReward(members, reduce, 0.7).load(renderer, "policy")
    rewards, alone = reward(completions), [member(completions) for member in members]
    assert rewards.shape == completions.sequences.response_mask.shape
    for n in range(rewards.shape[0]):
        totals = [each[n].sum().item() for each in alone]
        assert rewards[n].sum().item() == pytest.approx(COMBINED[reduce](totals), abs=1e-5)
    if reduce == "worst":
        worst = [min(alone, key=lambda each, n=n: each[n].sum().item())[n] for n in range(len(rewards))]
        torch.testing.assert_close(rewards, torch.stack(worst))
    else:
        last = completions.sequences.response_length - 1
        tokens = torch.arange(rewards.shape[1]) < last[:, None]
        torch.testing.assert_close(rewards[tokens], torch.stack(alone).mean(0)[tokens])
    assert not rewards[~completions.sequences.response_mask].any()


def test_one_member_is_itself_whatever_the_combination(completions, renderer):
    for reduce in COMBINED:
        alone = EnsembleReward([PerToken(4)], reduce).load(renderer, "")
        torch.testing.assert_close(alone(completions), PerToken(4)(completions))
        assert alone.diagnostics(completions)["disagreement"] == 0


def test_disagreement_lowers_the_bound_and_the_worst_is_lower_still(members, completions, renderer):
    mean, bound, small, worst = (
        EnsembleReward(members, reduce, coefficient).load(renderer, "")(completions)
        for reduce, coefficient in (("mean", 9.0), ("lower_bound", 1.0), ("lower_bound", 0.0), ("worst", 9.0))
    )
    torch.testing.assert_close(mean, small)
    assert (bound.sum(1) < mean.sum(1)).all()
    assert (worst.sum(1) < mean.sum(1)).all()


def test_diagnostics_by_hand_and_nothing_is_asked_twice(members, completions, renderer):
    reward = EnsembleReward(members).load(renderer, "")
    reward(completions)
    found = reward.diagnostics(completions)
    reward.proxy(completions)
    assert [member.calls for member in members] == [1, 1, 1]
    totals = np.array([member(completions).sum(1).numpy() for member in members])
    assert found.keys() == {"disagreement", "member_1", "member_2", "member_3"}
    assert found["disagreement"].item() == pytest.approx(totals.std(axis=0).mean(), abs=1e-5)
    for number, total in enumerate(totals, 1):
        assert found[f"member_{number}"].item() == pytest.approx(total.mean(), abs=1e-5)


def test_other_completions_are_asked_about_anew(members, completions, complete, records, renderer):
    reward = EnsembleReward(members).load(renderer, "")
    first = reward(completions)
    assert reward(complete(records[:2])).shape[0] == 2
    torch.testing.assert_close(reward(completions), first)
    assert members[0].calls == 3


def test_members_that_are_ensembles_are_named_by_their_number(members, completions, renderer):
    inner = EnsembleReward(members[:2])
    found = EnsembleReward([members[2], inner]).load(renderer, "").diagnostics(completions)
    torch.testing.assert_close(found["member_2/disagreement"], inner.diagnostics(completions)["disagreement"])


def test_the_scale_is_the_first_members(members, renderer):
    assert EnsembleReward(members).load(renderer, "").scale == 0.5
    assert EnsembleReward(members[::-1]).load(renderer, "").scale == 1.0


def test_the_fingerprint_names_members_combination_and_coefficient(members, renderer):
    def name(*args, **options) -> str:
        return EnsembleReward(*args, **options).load(renderer, "").fingerprint

    names = [
        name(members), name(members[:2]), name(members[::-1]), name(members, "worst"),
        name(members, "lower_bound"), name(members, "lower_bound", 2.0),
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert name(members) == name(members, coefficient=2.0)  # not used there
    assert all("random 1" in each for each in names)


class Shifted(Reward):
    """A wrapper with stored data: its proxy is what it holds."""

    def __init__(self, inner: Reward, by: float | None) -> None:
        super().__init__()
        self.inner, self.by, self.fingerprint = inner, by, f"{inner} shifted"

    @property
    def proxy(self):
        return self.inner

    def baseline_mean(self, completions):
        return None if self.by is None else torch.full((len(completions),), self.by)

    def forward(self, completions):
        return self.inner(completions) + 100


def test_the_proxy_combines_the_members_proxies(members, completions, renderer):
    plain = EnsembleReward(members, "worst").load(renderer, "")
    assert plain.proxy is plain
    wrapped = EnsembleReward([Shifted(members[0], 1.0), *members[1:]], "worst").load(renderer, "")
    torch.testing.assert_close(wrapped.proxy(completions), plain(completions))
    assert wrapped.proxy.fingerprint == plain.fingerprint
    assert wrapped.proxy.proxy.fingerprint == plain.fingerprint


def test_baselines_are_averaged_where_every_member_has_them(members, completions):
    both = EnsembleReward([Shifted(members[0], 1.0), Shifted(members[1], 4.0)])
    assert both.baseline_mean(completions).tolist() == [2.5] * len(completions)
    assert EnsembleReward([Shifted(members[0], 1.0), members[1]]).baseline_mean(completions) is None
    assert EnsembleReward(members).baseline_mean(completions) is None


def test_a_contrastive_reward_centres_an_ensemble_and_passes_its_diagnostics_on(
    members, completions, records, renderer, tmp_path
):
    ensemble = EnsembleReward(members, "lower_bound").load(renderer, "policy")
    store = Store(tmp_path / "store")
    store.begin({"policy": "policy", "reward": ensemble.fingerprint, "template": renderer.fingerprint, "k": 2})
    store.write_part(0, [{"prompt_hash": record.prompt_hash, "scores": [1.0, 2.0]} for record in records])
    store.finish(1)
    reward = ContrastiveReward(ensemble, str(store.directory)).load(renderer, "policy")
    torch.testing.assert_close(reward(completions).sum(1), ensemble(completions).sum(1) - 1.5)
    own = {"centred_variance"}
    assert reward.diagnostics(completions).keys() - own == ensemble.diagnostics(completions).keys()
    assert members[0].calls == 1
    assert reward.proxy is ensemble
    assert reward.scale == 0.5
    other = EnsembleReward(members, "worst")
    with pytest.raises(DataError, match="reward"):
        ContrastiveReward(other, str(store.directory)).load(renderer, "policy")


def length(prompt: str, response: str) -> float:
    return float(len(response))


def test_it_is_composed_from_a_config(completions, renderer):
    parser = ArgumentParser()
    parser.add_argument("--reward", type=Reward)
    member = {"class_path": "lit_rlhf.rewards.PythonReward", "init_args": {"function": f"{__name__}.length"}}
    options = {"members": [member, {**member, "init_args": {**member["init_args"], "scale": 3.0}}], "reduce": "worst"}
    config = {"reward": {"class_path": "lit_rlhf.rewards.EnsembleReward", "init_args": options}}
    reward = parser.instantiate(parser.parse_object(config)).reward.load(renderer, "")
    assert isinstance(reward, EnsembleReward)
    assert reward(completions).sum(1).tolist() == [len(text) for text in completions.texts]
    assert all(isinstance(each, PythonReward) for each in reward.members)


@pytest.mark.parametrize(("options", "message"), [({"members": []}, "members"), ({"coefficient": -0.1}, "coefficient")])
def test_options_out_of_range_are_refused(members, options, message):
    with pytest.raises(DataError, match=message):
        EnsembleReward(**({"members": members} | options))
