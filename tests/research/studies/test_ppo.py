"""The whole study of policy optimisation, far too small to learn anything; and what its claims are computed from."""

import json

import numpy as np
import pytest

from lit_rlhf.data.records import Message, Record
from lit_rlhf.rewards import GoldReward
from lit_rlhf.world import WorldPrompts
from research.studies import PPOStudy
from research.studies.offsets import PromptOffset
from research.studies.ppo_claims import CLAIMS, gold_at_kl, smoothed
from research.studies.ppo_parts import OFFSETS, Sizes
from research.study import study


def arm(kl: list[float], gold: list[float]) -> dict:
    return {"course": {"kl": kl, "gold_reward": gold, "reward": gold}}


def test_gold_at_a_kl_is_that_where_the_training_first_went_so_far():
    there_and_back = arm([0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2], [0, 1, 2, 3, 4, 5, 6, -9, -9, -9, -9])
    grid = np.array([2.0, 2.5, 3.5])
    assert gold_at_kl(there_and_back, grid).tolist() == pytest.approx([2.0, 2.5, 3.5])


def test_running_means_are_those_of_a_loop_and_short_courses_have_one():
    values = [1.0, 5.0, 2.0, 4.0, 4.0, 9.0]
    assert smoothed(values).tolist() == pytest.approx([np.mean(values[:5]), np.mean(values[1:])])
    assert smoothed([1.0, 3.0]).tolist() == [2.0]


RECORDS = list(WorldPrompts(400, seed=5).records())


@pytest.mark.parametrize(("kind", "size"), OFFSETS.values())
@pytest.mark.parametrize("seed", range(3))
def test_offsets_depend_on_the_prompt_alone_with_mean_zero_and_the_size_that_they_say(kind, size, seed):
    offset = PromptOffset(GoldReward(), kind, size, RECORDS, seed)
    values = np.array([offset.offset(record) for record in RECORDS])
    assert values.mean() == pytest.approx(0.0, abs=1e-9)
    assert values.std() == pytest.approx(size)
    assert [offset.offset(record) for record in RECORDS[:9]] == values[:9].tolist()
    other = PromptOffset(GoldReward(), kind, size, RECORDS, seed + 1)
    assert other.offset(RECORDS[0]) != values[0]


def test_the_same_words_in_another_order_have_the_same_offset():
    one, other = (Record((Message("user", text),)) for text in ("Now tell me, Sam.", "tell Sam me NOW"))
    by_words = PromptOffset(GoldReward(), "words", 1.0, RECORDS)
    by_prompt = PromptOffset(GoldReward(), "prompt", 1.0, RECORDS)
    assert by_words.offset(one) == pytest.approx(by_words.offset(other))
    assert by_prompt.offset(one) != by_prompt.offset(other)
    assert PromptOffset(GoldReward(), "constant", 1.5).offset(one) == 1.5


@pytest.mark.slow
def test_every_arm_is_trained_and_every_claim_has_its_figure(tmp_path):
    sizes = Sizes(
        preset="tiny", demonstrations=100, pairs=48, val_pairs=30, weak_pairs=32, iterations=2, round_iterations=1,
        rounds=3, prompts=64, judged=30, samples=8,
    )  # fmt: skip
    summary = study(PPOStudy([0], sizes), str(tmp_path), processes=1)
    assert [row["id"] for row in summary["claims"]] == [claim.id for claim in CLAIMS]
    assert all(row["seeds"] == 1 for row in summary["claims"])
    found = json.loads((tmp_path / "seed-0" / "flips.json").read_text())["found"]["flips"]
    assert list(found) == ["0", "0.1", "0.2", "0.3", "0.4"]
    assert all(set(arms) == {"sft", "ppo", "contrastive"} for arms in found.values())
    rounds = json.loads((tmp_path / "seed-0" / "rounds.json").read_text())["found"]["rounds"]
    assert rounds["meta_1"] == rounds["kept_1"]
    assert rounds["meta_2"] != rounds["kept_2"]
    assert all((tmp_path / name).stat().st_size > 20_000 for name in ("ppo.png", "verdicts.png"))
    assert "| fresh critic |" in (tmp_path / "map.md").read_text()
