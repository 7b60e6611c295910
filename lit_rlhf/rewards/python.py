"""Rewards computed by a Python function, and the true reward of the synthetic world."""

import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.data.options import restored
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.rewards.reward import Reward, SequenceReward

if TYPE_CHECKING:
    RewardOrFunction = Reward | Callable[..., float]
else:
    RewardOrFunction = Reward  # what the command line can build
"""What modules take as a reward: from Python, a plain function of prompt and response will do."""


class PythonReward(SequenceReward):
    """Any function of the two texts, and of all that is known of the prompt.

    Args:
        function: ``(prompt, response) -> float``, or its import path, such as ``my_package.rewards.politeness``.
            A conversation of several turns comes as its messages joined by blank lines. One with a parameter ``record``
            is also given the `Record`: its messages with the system's, ``row`` with all columns of the file (a
            reference answer, say), ``chosen``, ``meta`` with the id.
        scale: Factor on what the function gives.
        timeout: Seconds that one call may take; None waits for ever. With a limit, each call runs in a thread of its
            own, and one that is late is left behind there while the run ends with an error: a thread cannot be stopped.

    Raises:
        DataError: If ``timeout`` is not above 0, or, when asked, the function gives no finite number (None, say) or is
            late; it names the function, the prompt and the response.
    """

    def __init__(self, function: Callable[..., float] | str, scale: float = 1.0, timeout: float | None = None) -> None:
        super().__init__()
        if isinstance(function, str):
            function = _imported(function)
        if timeout is not None and not timeout > 0:
            raise DataError(f"is {timeout}", "PythonReward, timeout", "Give seconds above 0, or leave it out.")
        self.function, self.scale, self.timeout = function, scale, timeout
        self._asks_for_record = _has_parameter(function, "record")

    @classmethod
    def remade(cls, arguments: dict[str, Any]) -> Self:
        """Refuse to import whatever function a checkpoint names."""
        if cls is PythonReward:
            hint = "Give it: load_from_checkpoint(path, reward=your_function), or judge=."
            raise DataError(
                f"was {arguments.get('function')}, a function of one's own", "the checkpoint's reward", hint
            )
        return super().remade(arguments)

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Nothing to open; what was remembered is forgotten."""
        self._memory = None
        name = f"{self.function.__module__}.{getattr(self.function, '__qualname__', type(self.function).__name__)}"
        self.fingerprint = f"python {name} x {self.scale:.6g}"
        return self

    def scores(self, completions: Completions) -> Tensor:
        """What the function gives, one call per row ``(N,)``; asked again about the same rows, it remembers."""
        return self.remembered(completions, self._score)

    def _score(self, completions: Completions) -> Tensor:
        values = []
        for (prompt, text), record in zip(_texts(completions), completions.records, strict=True):
            shown = f"prompt {prompt[:80]!r}, response {text[:80]!r}"
            where = f"reward function {self.fingerprint.split()[1]}"
            try:
                known = {"record": record} if self._asks_for_record else {}
                given = _within(self.timeout, partial(self.function, **known), prompt, text)
            except _TooLateError:
                hint = "Give a longer timeout, or make the function faster."
                raise DataError(f"took longer than {self.timeout:g} s for {shown}", where, hint) from None
            value = _number(given, where, shown)
            if value != value or value in (float("inf"), float("-inf")):
                raise NotFiniteError(f"gave {value} for {shown}", where)
            values.append(value)
        return self.scale * torch.tensor(values, device=completions.sequences.ids.device)


def as_reward(reward: Reward | Callable[..., float] | dict[str, Any]) -> Reward:
    """A reward as modules take it: itself, of a plain function a `PythonReward`, of plain options what they describe.

    Raises:
        DataError: If it is nothing of that kind.
    """
    reward = restored(reward)
    if isinstance(reward, Reward):
        return reward
    if callable(reward):
        return PythonReward(reward)
    raise DataError(
        f"is a {type(reward).__name__}", "reward", "Give a Reward, or a function (prompt, response) -> float."
    )


class GoldReward(PythonReward):
    """The true reward of the synthetic world: for judging, and for training an upper bound.

    Args:
        scale: Factor on the reward.
    """

    def __init__(self, scale: float = 1.0) -> None:
        from lit_rlhf.world import gold_reward

        super().__init__(gold_reward, scale)

    def scores(self, completions: Completions) -> Tensor:
        """The true rewards ``(N,)``."""
        return self.scale * self._column(completions, -1)

    def components(self, completions: Completions) -> dict[str, Tensor]:
        """Each of `lit_rlhf.world.gold_components`, unscaled, and ``refusal``: 1 where the response declines to help.

        All are ``(N,)``, and judged together with the scores.
        """
        from lit_rlhf.world import GOLD_WEIGHTS

        return {name: self._column(completions, i) for i, name in enumerate((*GOLD_WEIGHTS, "refusal"))}

    def _column(self, completions: Completions, column: int) -> Tensor:
        table = self.remembered(completions, _graded)
        return table[:, column].float().to(completions.sequences.ids.device)


def _graded(completions: Completions) -> Tensor:
    """Components, whether it is a refusal, and the reward ``(N, components + 2)``, in double precision on the CPU."""
    from lit_rlhf.world import GOLD_WEIGHTS, gold_components, is_refusal

    rows = []
    for prompt, text in _texts(completions):
        found = gold_components(prompt, text)
        total = sum(weight * found[name] for name, weight in GOLD_WEIGHTS.items())
        rows.append([*(found[name] for name in GOLD_WEIGHTS), float(is_refusal(text)), total])
    return torch.tensor(rows, dtype=torch.float64)


def _imported(path: str) -> Callable[..., float]:
    """The function of an import path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "Give its import path, such as my_package.rewards.politeness, or the function itself."
        raise DataError(f"{path!r} cannot be imported: {error}", "PythonReward, function", hint) from None


def _texts(completions: Completions) -> Iterator[tuple[str, str]]:
    """Prompt and response of each row."""
    for record, text in zip(completions.records, completions.texts, strict=True):
        yield "\n\n".join(message.content for message in record.prompt if message.role != "tools"), text


def _number(given: object, where: str, shown: str) -> float:
    """What a function gave, as a number."""
    try:
        return float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        kind = "None" if given is None else f"{str(given)[:40]!r}, no number,"
        raise DataError(f"gave {kind} for {shown}", where, "Let it return a number on every path.") from None


def _has_parameter(function: Callable[..., object], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C tell nothing
        return False


class _TooLateError(Exception):
    """A call took longer than it may; no error that a function of the user's could raise itself."""


def _within(seconds: float | None, function: Callable[[str, str], float], prompt: str, text: str) -> float:
    """What the function gives, if it gives it in time."""
    if seconds is None:
        return function(prompt, text)
    outcome: Future[float] = Future()

    @torch.no_grad()  # as the caller has it: this is kept for each thread
    def run() -> None:
        try:
            outcome.set_result(function(prompt, text))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # a daemon holds up nobody's exit
    if not wait([outcome], seconds).done:
        raise _TooLateError
    return outcome.result()
