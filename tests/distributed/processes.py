"""A pair of real processes for tests: started once, they run one job after another together (gloo)."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from lit_rlhf.data.processes import end_with_parent


class Pair:
    """Two processes that run the same jobs, each as its own rank.

    ``pair.run(job, *arguments)`` gives what ``job(*arguments)`` returned in both, rank 0's first. A job is a function
    of a module's top level; within it a Trainer with ``devices=2`` finds its rank, and so does `connect`.
    A job that raises is raised here; one that takes longer than its limit, or kills its process, ends both processes,
    and the next job gets fresh ones.
    """

    def __init__(self) -> None:
        self._started: list[tuple[Any, Connection]] = []

    def run(self, job: Callable[..., Any], *arguments: Any, limit: float = 150) -> list[Any]:
        """Results of both processes; ``limit`` in seconds."""
        if not self._started:
            self._start()
        for _, line in self._started:
            line.send((job, arguments))
        answers = []
        for rank, (_, line) in enumerate(self._started):
            try:
                told = "".join(error or "" for error, _ in answers)
                patience = 10 if told else limit  # one that waits for another that has failed would wait for long
                if not line.poll(patience):
                    raise TimeoutError(f"{told}rank {rank} took longer than {patience} s: a deadlock?")
                answers.append(line.recv())
            except (EOFError, ConnectionError, TimeoutError):
                self.end()
                raise
        failed = [f"rank {rank}: {error}" for rank, (error, _) in enumerate(answers) if error]
        if failed:
            self.end()  # the other one may be waiting for it
            raise AssertionError("\n".join(failed))
        return [result for _, result in answers]

    def end(self) -> None:
        """End both."""
        for process, line in self._started:
            process.kill()
            process.join()
            line.close()
        self._started = []

    def _start(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(2):
            here, there = spawning.Pipe()
            process = spawning.Process(target=_serve, args=(rank, port, there), daemon=True)
            process.start()
            there.close()
            self._started.append((process, here))


def connect() -> None:
    """Let the two processes meet where no Trainer does it."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)


def _serve(rank: int, port: int, line: Connection) -> None:
    end_with_parent()
    own = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {**own, "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            job, arguments = line.recv()
        except EOFError:
            return
        try:
            line.send((None, job(*arguments)))
        except BaseException:
            line.send((traceback.format_exc(), None))
