import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Source
from lit_rlhf.world.checked import CHECKED_SPLITS, SEEN_KINDS, UNSEEN_KINDS, CheckedPrompts, draw_request
from lit_rlhf.world.checked.requests import kinds_of, read_meta
from lit_rlhf.world.checked.topics import unseen_topics
from lit_rlhf.world.checked.wordings import ASKS, UNSEEN_ASKS, WORDINGS

DIGEST = """
import hashlib
from lit_rlhf.world.checked import *
text = repr([list(CheckedPrompts(60, seed=3, split=split).records()) for split in CHECKED_SPLITS])
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_streams_are_the_same_in_every_process():
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "4242")
    }
    assert len(digests) == 1


def test_the_source_keeps_the_protocol():
    source = CheckedPrompts(40, seed=3, name="mine", weight=0.5)
    assert isinstance(source, Source)
    records = list(source.records())
    assert records == list(source.records()) == list(CheckedPrompts(50, seed=3, name="mine").records())[:40]
    assert (source.name, source.weight, source.bad_rows, len(source), len(records)) == ("mine", 0.5, 0, 40, 40)
    assert records != list(CheckedPrompts(40, seed=4, name="mine").records())
    assert [record.location for record in records[:2]] == ["mine:0", "mine:1"]
    assert all(record.chosen is None and record.prompt[-1].role == "user" for record in records)
    first = [record.meta["constraints"][0]["kind"] for record in records[: len(SEEN_KINDS)]]
    assert sorted(first) == sorted(SEEN_KINDS)


def test_what_is_skipped_is_the_beginning_of_the_same_stream():
    assert list(CheckedPrompts(20, skip=30).records()) == list(CheckedPrompts(50).records())[30:]


def test_no_prompt_comes_twice_and_each_says_one_thing():
    meant: dict[str, set[str]] = defaultdict(set)
    for split in CHECKED_SPLITS:
        hashes = [
            record.prompt_hash for record in CheckedPrompts(1500 if split == "train" else 300, split=split).records()
        ]
        assert len(set(hashes)) == len(hashes)
        rng = Random(split)
        for number in range(1500):
            request = draw_request(rng, kinds_of(split)[number % len(kinds_of(split))], split)
            meant[request.prompt].add(json.dumps([request.topic, request.constraints, request.split]))
    assert {len(meanings) for meanings in meant.values()} == {1}


@given(st.sampled_from(CHECKED_SPLITS), st.integers(0, 2**32), st.integers(0, 100))
def test_a_request_is_of_its_split(split, seed, number):
    kind = kinds_of(split)[number % len(kinds_of(split))]
    request = draw_request(Random(seed), kind, split)
    kinds = [constraint["kind"] for constraint in request.constraints]
    assert kinds[0] == kind
    assert len(set(kinds)) == len(kinds) <= 2
    assert request.split == split
    assert set(kinds) <= set(UNSEEN_KINDS if split == "unseen_kinds" else SEEN_KINDS)
    assert (request.topic in unseen_topics()) == (split == "unseen_topics")
    assert request.topic in request.prompt
    assert not re.search(r"[{}]", request.prompt)
    for wordings, ours in ((UNSEEN_ASKS, split == "unseen_wording"), (ASKS, split != "unseen_wording")):
        asked = {wording.format(topic=request.topic) for wording in wordings}
        assert ours or not any(request.prompt.startswith(each) for each in asked)


def test_seen_and_unseen_wordings_have_nothing_in_common():
    assert not set(ASKS) & set(UNSEEN_ASKS)
    for kind in SEEN_KINDS:
        assert WORDINGS[kind].unseen, kind
        assert not set(WORDINGS[kind].seen) & set(WORDINGS[kind].unseen)
        assert len(WORDINGS[kind].seen) > 2
    for kind in UNSEEN_KINDS:
        assert WORDINGS[kind].seen, kind


def test_splits_are_disjoint_whatever_the_seeds():
    prompts = {
        split: {r.prompt_hash for seed in range(3) for r in CheckedPrompts(200, seed=seed, split=split).records()}
        for split in CHECKED_SPLITS
    }
    for split in CHECKED_SPLITS:
        others = set().union(*(prompts[other] for other in CHECKED_SPLITS if other != split))
        assert not prompts[split] & others


def test_meta_is_plain_and_is_read_back():
    for split in CHECKED_SPLITS:
        for record in CheckedPrompts(60, split=split).records():
            again = json.loads(json.dumps(record.meta))
            assert again == record.meta
            assert read_meta(again, "here") == (record.meta["topic"], record.meta["constraints"])


@pytest.mark.parametrize(
    "meta",
    [{}, {"topic": "honey"}, {"topic": "honey", "constraints": []},
     {"topic": "nothing", "constraints": [{"kind": "lower"}]}, {"topic": "honey", "constraints": ["lower"]},
     {"topic": "honey", "constraints": [{"kind": "sonnet"}]}, {"topic": ["honey"], "constraints": [{"kind": "lower"}]}],
)  # fmt: skip
def test_a_record_that_cannot_be_checked_is_refused(meta):
    with pytest.raises(DataError):
        read_meta(meta, "here")


@pytest.mark.parametrize(
    ("options", "named"),
    [({"size": -1}, "size"), ({"size": 1, "skip": -1}, "skip"), ({"size": 1, "split": "test"}, "unseen_topics"),
     ({"size": 1, "kinds": ["json"]}, "json"), ({"size": 1, "kinds": []}, "no kinds")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options, named):
    with pytest.raises(DataError, match=named):
        CheckedPrompts(**options)


def test_asking_for_more_prompts_than_there_are_is_refused():
    source = CheckedPrompts(10_000, split="val", kinds=["question"])
    with pytest.raises(DataError, match="Ask for fewer"):
        list(source.records())
