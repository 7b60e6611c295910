"""The whole reward study on a model and data far too small to learn anything: every part gives sane figures."""

import json

import pytest

from lit_rlhf.evaluation.studies import RewardStudy
from lit_rlhf.evaluation.studies.reward_claims import CLAIMS
from lit_rlhf.evaluation.study import study


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
    assert len(labels["slices"]["accuracy"]) == 10
    assert len(labels["slices"]["flipped"]) == 2
    assert {name: len(curve) for name, curve in labels["treatments"].items()} == dict.fromkeys(
        ("baseline", "margin", "flip", "soft_margin", "flip_margin"), 2
    )
    assert len(features["contrastive"]) == 6
    assert all(0 <= each["unseen"] <= 1 for each in features["contrastive"].values())
    spreads = [features["meta"][model][policy]["spread"] for model in ("reward", "meta") for policy in ("sft", "ppo")]
    assert min(spreads) > 0


@pytest.mark.slow
def test_the_pictures_are_drawn(small):
    assert all((small[0] / name).stat().st_size > 20_000 for name in ("reward.png", "verdicts.png"))
