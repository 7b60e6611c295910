"""What both versions of FSDP share: a network's weights are whole while it computes, whichever of its methods does."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from lit_rlhf.networks.fast import one_pass

_inside: ContextVar[tuple[int, ...]] = ContextVar("networks that are computing", default=())


@contextmanager
def inside(roots: list[Any]) -> Generator[None]:
    """Meanwhile these roots' weights are whole, so that what a network calls of itself does not gather them again."""
    token = _inside.set((*_inside.get(), *map(id, roots)))
    try:
        yield
    finally:
        _inside.reset(token)


def entering(root: Any, compute: Callable[..., Any]) -> Callable[..., Any]:
    """What computes, remembering that the root's weights are whole."""

    @wraps(compute)
    def entered(*args: Any, **kwargs: Any) -> Any:
        with inside([root]), one_pass():
            return compute(*args, **kwargs)

    return entered


def computing(root: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, with the root's weights gathered before and given up behind it.

    Args:
        root: Its ``gathering`` calls what it is given while the weights are whole.
        method: Of the network.
    """
    entered = entering(root, method)

    @wraps(method)
    def computed(*args: Any, **kwargs: Any) -> Any:
        if id(root) in _inside.get():
            return method(*args, **kwargs)
        # Hidden in a call without arguments: an argument's gradient would count as the end of the root's backward.
        return root.gathering(lambda: entered(*args, **kwargs))

    return computed
