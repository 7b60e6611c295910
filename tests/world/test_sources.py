import os
import subprocess
import sys

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Source
from lit_rlhf.world import (
    FAMILIES,
    SPLITS,
    Annotator,
    WorldDemonstrations,
    WorldPairs,
    WorldPrompts,
    count_prompts,
    gold_reward,
)
from lit_rlhf.world.presets import vocabulary
from lit_rlhf.world.splits import split_of, unseen_topics

DIGEST = """
import hashlib
from lit_rlhf.world import *
from lit_rlhf.world.presets import vocabulary
noisy = Annotator(flip_rate=0.2, flip_spread=1.0, length_bias=0.1, prompt_bias=1.0, ambiguous=0.3)
sources = [WorldDemonstrations(200), WorldPairs(200, annotator=noisy), WorldPrompts(200, split="ood_topic")]
text = repr([list(source.records()) for source in sources]) + repr(vocabulary())
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_streams_are_the_same_in_every_process():
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("kind", [WorldDemonstrations, WorldPairs, WorldPrompts])
def test_sources_keep_the_protocol(kind):
    source = kind(30, seed=3, name="mine", weight=0.5)
    assert isinstance(source, Source)
    records = list(source.records())
    assert records == list(source.records())
    assert (source.name, source.weight, source.bad_rows, len(source), len(records)) == ("mine", 0.5, 0, 30, 30)
    assert records != list(kind(30, seed=4, name="mine").records())
    assert list(kind(10, seed=3, name="mine").records()) == records[:10]
    for index, record in enumerate(records):
        assert record.location == f"mine:{index}"
        assert [message.role for message in record.prompt] == ["user"]
        assert record.meta["split"] == "train"
    assert sorted(record.meta["family"] for record in records[:5]) == sorted(FAMILIES)


@pytest.mark.parametrize("split", SPLITS)
def test_families_and_splits_are_kept(split, parse):
    for source in (WorldPairs(40, split=split, families=["facts", "scary"]), WorldPrompts(40, split=split)):
        for record in source.records():
            task = parse(record.prompt[0].content)
            assert task.family == record.meta["family"]
            assert split_of(task) == split
    assert {r.meta["family"] for r in WorldPairs(10, families=["facts", "scary"]).records()} == {"facts", "scary"}


def test_demonstrations_cover_what_pairs_never_show(parse):
    covered = [parse(r.prompt[0].content) for r in WorldDemonstrations(2000).records()]
    splits = {split_of(task) for task in covered}
    assert {"train", "ood_topic", "ood_wording", "ood_combination"} <= splits
    assert "val" not in splits
    strict = [parse(r.prompt[0].content) for r in WorldDemonstrations(500, cover_all=False).records()]
    assert {split_of(task) for task in strict} == {"train"}
    for family in FAMILIES:
        assert unseen_topics(family) <= {task.topic for task in covered}


def test_demonstrations_show_every_word():
    seen = " ".join(f"{r.prompt[0].content} {r.chosen}" for r in WorldDemonstrations(6000).records())
    words = set(seen.replace(".", " .").replace(",", " ,").replace("?", " ?").split())
    unseen = {token.strip() for token in vocabulary()[6:]} - words - {"", "!", "?"}
    assert not unseen


def test_pairs_know_their_truth():
    noisy = Annotator(temperature=1.0, flip_rate=0.2)
    wrong = 0
    for pair in WorldPairs(500, annotator=noisy).records():
        prompt = pair.prompt[0].content
        gold = gold_reward(prompt, pair.chosen), gold_reward(prompt, pair.rejected)
        assert gold == (pair.meta["gold_chosen"], pair.meta["gold_rejected"])
        assert pair.chosen != pair.rejected
        assert pair.chosen_is_better == (gold[0] > gold[1])
        assert gold[0] != gold[1]
        wrong += not pair.chosen_is_better
    assert 100 < wrong < 250


def test_the_annotator_changes_labels_and_never_texts():
    def texts(annotator):
        return [(r.prompt, {r.chosen, r.rejected}) for r in WorldPairs(200, annotator=annotator).records()]

    assert texts(None) == texts(Annotator(temperature=2.0, flip_rate=0.3, length_bias=1.0, seed=5))


def test_prompts_are_distinct_to_the_last_one():
    there = count_prompts("scary", "val")
    prompts = [r.prompt_hash for r in WorldPrompts(there, split="val", families=["scary"]).records()]
    assert len(set(prompts)) == there
    with pytest.raises(DataError, match=str(there)):
        WorldPrompts(there + 1, split="val", families=["scary"])


def test_a_negative_size_is_refused():
    with pytest.raises(DataError, match="size"):
        WorldPairs(-1)
