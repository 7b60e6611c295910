"""How long the parts of an iteration take."""

import time
from collections.abc import Generator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up seconds and counts by name, until they are read.

    A GPU works on behind the program's back: there, each part is waited for.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str, device: torch.device) -> Generator[None]:
        """Take the time of what is done inside.

        Args:
            name: Of the part.
            device: Where it is done.
        """
        _wait_for(device)
        begin = time.perf_counter()
        yield
        _wait_for(device)
        self.add(name, time.perf_counter() - begin)

    def add(self, name: str, value: float) -> None:
        """Add to a sum, in seconds or whatever is counted."""
        self._sums[name] = self._sums.get(name, 0.0) + value

    def read(self) -> dict[str, float]:
        """The sums since this was last called, by name."""
        sums, self._sums = self._sums, {}
        return sums


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
