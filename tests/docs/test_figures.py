"""The figures written by hand, in the README and in short in docs/studies.md, are those of the latest results."""

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from lit_rlhf.evaluation.statistics import student_interval
from research.claims import Measurement
from research.report.sources import Results, find_studies
from research.report.wording import counts
from tests.docs.pages import DOCS, ROOT

TENTHS = " ".join(f"reward:slices/accuracy/seen/{i}" for i in range(10))
CONTRASTED = " ".join(
    f"(s6_{loss}_{what}_{kind})"
    for loss in ("simcse", "swav")
    for what in ("pairs", "differences")
    for kind in ("seen", "unseen")
)
UNSEEN_TREATED = " ".join(f"s4_{name}_ends_higher_unseen" for name in ("margin", "flip", "soft_margin", "flip_margin"))
REGIMES = "regimes/offset"
README = {
    "of the weakest tenth": "s1_weakest s1_strongest",
    "flipping the weakest tenth repairs it": "reward:slices/accuracy/seen/0 s3_flip_first=",
    "three epochs on treated labels": UNSEEN_TREATED,
    "contrastive losses": f"s6_simcse_differences_unseen= s6_swav_pairs_unseen= {CONTRASTED}",
    "contrastive rewards help": "s8_flips ^flips/0/ppo",
    "they help where": "s8_offset_words_two s8_offset_prompt_two",
    "against an annotator": "s9_seq2seq_grows_less s9_length_gold",
    "MetaRM's rounds": "s7_meta_gold",
}
IN_SHORT = {
    "labels of the weakest tenth": "s1_weakest s1_strongest",
    "strength finds": "s1_finds",
    "the share of pairs": "(s1_negative) reward:strength/share_negative reward:flip_rate",
    "trained on one tenth": f"(s2_weakest) (s2_upper) {TENTHS}",
    "flipping the weakest": "reward:slices/accuracy/seen/0 s3_flip_first= "
    "reward:slices/accuracy/seen/1 s3_flip_second=",
    "the same on unseen kinds of": f"(s2_weakest_unseen) (s2_upper_unseen) {TENTHS.replace('seen', 'unseen')}",
    "over several epochs": "(s4_baseline_falls) (s4_margin_falls_less)",
    "treated labels": UNSEEN_TREATED.replace("_unseen", ""),
    "the same on unseen kinds: treated": UNSEEN_TREATED,
    "strength finds flipped labels among": "s1_finds_unseen",
    "PPO without KL penalty": "s5_soft_margin s5_even",
    "contrastive losses": f"s6_swav_pairs_unseen± s6_simcse_pairs_unseen± s6_simcse_differences_unseen± {CONTRASTED}",
    "MetaRM widens": "s7_widens",
    "under an annotator who likes length": "seq2seq:length/policies/sft/seen/length "
    "seq2seq:length/policies/scalar/seen/length seq2seq:length/policies/seq2seq/seen/length s9_seq2seq_grows_less",
    "and the rewriter's policy": "s9_length_gold",
    "under an annotator who likes refusals": "-s9_seq2seq_refuses_less "
    "seq2seq:refusal/policies/scalar/seen/refusal_scary",
    "PPO with the rewriter beats": "s9_beats_sft_seen= s9_beats_scalar_seen= s9_beats_increments_seen= "
    "s9_beats_sft_unseen= s9_beats_scalar_unseen= s9_beats_increments_unseen=",
    "its token score": "s9_against_scalar seq2seq:fair/models/rewriter/accuracy~1seen "
    "seq2seq:fair/models/scalar/accuracy~1seen",
    "negative, positive rewards": "s9_needs_no_negative s9_needs_no_positive s9_needs_unnormalised",
    "identity examples": "s9_needs_no_identity",
    "centring helps": "s9_contrastive",
    "labels flipped": "s8_flips_0= s8_flips_0.1= s8_flips_0.2= s8_flips_0.3= s8_flips_0.4= s8_flips "
    "^flips/0/ppo ^flips/0.1/ppo ^flips/0.2/ppo ^flips/0.3/ppo ^flips/0.4/ppo",
    "the reward is shifted": "s8_offset_words_half s8_offset_words_one s8_offset_words_two (s8_offset_growth) "
    f"^{REGIMES}_words_half ^{REGIMES}_words_one ^{REGIMES}_words_two",
    "shifted at random": f"s8_offset_prompt_two ^{REGIMES}_prompt_two",
    "shifted family by family": f"(s8_offset_family_two) !{REGIMES}_family_two ^{REGIMES}_family_two",
    "a critic with a fresh head": "s8_scratch ^regimes/scratch",
    "a fresh head, and shifts": "s8_offset_words_two_scratch s8_offset_prompt_two_scratch "
    f"^{REGIMES}_words_two_scratch ^{REGIMES}_prompt_two_scratch",
    "k = 1, 3, 10": "s8_k1 s8_k3 s8_k10 ^flips/0/ppo",
    "against RLOO with as many responses in training": "s8_rloo ^regimes/rloo",
    "against RLOO with as many responses, the": "s8_rloo_longer ^regimes/rloo_longer",
    "against a weak reward model": "over_proxy over_gold",
    "with MetaRM the policy": "s7_rounds",
    "MetaRM's rounds": "s7_meta s7_meta_gold",
}
"""By the beginning of a row, its figures from left to right.

A claim's name stands for its effect and interval, with ``=`` for the effect alone, with ``±`` for the effect and half
of the interval, with ``-`` for the same with the other sign, in brackets for its verdict alone; ``study:place`` for a
mean over seeds; ``^arm`` for what an arm gains over SFT in gold reward; ``!arm`` for what contrastive PPO gains over
it.
"""


@cache
def studies() -> dict[str, Results]:
    return {each.name: each for each in find_studies([str(DOCS / "results")])}


@cache
def claims() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for each in studies().values() for row in each.summary["claims"]}


def at(found: Any, place: str) -> float:
    for step in place.split("/"):
        found = found[int(step)] if isinstance(found, list) else found[step.replace("~1", "/")]
    return found


def over_seeds(study: str, *places: str) -> np.ndarray:
    """What was measured at a place, minus what was at the next, for every seed."""

    def of(m: Measurement) -> float:
        first, *others = (at(m, place) for place in places)
        return first - sum(others)

    return np.array([of(m) for m in studies()[study].measurements])


def gold(arm: str) -> str:
    return f"{arm}/seen/gold"


def figures(token: str) -> list[float]:
    if token.startswith("("):
        return []
    if token.startswith("!"):
        values = over_seeds("ppo", gold("flips/0/contrastive"), gold(token[1:]))
        return [float(values.mean()), *(end for end in student_interval(values) if end is not None)]
    if token.startswith("^"):
        sft = token[1:].rpartition("/")[0] + "/sft"
        return [float(over_seeds("ppo", gold(token[1:]), gold(sft)).mean())]
    if ":" in token:
        return [float(over_seeds(*token.split(":")).mean())]
    row = claims()[token.strip("-=±")]
    whole = [row["effect"], row["ci_low"], row["ci_high"]]
    if token.startswith("-"):
        return [-whole[0], -whole[2], -whole[1]]
    return {"=": whole[:1], "±": [whole[0], (whole[2] - whole[1]) / 2]}.get(token[-1], whole)


def verdicts(spec: str) -> set[str]:
    names = [token.strip("-=±()") for token in spec.split()]
    return {claims()[name]["verdict"] for name in names if name in claims()}


def numbers(text: str) -> list[tuple[float, int]]:
    """The numbers of a text with how many digits stand behind their points."""
    found = re.findall(r"(?<![\w.])([+−]?)(\d*)(?:\.(\d+))?(?![\w½])", text)
    return [
        (float(f"{'-' * (sign == '−')}{whole or 0}.{behind or 0}"), len(behind)) for sign, whole, behind in found
        if whole or behind
    ]  # fmt: skip


def wrong(text: str, spec: str) -> list[str]:
    shown, known = numbers(text), [value for token in spec.split() for value in figures(token)]
    if len(shown) != len(known):
        return [f"{len(shown)} numbers instead of {len(known)}: {shown}"]
    return [
        f"{number} instead of {value:.4f}"
        for (number, digits), value in zip(shown, known, strict=True)
        if abs(number - value) > 0.5 * 10**-digits + 1e-9
    ]


def rows(text: str) -> list[tuple[str, str, str]]:
    """Of the tables' rows: the first cell, those with figures of our own, and the last."""
    found, head = [], []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells or not line.startswith("|"):
            head = []
        elif not head:
            head = cells
        elif set(line) != set("|-"):
            ours = [cell for name, cell in zip(head, cells, strict=True) if name.startswith(("here", "PPO minus SFT"))]
            found.append((cells[0], " ".join(ours), cells[-1]))
    return found


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def pages() -> list[Any]:
    """Every row that has an expectation: its expectation, its figures and its verdict."""
    found = []
    for text, known in (
        (section((ROOT / "README.md").read_text("utf-8"), "What holds"), README),
        ((DOCS / "studies.md").read_text("utf-8"), IN_SHORT),
    ):
        for first, figures, verdict in rows(text):
            spec = next((spec for beginning, spec in known.items() if first.startswith(beginning)), "")
            found.append(pytest.param(spec, figures, verdict, id=first[:40]))
    return found


@pytest.mark.parametrize(("spec", "shown", "verdict"), pages())
def test_a_row_shows_the_figures_and_verdicts_of_the_latest_results(spec, shown, verdict):
    assert spec, "a row that nothing holds to the results"
    assert wrong(shown, spec) == []
    mentioned = set(re.findall("does not hold|holds|undecided", verdict.replace("not here", "does not hold")))
    assert mentioned
    assert mentioned <= verdicts(spec)
    assert ("holds" in mentioned) == ("holds" in verdicts(spec))


def test_another_figure_is_noticed():
    row = claims()["s7_meta_gold"]
    text = " ".join(f"{row[name]:.3f}".replace("-", "−") for name in ("effect", "ci_low", "ci_high"))
    assert wrong(text, "s7_meta_gold") == []
    assert wrong(text.replace("−", "+", 1), "s7_meta_gold")
    assert wrong("1 2", "s7_meta_gold")


def test_the_readme_counts_the_verdicts_and_the_claims_that_were_stated_late():
    text = " ".join(section((ROOT / "README.md").read_text("utf-8"), "What holds").split())
    found = counts(list(claims().values()))
    late = [row["id"] for row in claims().values() if row["measured_before"]]
    assert len(late) == 8
    assert all(name.startswith("s10_") for name in late)
    assert "(eight claims on unseen kinds of prompts were stated after it, and say so)" in text
    assert (
        f"Of {len(claims())} claims {found['holds']} hold, {found['does not hold']} do not, "
        f"{found['undecided']} are undecided" in text
    )
