import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation import LLMJudge
from lit_rlhf.evaluation.compare import compare
from lit_rlhf.evaluation.judges import Referee, Verdict
from lit_rlhf.functional import best_of_n
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.rewards import GoldReward, PythonReward
from lit_rlhf.world import (
    GOLD_WEIGHTS,
    WorldPrompts,
    gold_components,
    gold_reward,
    parse_prompt,
    write_base_model,
)

SAMPLES = 3


def letters(prompt: str, response: str) -> float:
    """A proxy that tells nearly all responses apart."""
    return len(response) + 0.1 * response.count("e")


def prompts() -> PreferenceDataModule:
    sources = [
        WorldPrompts(11, split="val", name="known"),
        WorldPrompts(6, split="ood_topic", name="topics"),
        WorldPrompts(5, split="ood_wording", name="wordings"),
    ]
    return PreferenceDataModule(WorldPrompts(1), sources, val_batch_size=4, max_length=80)


@pytest.fixture(scope="module")
def policies(tiny_model, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("policies")
    others = {f"run{seed}": str(write_base_model(folder / f"run{seed}", "tiny", seed)) for seed in (1, 2)}
    return {"sft": tiny_model, **others}


def judged(policies, out: Path, **options):
    given = {"reward": PythonReward(letters), "samples": SAMPLES, "sampling": Sampling(max_new_tokens=6), "seed": 4}
    return compare(policies, prompts(), str(out), **(given | options))


@pytest.fixture
def no_pictures(monkeypatch):
    """Numbers alone: drawing takes longer than everything else here."""
    for name in ("comparison_picture", "best_of_n_picture", "win_rates_picture"):
        monkeypatch.setattr(f"lit_rlhf.evaluation.compare.{name}", lambda *args: None)


@pytest.fixture(scope="module")
def comparison(policies, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    history = [{"step": step, "train/reward": step * 0.1, "train/kl": step * 0.5} for step in range(1, 6)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*history, {"step": 5, "val/kl": 1}]))
    result = judged(policies, out, histories={"run1": str(out / "metrics.jsonl")})
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return result, samples, out


def values(samples: list[dict], policy: str, column: str, source: str = "known") -> np.ndarray:
    """One policy's values of a column, one row per prompt ``(prompts, samples)``."""
    rows = [row[column] for row in samples if row["policy"] == policy and row["source"] == source]
    return np.array(rows).reshape(-1, SAMPLES)


def test_every_policy_answers_every_prompt(comparison, policies):
    records = [record for source in prompts().val_sources for record in source.records()]
    asked = [(record.source, record.prompt[-1].content) for record in records for _ in range(SAMPLES)]
    for policy in policies:
        rows = [row for row in comparison[1] if row["policy"] == policy]
        assert [(row["source"], row["prompt"]) for row in rows] == asked
        for row in rows:
            assert row["proxy_reward"] == pytest.approx(letters(row["prompt"], row["response"]), abs=1e-3)


@pytest.mark.parametrize("source", ["known", "topics", "wordings"])
def test_figures_are_means_over_the_prompts_of_a_source(comparison, policies, source):
    result, samples, _ = comparison
    figures = result if source == "known" else result["splits"][source]
    for policy in policies:
        for column in ("proxy_reward", "kl", "response_length", "truncated"):
            expected = values(samples, policy, column, source).mean()
            assert figures[policy][column] == pytest.approx(expected, abs=1e-3)


def test_win_rates_are_counted_response_by_response(comparison):
    result, samples, _ = comparison
    first = values(samples, "sft", "proxy_reward")
    for policy in ("run1", "run2"):
        mine = values(samples, policy, "proxy_reward")
        wins, ties, losses = (mine > first).sum(), (mine == first).sum(), (mine < first).sum()
        assert [result[policy][f"{name}_vs_sft"] for name in ("wins", "ties", "losses")] == [wins, ties, losses]
        assert result[policy]["win_rate_vs_sft"] == pytest.approx((wins + ties / 2) / mine.size)


@pytest.mark.usefixtures("no_pictures")
def test_all_policies_draw_with_the_same_random_numbers(policies, tmp_path):
    judged({"sft": policies["sft"], "again": policies["sft"], "run1": policies["run1"]}, tmp_path)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    drawn = {name: [row["response"] for row in samples if row["policy"] == name] for name in ("sft", "again", "run1")}
    assert drawn["sft"] == drawn["again"] != drawn["run1"]
    assert len(set(drawn["sft"])) > len(drawn["sft"]) / 2


@pytest.mark.usefixtures("no_pictures")
def test_small_differences_tie_if_the_user_says_so(policies, tmp_path):
    two = {name: policies[name] for name in ("sft", "run1")}
    figures = judged(two, tmp_path, tie_margin=3.55)["run1"]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    gaps = values(samples, "run1", "proxy_reward") - values(samples, "sft", "proxy_reward")
    assert figures["ties_vs_sft"] == (abs(gaps) <= 3.55).sum() > (gaps == 0).sum()
    assert figures["wins_vs_sft"] == (gaps > 3.55).sum() > 0


@pytest.mark.usefixtures("no_pictures")
def test_all_pairs_of_policies_can_be_compared_on_every_source(policies, tmp_path):
    result = judged(policies, tmp_path, all_pairs=True)
    for figures in (result, *result["splits"].values()):
        assert {name: set(row) for name, row in figures["win_rates"].items()} == {
            name: set(policies) - {name} for name in policies
        }
        assert figures["win_rates"]["run2"]["sft"]["win_rate"] == figures["run2"]["win_rate_vs_sft"]


class Alphabet(Referee):
    """Prefers what comes first in the alphabet."""

    name = "alphabet"

    def judge(self, pairs, folder):
        self.asked = pairs
        (folder / "judgements.jsonl").write_text("")
        return [Verdict((each.first < each.second) - (each.first > each.second), 2, False, 0, (1, 1)) for each in pairs]


@pytest.mark.usefixtures("no_pictures")
def test_a_referee_decides_instead_of_the_rewards(policies, tmp_path):
    result = judged(policies, tmp_path, referee=Alphabet(), judge=GoldReward())
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    for source, figures in (("known", result), *result["splits"].items()):
        first = values(samples, "sft", "response", source)
        for policy in ("run1", "run2"):
            mine = values(samples, policy, "response", source)
            assert figures[policy]["wins_vs_sft"] == (mine < first).sum()
            assert figures[policy]["losses_vs_sft"] == (mine > first).sum()
            assert figures[policy]["answers_vs_sft"] == 2 * mine.size
    assert result["referee"]["name"] == "alphabet"
    assert result["referee"]["answers"] == 3 * 22 * SAMPLES * 2
    assert "gold_reward" in result["differences"]["run2 - run1"]


@pytest.mark.usefixtures("no_pictures")
def test_a_referee_sees_each_prompt_with_the_two_responses_to_it(policies, tmp_path):
    referee = Alphabet()
    judged(policies, tmp_path, referee=referee, all_pairs=True)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    by_policy = {name: [row for row in samples if row["policy"] == name] for name in policies}
    expected = [
        (one["prompt"], one["response"], other["response"])
        for first, second in [("sft", "sft"), ("run1", "sft"), ("run2", "sft"), ("run2", "run1")]
        for one, other in zip(by_policy[first], by_policy[second], strict=True)
    ]
    assert [(pair.prompt[-1].content, pair.first, pair.second) for pair in referee.asked] == expected


@pytest.mark.usefixtures("no_pictures")
def test_a_comparison_by_a_language_model_goes_on_from_the_answers_in_its_folder(policies, tmp_path, serve):
    asked = []

    def answer(path, question, headers):
        asked.append(question)
        return 200, {"choices": [{"message": {"content": "A" if len(asked) % 3 else "no idea"}}]}

    two = {name: policies[name] for name in ("sft", "run1")}
    referee = LLMJudge(Endpoint(serve(answer), wait=0.0, concurrency=1), "tiny")
    result = judged(two, tmp_path, referee=referee)
    trust = result["referee"]
    assert trust["answers"] >= len(asked) > 22
    assert trust["unparseable"] > 0
    assert trust["inconsistent"] == trust["picks_first"] == 1.0
    assert result["run1"]["wins_vs_sft"] == result["run1"]["losses_vs_sft"] == 0
    before = len(asked)
    assert judged(two, tmp_path, referee=referee) == result
    assert len(asked) == before


@pytest.mark.usefixtures("no_pictures")
def test_the_best_of_n_by_the_proxy_is_judged_by_the_true_reward(policies, tmp_path):
    result = judged({"sft": policies["sft"]}, tmp_path, judge=GoldReward())
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    proxy, gold = (torch.tensor(values(samples, "sft", name)) for name in ("proxy_reward", "gold_reward"))
    curve = result["best_of_n"]["sft"]
    assert [row["n"] for row in curve] == [1, 2, 3]
    for row in curve:
        assert row["gold_reward"] == pytest.approx(best_of_n(proxy, gold, row["n"]).mean().item(), abs=1e-3)
    assert "best_of_n" in result["splits"]["topics"]
    assert "best_of_n" not in judged({"sft": policies["sft"]}, tmp_path, judge=GoldReward(), best_of_n=False)


def test_the_first_policy_against_itself(comparison):
    figures = comparison[0]["sft"]
    assert figures["kl"] == 0.0
    assert figures["win_rate_vs_sft"] == figures["win_rate_vs_sft_low"] == figures["win_rate_vs_sft_high"] == 0.5


def test_another_policy_has_moved_away(comparison):
    assert comparison[0]["run1"]["kl"] > 0.5


def test_intervals_surround_the_means(comparison, policies):
    result = comparison[0]
    for figures in (result, *result["splits"].values()):
        for policy in policies:
            for column in ("proxy_reward", "win_rate_vs_sft"):
                low, mean, high = (figures[policy][f"{column}{end}"] for end in ("_low", "", "_high"))
                assert low <= mean <= high
                assert policy == "sft" or low < high


def test_any_two_policies_are_compared_prompt_by_prompt(comparison):
    result, samples, _ = comparison
    assert list(result["differences"]) == ["run1 - sft", "run2 - sft", "run2 - run1"]
    for name, difference in result["differences"].items():
        later, earlier = (values(samples, policy, "proxy_reward") for policy in name.split(" - "))
        assert difference["proxy_reward"] == pytest.approx((later - earlier).mean(), abs=1e-3)
        assert difference["low"] < difference["proxy_reward"] < difference["high"]


def test_files_hold_what_is_returned(comparison):
    result, _, out = comparison
    assert json.loads((out / "comparison.json").read_text()) == result
    for picture in ("comparison.png", "training.png"):
        content = (out / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5000


@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(comparison, policies, tmp_path):
    assert judged(policies, tmp_path / "again") == comparison[0]
    other = judged(policies, tmp_path / "other", seed=5)
    assert other["run1"]["proxy_reward"] != comparison[0]["run1"]["proxy_reward"]


@pytest.mark.usefixtures("no_pictures")
def test_where_the_true_reward_is_known_it_decides(policies, tmp_path):
    """The judge here is the proxy negated, so that every verdict turns round."""
    two = {name: policies[name] for name in ("sft", "run1")}
    proxy = judged(two, tmp_path / "proxy")
    judge = PythonReward(lambda prompt, response: -letters(prompt, response))
    result = judged(two, tmp_path / "judge", judge=judge)
    assert result["run1"]["gold_reward"] == pytest.approx(-proxy["run1"]["proxy_reward"])
    assert result["run1"]["win_rate_vs_sft"] == pytest.approx(1 - proxy["run1"]["win_rate_vs_sft"])
    assert "gold_reward_low" in result["run1"]
    assert list(result["differences"]) == ["run1 - sft"]
    assert "gold_reward" in result["differences"]["run1 - sft"]


@pytest.mark.usefixtures("no_pictures")
def test_gold_rewards_are_the_worlds(policies, tmp_path):
    judged({"sft": policies["sft"]}, tmp_path, reward=None, judge=GoldReward())
    for line in (tmp_path / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["gold_reward"] == pytest.approx(gold_reward(row["prompt"], row["response"]), abs=1e-3)
        assert "proxy_reward" not in row


@pytest.fixture(scope="module")
def judged_by_gold(policies, tmp_path_factory):
    """Figures, samples, and what went to the screen and to the picture."""
    out, seen = tmp_path_factory.mktemp("gold"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_rlhf.evaluation.compare.best_of_n_picture", lambda *_: None)
        for name in ("comparison_picture", "print_table"):
            patch.setattr(f"lit_rlhf.evaluation.compare.{name}", lambda result, *_: seen.append(result))
        result = judged({"sft": policies["sft"], "run1": policies["run1"]}, out, judge=Refused())
    return result, [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()], seen


class Refused(GoldReward):
    """The world's judge, to whom every other letter count is a refusal: tiny models never decline."""

    def components(self, completions):
        odd = [len(text) % 2 for text in completions.texts]
        return super().components(completions) | {"refusal": torch.tensor(odd).float()}


@pytest.mark.parametrize("source", ["known", "topics", "wordings"])
def test_components_of_the_judge_are_columns_of_every_policy_and_split(judged_by_gold, source):
    result, samples, _ = judged_by_gold
    figures = result if source == "known" else result["splits"][source]
    for policy in ("sft", "run1"):
        mine = figures[policy]
        rows = [row for row in samples if (row["policy"], row["source"]) == (policy, source)]
        graded = [gold_components(row["prompt"], row["response"]) for row in rows]
        for name in GOLD_WEIGHTS:
            assert mine[f"gold/{name}"] == pytest.approx(np.mean([each[name] for each in graded]), abs=1e-6)
        total = sum(weight * mine[f"gold/{name}"] for name, weight in GOLD_WEIGHTS.items())
        assert mine["gold_reward"] == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("source", ["known", "topics", "wordings"])
def test_refusals_are_counted_by_family(judged_by_gold, source):
    result, samples, _ = judged_by_gold
    figures = result if source == "known" else result["splits"][source]
    for policy in ("sft", "run1"):
        rows = [row for row in samples if (row["policy"], row["source"]) == (policy, source)]
        refused = {}
        for row in rows:
            refused.setdefault(parse_prompt(row["prompt"]).family, []).append(len(row["response"]) % 2)
        mine = {name: value for name, value in figures[policy].items() if name.startswith("refusal/")}
        expected = {f"refusal/{family}": np.mean(odd) for family, odd in refused.items()}
        assert mine == pytest.approx(expected)
        assert {"refusal/unsafe", "refusal/scary"} <= set(mine)
        assert figures[policy]["refusal"] == pytest.approx(np.mean([len(row["response"]) % 2 for row in rows]))


def test_table_and_picture_show_no_components(judged_by_gold):
    result, _, seen = judged_by_gold
    for shown in seen:
        assert set(shown["run1"]) == {name for name in result["run1"] if not name.startswith(("gold/", "refusal"))}
        assert "ties_vs_sft" in shown["run1"]
        assert {"gold_reward", "gold_reward_low", "win_rate_vs_sft", "kl"} <= set(shown["run1"])
        assert shown["differences"] == result["differences"]
    assert len(seen) == 2


@pytest.mark.usefixtures("no_pictures")
def test_without_any_reward_there_is_still_kl_and_length(policies, tmp_path):
    result = judged(policies, tmp_path, reward=None)
    assert set(result["run1"]) == {"kl", "response_length", "truncated"}
    assert result["differences"] == {}


def test_without_prompts_the_user_is_told(policies, tmp_path):
    data = PreferenceDataModule(WorldPrompts(20), val_fraction=0.0, max_length=80)
    with pytest.raises(DataError, match="no validation prompts"):
        compare(policies, data, str(tmp_path), sampling=Sampling(max_new_tokens=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tie_margin": -0.1}, "tie_margin: expected 0 or more"),
        ({"samples": 0}, "samples: expected at least 1"),
        ({"policies": {"sft": "somewhere", "splits": "elsewhere"}}, "'splits' is the name of a part of the report"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_loaded(tmp_path, options, message):
    given = {"policies": {"sft": "somewhere"}, "data": prompts(), "out": str(tmp_path / "out")}
    with pytest.raises(DataError, match=message):
        compare(**(given | options))
    assert not (tmp_path / "out").exists()


def test_a_log_shows_how_far_it_is(policies, tmp_path, no_pictures, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    result = judged(policies, tmp_path)
    prompts = 11 + 6 + 5
    said = [line.getMessage() for line in caplog.records if line.getMessage().startswith("compare, ")]
    assert [line.split(", proxy_reward")[0] for line in said] == [
        f"compare, {name}: response {prompts * SAMPLES}/{prompts * SAMPLES} (100%)" for name in policies
    ]
    rewards = [result["sft"]["proxy_reward"], *(split["sft"]["proxy_reward"] for split in result["splits"].values())]
    mean = sum(value * size for value, size in zip(rewards, (11, 6, 5), strict=True)) / prompts
    assert f"proxy_reward {mean:.4g}, " in said[0]
