"""Options as plain values: what checkpoints, loggers and YAML files hold of an object, and the object made of them."""

import inspect
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, Self, TypeVar, overload

from lit_rlhf.data.errors import DataError

T = TypeVar("T")
_OWN = __name__.partition(".")[0]


class Configurable:
    """Base of classes that a YAML file may name by ``class_path``: remembers the arguments it was made with."""

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments; ``__init__`` is what complains about wrong ones."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls).bind(*args, **kwargs)
        except TypeError:
            return self
        named: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            named |= value if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        object.__setattr__(self, "_arguments", named)
        return self

    @classmethod
    def remade(cls, arguments: dict[str, Any]) -> Self:
        """An object with these arguments, which a checkpoint holds."""
        return cls(**arguments)

    def described(self) -> dict[str, Any]:
        """``class_path`` and ``init_args``, as plain values."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"class_path": path, "init_args": plain(getattr(self, "_arguments", {}))}


def plain(value: Any) -> Any:
    """A value as YAML would write it: of an object its options, of a function its name.

    Args:
        value: Numbers, texts, lists and mappings of them, dataclasses, and `Configurable` objects.

    Returns:
        None, bool, int, float, str, and lists and dicts of these. What is none of them becomes its text.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "described") and not isinstance(value, type):
        return value.described()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, FunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value) if isinstance(value, Path) else repr(value)


@overload
def restored(value: Any) -> Any: ...
@overload
def restored(value: Any, kind: type[T]) -> T | None: ...
def restored(value: Any, kind: type[Any] | None = None) -> Any:
    """What `plain` described, made again; anything else is left as it is.

    Args:
        value: Plain values, or the object itself.
        kind: The class whose options a mapping without ``class_path`` holds.

    Raises:
        DataError: If it names a class of a module that nobody has imported: a checkpoint shall not run other code.
    """
    if isinstance(value, list):
        return [restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("class_path"), str):
        arguments = {name: restored(each) for name, each in (value.get("init_args") or {}).items()}
        return _class(value["class_path"]).remade(arguments)
    return value if kind is None else kind(**value)


def _class(path: str) -> type[Configurable]:
    module, _, name = path.rpartition(".")
    if module == _OWN or module.startswith(f"{_OWN}."):
        import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Configurable)):
        hint = "Import the module that defines it first, or give the object itself: load_from_checkpoint(path, NAME=…)."
        raise DataError(f"names {path}, which no imported module defines", "the options of a checkpoint", hint)
    return found
