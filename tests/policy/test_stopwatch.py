import time

import pytest
import torch

from lit_rlhf.policy.stopwatch import Stopwatch


def test_parts_add_up_until_they_are_read():
    watch, cpu = Stopwatch(), torch.device("cpu")
    for _ in range(2):
        with watch.timed("sampling", cpu):
            time.sleep(0.02)
        watch.add("tokens", 3)
    sums = watch.read()
    assert 0.04 <= sums.pop("sampling") < 1.0
    assert sums == {"tokens": 6}
    assert watch.read() == {}


def test_a_part_that_fails_is_not_counted():
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.timed("scoring", torch.device("cpu")):
        raise ValueError("no")
    assert watch.read() == {}
