"""Which of the fast ways are taken; every one gives the numbers of the plain way."""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache

_VARIABLE = "LIT_RLHF_FAST"


@dataclass(frozen=True)
class FastPaths:
    """Fast ways of computing the same numbers; switch one off to compare with the plain way, or to look for a fault.

    Attributes:
        packing: Rows of different lengths are computed as one row without padding, where the architecture allows it.
        shared_prompts: A prompt that several responses share, or a system turn that all prompts begin with, is computed
            once; needs ``packing``. Under dropout they then share what is dropped of it.
        last_layer: The last layer's MLP is computed only for the tokens whose state is asked for; needs ``packing``.
        cache_sized: On a CPU rows are computed so many at a time that intermediate results stay in its cache; needs
            ``packing``.
        adapters: Low-rank adapters add to a layer's result in place.
        decoding: While responses are sampled, adapters are added to the weights, and these are laid out for products
            with few rows; takes memory for one more copy of the policy meanwhile.
    """

    packing: bool = True
    shared_prompts: bool = True
    last_layer: bool = True
    cache_sized: bool = True
    adapters: bool = True
    decoding: bool = True

    @classmethod
    def current(cls) -> "FastPaths":
        """What holds for this process and those that it starts."""
        return _parsed(os.environ.get(_VARIABLE, "{}"))

    def use(self) -> None:
        """Let this hold from now on."""
        os.environ[_VARIABLE] = json.dumps(asdict(self))


@cache
def _parsed(text: str) -> FastPaths:
    return FastPaths(**json.loads(text))


_one_pass: ContextVar[bool] = ContextVar("rows go through a network all at once", default=False)


@contextmanager
def one_pass() -> Generator[None]:
    """All rows go through a network at once for a while, never in groups.

    Where a network is split over processes, each pass through it is a meeting of all of them: the number of passes
    must not depend on a process's own rows.
    """
    token = _one_pass.set(True)
    try:
        yield
    finally:
        _one_pass.reset(token)


def at_once() -> bool:
    """Whether all rows have to go through a network at once."""
    return _one_pass.get()
