"""The whole reward study on a model and data far too small to learn anything: every part gives sane figures."""

import json

import pytest

from research.studies import RewardStudy
from research.studies.denoised import crookedness, late_share
from research.studies.reward_claims import CLAIMS
from research.study import study


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "reward"
    sizes = {"demonstrations": 200, "pairs": 120, "val_pairs": 36, "voters": 2, "iterations": 1, "prompts": 16}
    found = study(RewardStudy([0], preset="tiny", epochs=2, slice_epochs=1, **sizes), str(folder), processes=1)
    parts = {name: json.loads((folder / "seed-0" / f"{name}.json").read_text())["found"] for name in RewardStudy.parts}
    return folder, found, parts


@pytest.mark.slow
def test_every_claim_is_measured(small):
    _, summary, _ = small
    assert [row["id"] for row in summary["claims"]] == [claim.id for claim in CLAIMS]
    assert all(row["seeds"] == 1 for row in summary["claims"])


@pytest.mark.slow
def test_the_parts_have_a_figure_for_every_method(small):
    labels, features = (small[2][name] for name in ("labels", "features"))
    assert labels["strength"]["voters"] == 2
    assert labels["strength"]["pairs"] == 120
    assert 0.1 < labels["strength"]["true_label"]["share_wrong"] < 0.45
    assert labels["strength"]["unseen"]["pairs"] == 36
    assert 0.05 < labels["strength"]["unseen"]["true_label"]["share_wrong"] < 0.5
    for kind in ("seen", "unseen"):
        assert len(labels["slices"]["accuracy"][kind]) == 10
        assert len(labels["slices"]["flipped"][kind]) == 2
        assert {name: len(curve[kind]) for name, curve in labels["treatments"].items()} == dict.fromkeys(
            ("baseline", "margin", "flip", "soft_margin", "flip_margin"), 2
        )
    assert len(features["contrastive"]) == 6
    assert all(0 <= each["unseen"] <= 1 for each in features["contrastive"].values())
    spreads = [features["meta"][model][policy]["spread"] for model in ("reward", "meta") for policy in ("sft", "ppo")]
    assert min(spreads) > 0


@pytest.mark.slow
def test_treated_reward_models_have_policies_of_their_own_that_no_penalty_holds(small):
    found = small[2]["denoised"]["denoised"]
    names = ["baseline", "margin", "flip", "soft_margin"]
    assert list(found["models"]) == names
    assert list(found["policies"]) == ["sft", *names]
    history = json.loads((small[0] / "seed-0" / "denoised_flip_ppo" / "history.json").read_text())
    assert [row["kl_coefficient"] for row in history] == [0.0]
    assert found["policies"]["flip"]["course"]["kl"] == [row["kl"] for row in history]


def test_a_straight_course_of_kl_has_no_crookedness_and_a_late_explosion_has_more_than_a_steady_one():
    straight, steady = [0.5 * i + 1 for i in range(40)], [i + 0.5 * (-1) ** i for i in range(40)]
    exploding = [i if i < 30 else 30 + (i - 29) ** 2 for i in range(40)]
    assert crookedness(straight) == pytest.approx(0.0, abs=1e-9)
    assert crookedness([10 * value for value in steady]) == pytest.approx(crookedness(steady))
    assert 0 < crookedness(steady) < crookedness(exploding)
    assert late_share([i for i in range(41)]) == pytest.approx(0.25, abs=0.03)
    assert late_share(exploding) > 0.6
    assert crookedness([3.0]) == late_share([3.0]) == 0.0


@pytest.mark.slow
def test_the_pictures_are_drawn(small):
    assert all((small[0] / name).stat().st_size > 20_000 for name in ("reward.png", "verdicts.png"))
