"""How far a long job has come, in plain lines that a log file can hold."""

import math
import time
from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_info

SECONDS_BETWEEN_LINES = 10.0
"""The least; of a job that takes longer than a thousand seconds, a hundredth of its time."""


class Progress:
    """Says now and then how far a job has come: one line at most every ten seconds, about a hundred in all.

    A line says what is done out of how much, the figures of interest, the time since the beginning and, where it can be
    foreseen, the time that is left. The first process alone speaks.

    Args:
        what: What is done; begins each line, such as ``fit``.
        unit: What is counted, in the singular.
        total: How many there are; None or infinity where nobody knows.
        start: How many of them were done before this job began.
    """

    def __init__(self, what: str, unit: str, total: float | None = None, start: int = 0) -> None:
        self.what, self.unit, self.start = what, unit, start
        self.total = None if total is None or not 0 < total < math.inf else int(total)
        self._begun = self._told = time.monotonic()
        self._said: tuple[int, dict[str, float]] = start, {}

    def tell(self, done: int, figures: Mapping[str, float] | None = None, last: bool = False) -> None:
        """Say how far it is, if it is time to.

        Args:
            done: How many units are done, those before the beginning among them.
            figures: What else is worth saying, by name.
            last: Whether this is the end, which is said whatever the time, unless all of it was just said.
        """
        now, figures = time.monotonic(), dict(figures or {})
        due = now - self._told >= max(SECONDS_BETWEEN_LINES, self._expected(done, now) / 100)
        new = (done, figures) != self._said and done > self.start
        if new and (last or (due and done > self._said[0])):
            self._told, self._said = now, (done, figures)
            rank_zero_info(self._line(done, figures, now))

    def _expected(self, done: int, now: float) -> float:
        """Seconds that the whole job takes, as far as one can see; those that have passed where one cannot."""
        passed, did = now - self._begun, done - self.start
        return passed if self.total is None or did <= 0 else passed / did * (self.total - self.start)

    def _line(self, done: int, figures: Mapping[str, float], now: float) -> str:
        passed = now - self._begun
        known = f"/{self.total:,} ({done / self.total:.0%})" if self.total else ""
        parts = [f"{self.unit} {done:,}{known}", *(f"{name} {value:.4g}" for name, value in figures.items())]
        parts.append(duration(passed))
        left = self._expected(done, now) - passed
        if self.total and done < self.total:
            parts.append(f"about {duration(left)} left")
        return f"{self.what}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """A time as people say it.

    Example:
        >>> duration(8), duration(125), duration(7500)
        ('8 s', '2 min 5 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
