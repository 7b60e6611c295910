"""Names of splits: which names are one, and which of those there are was meant."""

import re
import shlex
from collections.abc import Iterable

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import listed

_FAMILIES = (
    ("train", "training"),
    ("validation", "valid", "val", "dev"),
    ("test", "testing", "eval", "evaluation", "heldout"),
)
_SPLITS = {name for family in _FAMILIES for name in family}


def words(name: str) -> list[str]:
    """The words of a name, in small letters."""
    return re.findall(r"[a-z]+", name.lower())


def is_split(name: str) -> bool:
    """Whether a name is one of a split: ``train``, ``test_prefs``, ``dev-2``."""
    first = next(iter(words(name)), "")
    return first in _SPLITS and name.lower().startswith(first)


def split_word(name: str) -> str | None:
    """The word that names a split somewhere in a name; None if there is none."""
    return next((word for word in words(name) if word in _SPLITS), None)


def choose_split(names: Iterable[str], asked: str | None, where: str) -> str:
    """The split that was asked for, or the only one there is. ``dev`` is found where there is but a ``validation``.

    Raises:
        DataError: If it is not there, or none was named and there are several; the message lists them.
    """
    known = sorted(names)
    if asked is None and len(known) == 1:
        return known[0]
    if asked in known:
        return asked
    family = next((family for family in _FAMILIES if (asked or "").lower() in family), ())
    alike = [name for name in known if name.lower() in family]
    if len(alike) == 1:
        return alike[0]
    message = "none was named" if asked is None else f"there is no split '{asked}'"
    hint = ""
    if known:
        option = f"--data.sources PairFiles --data.sources.path {shlex.quote(where)} --data.sources.split"
        hint = f"Name one of them: {option} {shlex.quote(known[-1] if 'train' not in known else 'train')}"
    raise DataError(f"{message}; the splits are {listed(known)}", f"{where}, split", hint)
