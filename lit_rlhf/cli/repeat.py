"""Groups of stages that an experiment repeats, written out as plain stages."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from lit_rlhf.data.errors import DataError

Names = dict[str, Any]


@dataclass
class Repeat:
    """How often a group of stages is repeated, and what changes from round to round.

    ``${AS}`` is the round's number, from 1. A group's own variables hold for its stages; ``${next_NAME}`` is what
    ``${NAME}`` will be in the next round. Stages behind the group name all its rounds at once: an entry of a mapping
    whose name holds ``${AS}``, or an item of a list that does, stands there once per round, of all groups with this AS.

    Attributes:
        times: Number of rounds; 0 leaves the group out. More rounds leave those that are done as they are.
        counter: The name of the round's number, ``as`` in the file.
        start: The group's variables in the first round.
        next: Those that differ in later rounds, as the round before names them.
    """

    times: int
    counter: str
    start: Names = field(default_factory=dict)
    next: Names = field(default_factory=dict)

    def rounds(self) -> list[Names]:
        """The variables of each round."""
        values, found = self.start, []
        for number in range(1, self.times + 1):
            names = values | {self.counter: number}
            values = values | substituted(self.next, names)
            found.append(names | {f"next_{name}": value for name, value in values.items()})
        return found


def unrolled(specs: list[dict[str, Any]], names: Names, experiment: str) -> list[dict[str, Any]]:
    """Stages as an experiment's file has them, each group written out round by round.

    Args:
        specs: Stages, and groups: ``{repeat: {times, as, start, next}, stages: [...]}``.
        names: The file's variables: a group's ``times`` may be one of them.
        experiment: What errors call the file.

    Raises:
        DataError: If a group lacks something, or its variables hide others.
    """
    stages: list[dict[str, Any]] = []
    groups: dict[str, list[Names]] = {}
    for spec in specs:
        if "repeat" not in spec:
            stages.append(_once_per_round(spec, groups))
            continue
        repeat = _read(spec, names, experiment)
        rounds = repeat.rounds()
        for each in rounds:
            stages += [_once_per_round(substituted(stage, each), groups) for stage in spec["stages"]]
        groups.setdefault(repeat.counter, []).extend(rounds)
    return stages


def _read(spec: dict[str, Any], names: Names, experiment: str) -> Repeat:
    hint = "A group is `repeat: {times: 3, as: round, start: {...}, next: {...}}` with `stages: [...]`."
    options = spec["repeat"] if isinstance(spec["repeat"], dict) else {}
    unknown = sorted((spec.keys() - {"name", "repeat", "stages"}) | (options.keys() - {"times", "as", "start", "next"}))
    if unknown:
        raise DataError(f"a repeated group has no option {unknown[0]!r}", experiment, hint)
    if not {"times", "as"} <= options.keys() or not isinstance(spec.get("stages"), list):
        raise DataError("a repeated group needs times, as and stages", experiment, hint)
    start, following = options.get("start") or {}, options.get("next") or {}
    times = substituted(options["times"], names)
    if isinstance(times, bool) or not isinstance(times, int) or times < 0:
        raise DataError(f"times of a repeated group is {times!r}", experiment, "Give 0, 1, 2, …")
    hidden = sorted(({options["as"]} | start.keys()) & names.keys())
    if hidden:
        raise DataError(f"a repeated group calls something {hidden[0]!r}, as a variable is called", experiment)
    if lacking := sorted(following.keys() - start.keys()):
        raise DataError(f"a repeated group's next names {lacking[0]!r}, its start does not", experiment, hint)
    return Repeat(times, options["as"], start, following)


def _once_per_round(value: Any, groups: dict[str, list[Names]]) -> Any:
    """Entries and items that hold a group's counter, once for each of its rounds."""
    if isinstance(value, dict):
        pairs = [pair for key, each in value.items() for pair in _copies(key, each, groups)]
        return dict(pairs)
    if isinstance(value, list):
        return [copy for each in value for _, copy in _copies(each, each, groups)]
    return value


def _copies(sign: Any, value: Any, groups: dict[str, list[Names]]) -> list[tuple[Any, Any]]:
    """Sign and value: once for each round of the group that the sign names, or once."""
    text = json.dumps(sign)
    for counter, rounds in groups.items():
        if f"${{{counter}}}" in text:
            return [(substituted(sign, names), substituted(value, names)) for names in rounds]
    return [(sign, _once_per_round(value, groups))]


def substituted(value: Any, names: Names) -> Any:
    """Replace ``${name}`` in all strings; a string that is nothing else becomes the value itself, of whatever type.

    Names that are not known stay as they are.
    """
    if isinstance(value, dict):
        return {_text(key, names): substituted(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [substituted(each, names) for each in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$\{(\w+)\}", value)
    if whole and whole[1] in names:
        return names[whole[1]]
    return _text(value, names)


def _text(value: Any, names: Names) -> Any:
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+)\}", lambda match: str(names.get(match[1], match[0])), value)
