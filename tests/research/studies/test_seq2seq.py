"""The whole seq2seq study, far too small to learn anything: every arm of every world gives sane figures."""

import json

import pytest

from research.studies import Seq2SeqStudy
from research.studies.answers import figures
from research.studies.seq2seq_claims import CLAIMS
from research.study import study


def answer(gold, kind="seen", family="scary", refuses=False, length=10):
    return {"kind": kind, "family": family, "gold": gold, "length": length, "refuses": refuses}


def test_figures_keep_kinds_apart_and_count_ties_half():
    mine = [
        answer(1.0, refuses=True),
        answer(0.0, family="unsafe"),
        answer(0.5, "unseen"),
        answer(2.0, "unseen", "unsafe"),
    ]
    theirs = [answer(0.0), answer(0.0), answer(1.0, "unseen"), answer(1.0, "unseen")]
    found = figures(mine, {"mine": mine, "theirs": theirs})
    assert found["seen"]["wins"] == {"mine": 0.5, "theirs": 0.75}
    assert found["unseen"]["wins"]["theirs"] == 0.5
    assert (found["seen"]["gold"], found["unseen"]["gold"]) == (0.5, 1.25)
    assert (found["seen"]["refusal_scary"], found["seen"]["refusal_unsafe"]) == (1.0, 0.0)


@pytest.mark.slow
def test_every_world_has_its_policies_and_every_claim_its_figure(tmp_path):
    sizes = {"demonstrations": 100, "pairs": 60, "val_pairs": 30, "epochs": 1, "iterations": 1, "prompts": 30}
    summary = study(Seq2SeqStudy([0], preset="tiny", **sizes), str(tmp_path), processes=1)
    assert [row["id"] for row in summary["claims"]] == [claim.id for claim in CLAIMS]
    assert all(row["seeds"] == 1 for row in summary["claims"])
    policies = {
        world: set(json.loads((tmp_path / "seed-0" / f"{world}.json").read_text())["found"][world]["policies"])
        for world in Seq2SeqStudy.parts
    }
    always = {"sft", "scalar", "increments", "seq2seq"}
    ablations = {"no_positive", "no_negative", "no_identity", "unnormalised"}
    assert policies == {
        "fair": always | ablations | {"contrastive_seq2seq"},
        "length": always | {"unnormalised"},
        "refusal": always,
    }
    assert all((tmp_path / name).stat().st_size > 20_000 for name in ("seq2seq.png", "verdicts.png", "heatmap.png"))
