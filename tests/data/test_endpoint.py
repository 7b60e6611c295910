import contextlib
import copy
import socket
import threading
import time

import pytest

from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError


class Script:
    """A server's answers: what the script says for this question, else the question itself."""

    def __init__(self, serve) -> None:
        self.lock, self.seen, self.steps = threading.Lock(), [], []
        self.url = serve(self.answer)

    def answer(self, path: str, question: dict, headers: dict) -> tuple[int, str | dict]:
        with self.lock:
            self.seen.append((path, question, headers.get("Authorization")))
            status, delay = self.steps.pop(0) if self.steps else (200, 0.0)
        time.sleep(delay)
        return (200, "<html>") if status == -1 else (status, {"echo": question})


@pytest.fixture
def server(serve):
    return Script(serve)


def endpoint(server, **options) -> Endpoint:
    return Endpoint(server.url + "/", **{"timeout": 5.0, "wait": 0.0, **options})


def test_a_question_and_its_answer(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    asked = endpoint(server, key="MY_KEY")
    assert asked.post("/v1/score", {"a": "é"}) == {"echo": {"a": "é"}}
    assert server.seen == [("/v1/score", {"a": "é"}, "Bearer secret")]
    assert "secret" not in repr(asked) + str(vars(copy.deepcopy(asked)))


@pytest.mark.parametrize("trouble", [(503, 0.0), (429, 0.0), (-1, 0.0), (200, 1.5)], ids=["503", "429", "html", "slow"])
def test_trouble_that_passes_is_waited_out(server, trouble):
    server.steps += [trouble, trouble]
    assert endpoint(server, timeout=0.5).post("/x", {"n": 1}) == {"echo": {"n": 1}}
    assert len(server.seen) == 3


def test_trouble_that_stays_is_an_error_that_says_what_and_where(server):
    server.steps += [(500, 0.0)] * 3
    with pytest.raises(DataError, match=r"(?s)127.0.0.1.*/x: no answer after 3 attempts.*500"):
        endpoint(server, retries=2).post("/x", {})
    server.steps += [(404, 0.0)]
    with pytest.raises(DataError, match="refuses: status 404"):
        endpoint(server).post("/x", {})
    assert len(server.seen) == 4
    with pytest.raises(DataError, match=r"no answer after 2 attempts.*Connect"):
        Endpoint("http://127.0.0.1:9", timeout=1.0, retries=1, wait=0.0).post("/x", {})


def test_many_questions_are_answered_in_their_order_some_at_a_time(server):
    server.steps += [(200, 0.3), (200, 0.0), (503, 0.0)]
    start = time.perf_counter()
    answers = endpoint(server, concurrency=4).post_all("/x", [{"n": n} for n in range(12)])
    assert [answer["echo"]["n"] for answer in answers] == list(range(12))
    assert time.perf_counter() - start < 3.0


def test_one_question_without_answer_fails_them_all(server):
    server.steps += [(400, 0.0)]
    with pytest.raises(DataError, match="status 400"):
        endpoint(server, concurrency=1).post_all("/x", [{"n": n} for n in range(50)])
    assert len(server.seen) < 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "is no address"),
        ({"url": "http://x", "timeout": 0.0}, "out of range"),
        ({"url": "http://x", "retries": -1}, "out of range"),
        ({"url": "http://x", "key": "NOT_SET_ANYWHERE"}, "export NOT_SET_ANYWHERE"),
        ({"url": "http://x", "key": "sk-123 abc"}, "never the key"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options, message):
    with pytest.raises(DataError, match=message) as caught:
        Endpoint(**options)
    assert "sk-123" not in str(caught.value)


def test_a_server_that_answers_in_bits_for_ever_is_given_up():
    def trickle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                connection.sendall(b" ")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=trickle, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        start = time.perf_counter()
        with pytest.raises(DataError, match=r"2 attempts.*not complete after 0.3 s"):
            Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3, retries=1, wait=0.0).post("/x", {})
        assert time.perf_counter() - start < 3.0


def test_paths_of_the_openai_interface_hold_v1_once():
    for url in ("http://x", "http://x/v1", "http://x/v1/"):
        asked = Endpoint(url)
        assert asked.url + asked.openai("/completions") == "http://x/v1/completions"
