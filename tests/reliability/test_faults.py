import json
import resource
import urllib.request

import pytest

from reliability.fault_parts import Server, small_disk, unwritable
from reliability.fault_runs import flip
from reliability.faults import KINDS, Faults
from reliability.run import QUICK_KINDS


def test_there_are_many_kinds_of_faults_and_each_says_what_happens():
    assert len(KINDS) >= 20
    assert set(QUICK_KINDS) <= set(KINDS)
    assert all(getattr(Faults, name).__doc__ for name in KINDS)


def ask(url: str) -> list[float]:
    body = json.dumps({"inputs": [{"response": "abc"}]}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as answer:
        return json.loads(answer.read())["scores"]


def test_a_server_misbehaves_from_some_question_on_until_it_is_mended():
    with Server(Server.gone, after=1) as server:
        assert ask(server.url) == [1.0]
        with pytest.raises(OSError, match=r"without response|reset"):
            ask(server.url)
        server.mend()
        assert ask(server.url) == [1.0]


def test_a_small_disk_is_full_soon_and_what_it_held_stays(tmp_path):
    with small_disk(tmp_path / "small", 64) as limit:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            limit()
            (tmp_path / "small" / "a").write_bytes(b"a" * 1000)
            with pytest.raises(OSError, match=r"space|large"):
                (tmp_path / "small" / "b").write_bytes(b"b" * 10**6)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "small" / "a").read_bytes() == b"a" * 1000


def test_a_closed_folder_takes_nothing(tmp_path):
    (tmp_path / "closed").mkdir()
    with unwritable(tmp_path / "closed") as folder, pytest.raises(OSError, match=r".+"):
        (folder / "new").mkdir()
    (tmp_path / "closed" / "new").mkdir()


def test_one_bit_is_flipped_and_flipped_back(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    flip(path, 0.5)
    assert path.read_bytes() == b"acc"
    flip(path, 0.5)
    assert path.read_bytes() == b"abc"
