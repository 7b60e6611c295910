import time
from types import SimpleNamespace

import pytest

from lit_rlhf.data.progress import Progress


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Time stands still unless it is moved."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def work(clock, progress: Progress, units: int, seconds: float, start: int = 0) -> None:
    """So many units, each of so many seconds."""
    for done in range(start + 1, start + units + 1):
        clock.now += seconds
        progress.tell(done, {"loss": 0.5}, last=done == start + units)


@pytest.fixture(autouse=True)
def listening(caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")


def test_a_line_says_how_far_it_is_and_how_long_it_will_take(clock, caplog):
    work(clock, Progress("fit", "step", 8), 3, 20.0)
    assert lines(caplog) == [
        "fit: step 1/8 (12%), loss 0.5, 20 s, about 2 min 20 s left",
        "fit: step 2/8 (25%), loss 0.5, 40 s, about 2 min 0 s left",
        "fit: step 3/8 (38%), loss 0.5, 1 min 0 s, about 1 min 40 s left",
    ]


def test_what_was_done_before_counts_as_done_and_not_as_quick(clock, caplog):
    work(clock, Progress("fit", "step", 100, start=90), 1, 20.0, start=90)
    assert lines(caplog) == ["fit: step 91/100 (91%), loss 0.5, 20 s, about 3 min 0 s left"]


@pytest.mark.parametrize("total", [None, float("inf"), -1])
def test_where_no_end_is_known_none_is_said(clock, caplog, total):
    work(clock, Progress("fit", "step", total), 1, 20.0)
    assert lines(caplog) == ["fit: step 1, loss 0.5, 20 s"]


def test_there_are_about_a_hundred_lines_whatever_the_length_and_none_oftener_than_every_ten_seconds(clock, caplog):
    for units, seconds, least, most in ((2000, 30.0, 90, 110), (1000, 0.1, 9, 11), (5, 0.1, 1, 1), (50, 0.21, 2, 2)):
        caplog.clear()
        work(clock, Progress("fit", "step", units), units, seconds)
        assert least <= len(lines(caplog)) <= most, units
        assert f"step {units:,}/{units:,} (100%)" in lines(caplog)[-1]
        assert "left" not in lines(caplog)[-1]


def test_the_end_is_said_once(clock, caplog):
    progress = Progress("fit", "step", 2)
    clock.now += 60
    progress.tell(2)
    progress.tell(2, last=True)
    assert lines(caplog) == ["fit: step 2/2 (100%), 1 min 0 s"]


def test_without_anything_done_nothing_is_said(clock, caplog):
    Progress("predict", "batch", 3).tell(0, last=True)
    assert lines(caplog) == []
