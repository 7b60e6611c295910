"""What faults are made of: options of small runs, a server that misbehaves, small and closed disks, bad numbers."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

DEMONSTRATIONS: dict[str, Any] = {
    "model": {"class_path": "SFTModule", "init_args": {"model": "${base}", "optimizer": {"lr": 1e-3}}},
    "data": {
        "sources": {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 88}},
        "val_fraction": 0.1,
        "batch_size": 8,
    },
    "trainer": {"max_epochs": 1, "log_every_n_steps": 1},
    "checkpoint": {"every_n_train_steps": 2},
}


def _prompts(size: int) -> dict[str, Any]:
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": size}}
    val = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 8, "split": "val"}}
    return {"sources": source, "val_sources": val, "batch_size": 8, "val_batch_size": 8, "max_length": 80}


def ppo(reward: dict[str, Any], judge: dict[str, Any] | None = None) -> dict[str, Any]:
    """Options of five iterations."""
    model = {"policy": "${base}", "reward": reward, "judge": judge, "sampling": {"max_new_tokens": 8}}
    return {
        "model": {"class_path": "PPOModule", "init_args": {**model, "settings": {"minibatch_size": 8}}},
        "data": _prompts(48),
        "trainer": {"max_steps": 5, "val_check_interval": 100},
        "checkpoint": {"every_n_train_steps": 1},
    }


def baselines(policy: Path, store: Path) -> dict[str, Any]:
    """Options of a store with some parts."""
    model = {"policy": str(policy), "reward": scores("local"), "store": str(store), "k": 2}
    model["sampling"] = {"max_new_tokens": 16}
    data = {**_prompts(48), "val_sources": None, "val_fraction": 0.0}
    return {"model": {"class_path": "BaselineModule", "init_args": model}, "data": data}


def length_reward(prompt: str, response: str) -> float:
    """What the server computes as well: a third of the number of letters."""
    return len(response) / 3


def scores(where: str) -> dict[str, Any]:
    """A reward that counts letters: ``local``, or computed by a server, with two attempts of a second each."""
    if where == "local":
        return {
            "class_path": "lit_rlhf.rewards.PythonReward",
            "init_args": {"function": "reliability.fault_parts.length_reward"},
        }
    endpoint = {"url": where, "timeout": 1.0, "retries": 1, "wait": 0.05}
    return {"class_path": "lit_rlhf.rewards.RemoteReward", "init_args": {"endpoint": endpoint, "name": "letters"}}


class Server:
    """A reward server that misbehaves from some question on, until it is mended.

    Args:
        behaviour: What it then does with a question.
        after: Questions that it answers before.
    """

    def __init__(self, behaviour: Callable[["Server", BaseHTTPRequestHandler, bytes], None], after: int) -> None:
        self.behaviour, self.left, self.busy_once = behaviour, after, True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                given = [length_reward("", each["response"]) for each in question["inputs"]]
                server.left -= 1
                with contextlib.suppress(OSError):  # the other side may have given up
                    if server.left < 0:
                        server.behaviour(server, self, _body(given))
                    else:
                        _answer(self, _body(given))

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._process = os.fork()  # not a thread: commands are forked from this process
        if not self._process:
            try:
                self._server.serve_forever(0.05)
            finally:
                os._exit(0)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        self._server.server_close()

    def _stop(self) -> None:
        os.kill(self._process, 9)
        os.waitpid(self._process, 0)

    def mend(self) -> None:
        """Answer rightly from now on."""
        self._stop()
        self.left = 1 << 30
        self.__enter__()

    # ------------------------------------------------------------------ ways to misbehave

    def slow(self, handler: BaseHTTPRequestHandler, answer: bytes) -> None:
        """Take longer than anybody waits."""
        time.sleep(30)

    def wrong(self, handler: BaseHTTPRequestHandler, answer: bytes) -> None:
        """Answer something else."""
        _answer(handler, b"<html>It works!</html>")

    def gone(self, handler: BaseHTTPRequestHandler, answer: bytes) -> None:
        """Hang up."""
        handler.connection.close()

    def nan(self, handler: BaseHTTPRequestHandler, answer: bytes) -> None:
        """Answer with numbers that are none."""
        _answer(handler, json.dumps({"scores": [float("nan")] * len(json.loads(answer)["scores"])}).encode())

    def busy(self, handler: BaseHTTPRequestHandler, answer: bytes) -> None:
        """Ask for patience every other time."""
        self.busy_once = not self.busy_once
        _answer(handler, answer, 200 if self.busy_once else 503)


def _body(given: list[float]) -> bytes:
    return json.dumps({"scores": given}).encode()


def _answer(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.end_headers()
    handler.wfile.write(body)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[], None]]:
    """A folder with little room: a file system in memory, or where that is not allowed, a limit to a file's size.

    Gives what the command has to call first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mounted = not _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder))
    limit = 1024 * kilobytes // 3

    def prepare() -> None:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    try:
        yield prepare
    finally:
        if mounted:
            kept = folder.with_name(f"{folder.name}.kept")
            shutil.copytree(folder, kept)
            subprocess.run(["umount", str(folder)], check=True)
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            shutil.rmtree(kept)


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[Path]:
    """A folder that nobody can write to: one mounted for reading only, or a file system of the kernel's."""
    if _mount("--bind", str(folder), str(folder)):
        yield Path("/sys/kernel")
        return
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _mount(*words: str) -> int:
    try:
        return subprocess.run(["mount", *words], capture_output=True).returncode
    except OSError:
        return 1


def at_step(step: int, action: Callable[[], None]) -> Callable[[], None]:
    """Let a command do something before a training step of any module, once."""

    def prepare() -> None:
        from lit_rlhf.policy import SFTModule

        original, done = SFTModule.training_step, [False]

        def changed(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.global_step == step and not done[0]:
                done[0] = True
                action()
            return original(self, batch, batch_idx)

        SFTModule.training_step = changed

    return prepare


def nan_at(step: int, for_ever: bool = False) -> Callable[[], None]:
    """Make the loss of a step, the first being 1, NaN; or of all from there on."""

    def prepare() -> None:
        from lit_rlhf.policy import SFTModule

        original = SFTModule.training_step

        def changed(self: Any, batch: Any, batch_idx: int) -> Any:
            now = self.global_step + 1
            bad = now >= step if for_ever else now == step
            return original(self, batch, batch_idx) * (float("nan") if bad else 1.0)

        SFTModule.training_step = changed

    return prepare
