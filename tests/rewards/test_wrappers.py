import copy
import json
import math
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from lit_rlhf.cli.parser import PlainParser
from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.networks.backbone import ensure_pad_token, export
from lit_rlhf.networks.rewriter import Rewriter, correction_marker
from lit_rlhf.rewards import (
    ClipReward,
    ContrastiveReward,
    EnsembleReward,
    LengthPenalty,
    PythonReward,
    Reward,
    RewardWrapper,
    ScalarReward,
    ScaledReward,
    TruncationPenalty,
)
from lit_rlhf.rewards.running import RunningMeans
from lit_rlhf.world import WorldPairs


class PerToken(Reward):
    """Rewards of each token, a function of its id; counts its calls and tells what it is asked to pass on."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift, self.scale, self.calls, self.fingerprint, self.loaded = shift, 0.5, 0, "per token", None

    def load(self, renderer, policy_fingerprint):
        self.loaded = (renderer, policy_fingerprint)
        return self

    def critic_scale(self, path):
        return 0.5 if path == "own" else 0.0

    def baseline_mean(self, completions):
        return torch.full((len(completions),), 2.5)

    def diagnostics(self, completions):
        return {"doubt": torch.tensor(3.0)}

    def components(self, completions):
        return {"style": completions.sequences.response_length}

    def forward(self, completions):
        self.calls += 1
        sequences = completions.sequences
        return torch.where(sequences.response_mask, (37 * sequences.responses % 11) / 50 - 0.1 + self.shift, 0.0)


class Fixed(Reward):
    """Given totals, on the first token, so that it is seen where a wrapper puts what it adds."""

    def __init__(self, totals) -> None:
        super().__init__()
        self.totals = torch.tensor(totals)

    def forward(self, completions):
        rewards = torch.zeros(completions.sequences.response_mask.shape, dtype=self.totals.dtype)
        rewards[:, 0] = self.totals[: len(completions)]
        return rewards


def again(completions: Completions, rows=slice(None)) -> Completions:
    """The same rows, or some of them, as another object; rows by number come in that order."""
    if isinstance(rows, slice):
        return completions[rows]
    pick = torch.tensor(rows)
    records, texts = [completions.records[row] for row in rows], [completions.texts[row] for row in rows]
    return Completions(completions.sequences[pick], completions.truncated[pick], records, texts)


WRAPPERS = {
    "clip": lambda inner: ClipReward(inner, -0.2, 0.9),
    "scaled": lambda inner: ScaledReward(inner, 0.9),
    "length": lambda inner: LengthPenalty(inner, 0.05, 4),
    "truncation": lambda inner: TruncationPenalty(inner, 2.0),
}
LOCAL = ("clip", "length", "truncation")  # what they do to a response depends on that response alone


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", WRAPPERS)
def test_token_rewards_keep_their_shape_and_padding_stays_zero(completions, renderer, name):
    reward = WRAPPERS[name](PerToken()).load(renderer, "")
    rewards, mask = reward(completions), completions.sequences.response_mask
    assert rewards.shape == mask.shape
    assert rewards.dtype == torch.float32
    assert not rewards[~mask].any()
    assert (rewards != reward.inner(completions)).any()  # it did something


@pytest.mark.parametrize("name", LOCAL)
def test_what_is_taken_off_is_taken_off_the_last_token(completions, renderer, name):
    reward = WRAPPERS[name](PerToken()).load(renderer, "")
    changed = (reward(completions) - reward.inner(completions)).nonzero()
    assert len(changed) > 0
    last = completions.sequences.response_length - 1
    assert changed[:, 1].tolist() == last[changed[:, 0]].tolist()


@pytest.mark.parametrize("name", LOCAL)
def test_a_response_gets_the_same_in_any_batch(completions, renderer, name):
    reward = WRAPPERS[name](PerToken()).load(renderer, "")
    whole = reward(completions).sum(1)
    parts = [reward(again(completions, slice(i, i + 4))).sum(1) for i in (0, 4)]
    torch.testing.assert_close(torch.cat(parts), whole)
    order = [5, 2, 2, 0]
    torch.testing.assert_close(reward(again(completions, order)).sum(1), whole[order])


@pytest.mark.parametrize("name", WRAPPERS)
def test_everything_else_is_the_inner_rewards(completions, renderer, name):
    inner = PerToken()
    reward = WRAPPERS[name](inner).load(renderer, "policy")
    assert inner.loaded == (renderer, "policy")
    assert reward.proxy is inner
    assert (reward.scale, reward.critic_scale("own"), reward.critic_scale("other")) == (0.5, 0.5, 0.0)
    assert torch.equal(reward.baseline_mean(completions), inner.baseline_mean(completions))
    assert torch.equal(reward.components(completions)["style"], completions.sequences.response_length)
    assert reward.diagnostics(completions)["doubt"] == 3


def test_the_proxy_lies_below_all_wrappers(completions, renderer):
    class HasProxy(PerToken):
        @property
        def proxy(self):
            return other

    other = PerToken()
    assert ClipReward(ScaledReward(LengthPenalty(TruncationPenalty(HasProxy(), 1.0), 0.1)), high=1.0).proxy is other


def test_the_fingerprint_names_every_wrapper_its_numbers_and_the_inner_reward(renderer):
    def name(reward: Reward) -> str:
        return reward.load(renderer, "").fingerprint

    inner = PerToken()
    names = [
        name(each)
        for each in (
            ClipReward(inner, -1), ClipReward(inner, -2), ClipReward(inner, -1, 2), ClipReward(inner, None, 2),
            ScaledReward(inner), ScaledReward(inner, 0.9),
            LengthPenalty(inner, 0.1), LengthPenalty(inner, 0.2), LengthPenalty(inner, 0.1, 5),
            TruncationPenalty(inner, 1), TruncationPenalty(inner, 2),
            ClipReward(ScaledReward(inner), -1), ScaledReward(ClipReward(inner, -1)),
        )
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert all(each.endswith("over per token") for each in names)
    assert name(ClipReward(inner, -1)) == names[0]


def test_inner_rewards_are_asked_once_and_nothing_is_left_after_loading(completions, renderer):
    reward = ScaledReward(ClipReward(PerToken(), high=0.5)).load(renderer, "")
    first = reward(completions)
    assert reward(completions) is first
    assert reward.inner.inner.calls == 1
    reward.inner.inner.shift = 1.0
    reward.load(renderer, "")
    torch.testing.assert_close(reward.inner(completions).sum(1), torch.full((6,), 0.5))


def test_two_wrappers_of_one_kind_are_told_apart_in_the_logs(completions, renderer):
    inner = Fixed([0.1, 1.1, 2.1, 3.1, 4.1, 5.1])
    found = ClipReward(ClipReward(inner, high=3.0), low=1.0).load(renderer, "").diagnostics(completions)
    assert found["clipped"].item() == pytest.approx(1 / 6)
    assert found["inner/clipped"].item() == pytest.approx(3 / 6)


def test_a_wrapper_of_ones_own_needs_two_methods(completions, renderer):
    class Doubled(RewardWrapper):
        def change(self, rewards, completions):
            return 2 * rewards

        def describe(self):
            return "twice"

    reward = Doubled(PerToken()).load(renderer, "")
    torch.testing.assert_close(reward(completions), 2 * PerToken()(completions))
    assert reward.fingerprint == "twice over per token"


# ---------------------------------------------------------------------- clip, length, truncation


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.5), (None, 0.5), (-0.5, None), (0.25, 9.0)])
def test_totals_are_clipped_at_the_given_bounds_and_the_share_is_logged(completions, renderer, low, high):
    totals = [-2.0, -0.5, 0.0, 0.25, 0.5, 3.0]
    reward = ClipReward(Fixed(totals), low, high).load(renderer, "")
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    expected = [min(max(total, bounds[0]), bounds[1]) for total in totals]
    assert reward(completions).sum(1).tolist() == pytest.approx(expected)
    share = sum(one != other for one, other in zip(totals, expected, strict=True)) / len(totals)
    assert reward.diagnostics(completions)["clipped"].item() == pytest.approx(share)


@pytest.mark.parametrize("free", [0, 20, 10_000])
def test_each_token_beyond_the_free_ones_costs_the_same(completions, renderer, free):
    reward = LengthPenalty(Fixed([0.0] * 6), 0.25, free).load(renderer, "")
    lengths = [len(row) for row in completions.sequences.response_lists()]
    assert min(lengths) < 20 < max(lengths)
    expected = [0.25 * max(0, length - free) for length in lengths]
    assert (-reward(completions).sum(1)).tolist() == pytest.approx(expected)
    assert reward.diagnostics(completions)["length_penalty"].item() == pytest.approx(np.mean(expected))


def test_only_responses_that_were_cut_off_pay_for_it(completions, renderer):
    reward = TruncationPenalty(Fixed([1.0] * 6), 3.0).load(renderer, "")
    assert reward(completions).sum(1).tolist() == [1, -2, 1, 1, -2, 1]
    assert reward.diagnostics(completions)["truncation_penalty"].item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda r: ClipReward(r), "low and high"),
        (lambda r: ClipReward(r, 1.0, 1.0), "low and high"),
        (lambda r: ClipReward(r, 1.0, -1.0), "low and high"),
        (lambda r: ClipReward(r, math.nan), "low and high"),
        (lambda r: LengthPenalty(r, -0.1), "per_token"),
        (lambda r: LengthPenalty(r, math.nan), "per_token"),
        (lambda r: LengthPenalty(r, 0.1, -1), "free"),
        (lambda r: TruncationPenalty(r, -1.0), "penalty"),
        (lambda r: TruncationPenalty(r, math.inf), "penalty"),
        (lambda r: ScaledReward(r, 1.1), "decay"),
        (lambda r: ScaledReward(r, -0.1), "decay"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(make, option):
    with pytest.raises(DataError, match=option):
        make(PerToken())


# ---------------------------------------------------------------------- running scale


@pytest.fixture(scope="module")
def batches(complete) -> list[Completions]:
    """Five batches of different sizes."""
    records = iter(WorldPairs(20, seed=8).records())
    return [complete(list(islice(records, size))) for size in (4, 2, 6, 1, 5)]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_totals_are_divided_by_the_weighted_deviation_of_all_so_far(batches, renderer, decay):
    reward, inner = ScaledReward(PerToken(), decay).load(renderer, ""), PerToken()
    seen, ages = [], []
    for batch in batches[:3]:
        seen.append(inner(batch).sum(1).double().numpy())
        ages = [age + 1 for age in ages] + [0]
        weights = np.concatenate([np.full(len(x), decay**age) for x, age in zip(seen, ages, strict=True)])
        values = np.concatenate(seen)
        mean = np.average(values, weights=weights)
        std = np.sqrt(np.average((values - mean) ** 2, weights=weights))
        torch.testing.assert_close(reward(batch), (inner(batch).double() / std).float(), rtol=1e-5, atol=1e-6)
        assert reward.diagnostics(batch)["running_std"].item() == pytest.approx(std, rel=1e-5)


def test_the_first_batch_gets_unit_spread_and_keeps_its_mean(completions, renderer):
    totals = [5.0, 5.5, 6.0, 7.0, 7.5, 9.0]
    scaled = ScaledReward(Fixed(totals)).load(renderer, "")(completions).sum(1).numpy()
    assert scaled.std() == pytest.approx(1, rel=1e-5)
    assert scaled.mean() == pytest.approx(np.mean(totals) / np.std(totals), rel=1e-5)


def test_no_reward_changes_its_sign_and_none_gets_a_part_of_anothers(batches, renderer):
    reward, inner = ScaledReward(PerToken(), 0.9).load(renderer, ""), PerToken()
    for batch in batches:
        ratio = reward(batch)[batch.sequences.response_mask] / inner(batch)[batch.sequences.response_mask]
        assert ratio[~ratio.isnan()].min() > 0
        torch.testing.assert_close(ratio.nan_to_num(float(ratio.nanmedian())), ratio.nanmedian().expand_as(ratio))


@pytest.mark.parametrize("totals", [[3.0] * 6, [0.0] * 6, [0.1 + 0.2, 0.3] * 3])
def test_totals_without_a_spread_are_left_alone(completions, renderer, totals):
    reward = ScaledReward(Fixed(totals)).load(renderer, "")
    assert reward(completions).sum(1).tolist() == pytest.approx(totals)
    one = again(completions, slice(0, 1))
    assert ScaledReward(Fixed(totals)).load(renderer, "")(one).sum().item() == pytest.approx(totals[0])


def test_a_small_spread_far_from_zero_is_found_exactly(completions, renderer):
    totals = np.array([1000.0, 1000.25, 1000.5, 999.75, 999.5, 1000.125])
    reward = ScaledReward(Fixed(totals)).load(renderer, "")
    reward(completions)
    assert 1 / reward.factor == pytest.approx(totals.std(), rel=1e-6)


def test_the_order_of_rows_and_with_decay_1_the_batches_make_no_difference(completions, renderer):
    def factor(*parts: Completions, decay: float = 1.0) -> float:
        reward = ScaledReward(PerToken(), decay).load(renderer, "")
        for part in parts:
            reward(part)
        return reward.factor

    whole = factor(completions)
    assert factor(again(completions, [3, 5, 0, 1, 4, 2]), decay=0.5) == pytest.approx(whole, rel=1e-6)
    halves = again(completions, slice(0, 2)), again(completions, slice(2, None))
    assert factor(*halves) == pytest.approx(whole, rel=1e-6)
    assert factor(*halves, decay=0.5) != pytest.approx(whole, rel=1e-3)


def test_a_batch_is_counted_once_and_only_when_rewards_are_asked_for(completions, renderer):
    reward = ScaledReward(PerToken(), 0.5).load(renderer, "")
    reward.diagnostics(completions), reward.proxy(completions), reward.critic_scale("own")
    assert not reward.moments.running_count
    first = reward(completions)
    reward.diagnostics(completions)
    assert torch.equal(reward(completions), first)
    assert reward.moments.running_count == len(completions)
    reward(again(completions))
    assert reward.moments.running_count == 1.5 * len(completions)


def test_a_critic_follows_the_running_scale(completions, renderer):
    reward = ScaledReward(Fixed([0.0, 4.0] * 3)).load(renderer, "")
    reward.inner.critic_scale = lambda path: 3.0
    assert reward.critic_scale("") == 3.0
    reward(completions)
    assert reward.critic_scale("") == pytest.approx(1.5)
    assert reward.scale == pytest.approx(0.5)


def test_a_resumed_run_goes_on_exactly_from_the_buffers_called_running(batches, renderer):
    def nest() -> Reward:
        return ClipReward(ScaledReward(PerToken(), 0.8), -1.0, 1.0).load(renderer, "")

    straight, before, after = nest(), nest(), nest()
    for batch in batches[:3]:
        straight(batch), before(batch)
    state = before.state_dict()
    assert state
    assert all(name.rpartition(".")[2].startswith("running_") for name in state)
    after.load_state_dict(copy.deepcopy(state))
    for batch in batches[3:]:
        assert torch.equal(after(batch), straight(batch))
    fresh = nest()
    assert not torch.equal(fresh(batches[3]), after(batches[3]))
    assert torch.equal(after.load(renderer, "")(batches[3]), fresh(batches[3]))  # loading begins anew


def test_running_means_stay_in_double_precision_and_may_be_counted_without_gradients(completions):
    means = RunningMeans(1, 1.0, "")
    means.update(torch.full((3,), 1 / 3, dtype=torch.float64, requires_grad=True))
    with torch.inference_mode():
        means.bfloat16().update(torch.zeros(1))
    means.update(torch.zeros(2))
    assert means.running_sums.dtype == torch.float64
    assert means.means == [pytest.approx(1 / 6, rel=1e-12)]
    assert not means.running_sums.requires_grad


WORKER = """
import json, sys, torch, torch.distributed as dist
from lit_rlhf.rewards.running import RunningMeans
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
means = RunningMeans(2, 0.5, "")
for step in range(3):
    values = torch.arange(10.0).roll(step)[slice(0, 3) if rank == 0 else slice(3, 10)]
    means.update(values, values.square())
print(json.dumps(means.means))
"""


@pytest.mark.slow
def test_several_processes_share_one_scale(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script)]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in started]
    assert found[0] == found[1] == pytest.approx([4.5, 28.5])


# ---------------------------------------------------------------------- nests from YAML


def parsed(tmp_path, text: str) -> Reward:
    """What the command line makes of a reward in YAML."""
    config = tmp_path / "reward.yaml"
    config.write_text(text)
    parser = PlainParser()
    parser.add_argument("-c", action="config")
    parser.add_argument("--reward", type=Reward)
    return parser.instantiate(parser.parse_args(["-c", str(config)])).reward


def test_clip_over_scaled_over_contrastive_over_an_ensemble(
    tmp_path, completions, records, renderer, tiny_reward_model
):
    reward = parsed(
        tmp_path,
        f"""
reward:
  class_path: ClipReward
  init_args:
    low: -0.8
    high: 0.8
    inner:
      class_path: ScaledReward
      init_args:
        inner:
          class_path: ContrastiveReward
          init_args:
            store: {tmp_path / "store"}
            dynamic_scaling: 0.9
            inner:
              class_path: EnsembleReward
              init_args:
                members:
                - {{class_path: ScalarReward, init_args: {{model: {tiny_reward_model}}}}}
                - {{class_path: ScalarReward, init_args: {{model: {tiny_reward_model}, scale: 0.25}}}}
""",
    )
    assert isinstance(reward, ClipReward)
    scaled = reward.inner
    contrastive = scaled.inner
    ensemble = contrastive.inner
    assert [type(each) for each in (scaled, contrastive, ensemble)] == [ScaledReward, ContrastiveReward, EnsembleReward]
    assert isinstance(ensemble.members[1], ScalarReward)
    baselines = np.random.default_rng(1).normal(size=(6, 3)).tolist()
    store = Store(tmp_path / "store")
    name = ensemble.load(renderer, "policy").fingerprint
    store.begin({"policy": "policy", "reward": name, "template": renderer.fingerprint, "k": 3})
    rows = zip(records, baselines, strict=True)
    store.write_part(0, [{"prompt_hash": each.prompt_hash, "scores": scores} for each, scores in rows])
    store.finish(1)

    reward.load(renderer, "policy")
    alone = ScalarReward(tiny_reward_model).load(renderer, "policy")(completions).sum(1).numpy()
    total = (alone + 0.25 * alone) / 2
    centred = total - np.mean(baselines, axis=1)
    back = np.abs(total).mean() / np.abs(centred).mean() * centred
    expected = (back / back.std()).clip(-0.8, 0.8)
    assert reward(completions).sum(1).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert reward.proxy is ensemble
    assert reward.fingerprint.startswith(
        "clip -0.8 to 0.8 over running scale with decay 0.99 over contrastive mean of 3"
    )
    assert reward.fingerprint.endswith(ensemble.fingerprint)
    assert {"clipped", "running_std", "dynamic_scale", "disagreement"} <= reward.diagnostics(completions).keys()
    expected = back.std() * np.abs(centred).mean() / np.abs(total).mean()
    assert reward.critic_scale(tiny_reward_model) == pytest.approx(ensemble.critic_scale(tiny_reward_model) / expected)
    assert {name.rpartition(".")[2] for name in reward.state_dict() if "running_" in name} == {
        "running_sums", "running_count"
    }  # fmt: skip
    torch.testing.assert_close(reward.baseline_mean(completions), torch.tensor(baselines).mean(1))


def test_penalties_over_the_token_rewards_of_a_rewriter(tmp_path, completions, renderer, tiny_model):
    network = Rewriter(tiny_model, [], renderer.pad_id)
    network.model.config.rewriting = {"marker": correction_marker(renderer, None)}
    ensure_pad_token(network.model, renderer)
    export(network.model, Renderer.load(tiny_model), tmp_path / "rewriter")
    reward = parsed(
        tmp_path,
        f"""
reward:
  class_path: lit_rlhf.rewards.TruncationPenalty
  init_args:
    penalty: 1
    inner:
      class_path: lit_rlhf.rewards.LengthPenalty
      init_args:
        per_token: 0.01
        free: 10
        inner: {{class_path: lit_rlhf.rewards.Seq2SeqReward, init_args: {{model: {tmp_path / "rewriter"}, scale: 2}}}}
""",
    ).load(renderer, "policy")
    rewards, plain = reward(completions), reward.proxy(completions)
    assert plain.ne(0).sum() > len(completions)  # tokens are rewarded, not responses
    sequences = completions.sequences
    for row, length in enumerate(sequences.response_length.tolist()):
        expected = plain[row].clone()
        expected[length - 1] -= 0.01 * max(0, length - 10) + (row in (1, 4))
        torch.testing.assert_close(rewards[row], expected)
    assert reward.scale == 2
    assert reward.critic_scale(str(tmp_path / "rewriter")) == 0


def test_a_reward_without_its_inner_one_is_refused_with_the_options_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed(tmp_path, "reward: {class_path: lit_rlhf.rewards.ScaledReward, init_args: {decay: 0.9}}")
    assert "inner" in capsys.readouterr().err


def test_a_running_scale_may_not_lie_inside_a_contrastive_reward():
    """Its baselines were scored once: with another scale."""
    inner = EnsembleReward([PythonReward(len), ClipReward(ScaledReward(PerToken()), high=1.0)])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Centre first, then scale"):
        ContrastiveReward(inner, "store")
