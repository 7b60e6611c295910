"""Rows of JSON, however it is laid out: a row per line, a list, rows over several lines, an object that holds the rows.

Rows on lines of their own are read one by one, each with its own error; so are those of a list and those over several
lines, where a break in the JSON is the end. An object that holds the rows is read as a whole.
"""

import codecs
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import describe, listed
from lit_rlhf.data.json_objects import rows_within
from lit_rlhf.data.json_text import LONGEST_ITEM, JsonText, is_unfinished, parse_line
from lit_rlhf.data.opening import Opened, Pushback

RawRow = tuple[str, "dict[str, Any] | DataError"]
"""Location (``file:line``) and the row, or what kept it from being read."""

_BOM = b"\xef\xbb\xbf"
_LOOKED_AT = 2**16  # bytes behind the first line
_VIEWER = {"row_idx", "row"}  # what the Hub's viewer puts around a row
_LINES_HINT = "to_json('FILE.jsonl', orient='records', lines=True)"


class Layout(NamedTuple):
    """How a JSON file is laid out.

    Attributes:
        kind: ``lines``: a value on each line; ``list``: one list; ``values``: objects one after the other, which need
            not keep to lines; ``object``: a single one.
        line: Number of the first line that is not blank.
    """

    kind: Literal["lines", "list", "values", "object"]
    line: int


def json_rows(file: Opened, split: str | None = None) -> Iterator[RawRow]:
    """Yield the rows of a JSON file.

    Args:
        file: It, at its beginning.
        split: Which of several lists of rows in an object, such as ``train`` and ``test``.

    Raises:
        DataError: If it is broken as a whole, or a split is asked for that it does not have.
    """
    layout = tell_layout(file)
    if layout.kind == "object":
        yield from _object_rows(file, layout.line, split)
        return
    no_splits(file.path, split)
    if layout.kind == "lines":
        yield from line_rows(file, layout.line)
        return
    text = JsonText(file.stream, file.path, layout.line)
    yield from _list_rows(text, file.path) if layout.kind == "list" else _value_rows(text, file)


def line_rows(file: Opened, number: int) -> Iterator[RawRow]:
    """Yield the rows of a file of lines from where its stream is: at the line of this number."""
    for line_number, line in enumerate(iter(partial(file.stream.readline, file.longest), b""), number):
        if line_number == 1:
            line = line.removeprefix(_BOM)
        if len(line) >= file.longest:
            hint = "Is this JSON Lines, with a row per line?"
            raise DataError(f"a row of {file.longest >> 20} MiB or more", f"{file.path}:{line_number}", hint)
        if line.strip():
            yield f"{file.path}:{line_number}", parse_row(line)


def parse_row(line: bytes) -> dict[str, Any] | DataError:
    """The row on a line, or what kept it from being read."""
    try:
        return _row(parse_line(line))
    except DataError as error:
        return error


def no_splits(path: str, split: str | None) -> None:
    """Refuse to look for a split in a file that has none.

    Raises:
        DataError: If one is asked for.
    """
    if split is not None:
        raise DataError(f"a file has no splits, but split '{split}' was asked for", path, "Leave out `split`.")


def keeps_to_lines(file: Opened) -> bool:
    """Whether every row of a JSON file stands on a line of its own, so that reading can begin at any of them."""
    layout = tell_layout(file)
    if layout.kind != "object":
        return layout.kind == "lines"
    text = file.stream.peek(file.longest).strip()
    if b"\n" in text:
        return False
    row = parse_row(text)
    try:
        return isinstance(row, DataError) or rows_within(row, None, file.path) is None
    except DataError:  # several lists of rows
        return False


def tell_layout(file: Opened) -> Layout:
    """How a JSON file is laid out; its stream is left at the first line that is not blank, behind a byte order mark.

    Where the first line is broken, the lines behind it tell whether the JSON goes on there, or another row begins.
    """
    stream, number, line = file.stream, 0, b"\n"
    while line and not line.strip() and len(line) < file.longest:
        number, line = number + 1, _first_line(stream, file.longest)
        line = line.removeprefix(_BOM) or b"\n" if number == 1 and line else line
    behind = stream.read(_LOOKED_AT)
    ended = len(behind) < _LOOKED_AT
    stream.unread(line + behind)
    begin = line.lstrip()[:1]
    if begin not in (b"[", b"{") or len(line) >= file.longest:
        return Layout("lines", number)
    if begin == b"[" and not line.endswith(b"\n") and behind:
        return Layout("list", number)
    try:
        json.loads(_text(line))
    except (RecursionError, ValueError):
        pass
    else:
        alone: Literal["list", "object"] = "list" if begin == b"[" else "object"
        return Layout("lines" if behind.strip() or not ended else alone, number)
    if begin == b"[":
        return Layout("lines" if _is_broken_row(line, behind) else "list", number)
    return Layout(_over_lines(stream, file.longest), number)


def _first_line(stream: Pushback, longest: int) -> bytes:
    """The next line; of one that may be a long list, the beginning."""
    line = stream.readline(min(_LOOKED_AT, longest))
    if line.endswith(b"\n") or line.lstrip()[:1] == b"[":
        return line
    return line + stream.readline(longest - len(line))


def _is_broken_row(line: bytes, behind: bytes) -> bool:
    """Whether a line that begins like a list is but a bad row among good ones: broken in itself, and an object next."""
    text = _text(line + behind).lstrip()
    try:
        json.JSONDecoder().raw_decode(text)
        return False
    except json.JSONDecodeError as error:
        if is_unfinished(error) or "\n" in text[: error.pos]:
            return False
    except (RecursionError, ValueError):
        pass
    return isinstance(parse_row(behind.lstrip().split(b"\n")[0]), dict)


def _over_lines(stream: Pushback, longest: int) -> Literal["lines", "values", "object"]:
    """Whether the first object, whose first line alone is none, ends properly on a later line, and what comes then."""
    size = _LOOKED_AT
    while True:
        head = stream.peek(size)
        ended = len(head) < size
        text = _text(head).lstrip()
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError as error:
            if ended or not is_unfinished(error):
                return "lines"
            if size >= longest:
                return "values"
            size *= 2
            continue
        except (RecursionError, ValueError):
            return "lines"
        rest = text[end:].lstrip()
        if ended and not rest:
            return "object"
        return "values" if rest.startswith("{") or not rest else "lines"


def _text(data: bytes) -> str:
    """What bytes say; those that are no UTF-8 are refused when they are read as rows."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def _list_rows(text: JsonText, path: str) -> Iterator[RawRow]:
    text.take("[")
    number = 0
    while not (number == 0 and text.take("]")):
        number += 1
        yield f"{path}:item {number}", _row(text.value(LONGEST_ITEM))
        if text.take("]"):
            break
        if not text.take(","):
            raise text.broken("',' or ']'")
        if text.peek() == "]":
            raise text.broken("another row", "Take away the comma before it.")
    if text.peek():
        raise text.broken("nothing behind the list")


def _value_rows(text: JsonText, file: Opened) -> Iterator[RawRow]:
    before = 0  # the line on which the former object ends
    while text.peek():
        column = f":{text.column + 1}" if text.line == before else ""
        location = f"{file.path}:{text.line}{column}"
        row = _row(text.value(file.longest))
        before = text.line
        yield location, row


def _object_rows(file: Opened, line: int, split: str | None) -> Iterator[RawRow]:
    value = _only_object(file, line)
    within = rows_within(value, split, file.path) if isinstance(value, dict) and not _is_viewed(value) else None
    if within is None:
        no_splits(file.path, split)
        yield f"{file.path}:{line}", _row(value)
        return
    for number, item in enumerate(within, 1):
        yield f"{file.path}:item {number}", _row(item)


def _only_object(file: Opened, line: int) -> Any:
    """The object that a file is; on a single line, what is wrong with it concerns this row alone."""
    text = file.stream.peek(file.longest).rstrip()
    if b"\n" in text:
        return JsonText(file.stream, file.path, line).value(file.longest)
    try:
        return parse_line(text + b"\n")
    except DataError as error:
        return error


def _row(value: Any) -> dict[str, Any] | DataError:
    if isinstance(value, DataError):
        return value
    if not isinstance(value, dict):
        hint = f"A row names its fields, {{…}}; pandas does with {_LINES_HINT}." if isinstance(value, list) else ""
        return DataError(f"expected one JSON object per row, found {describe(value)}", hint=hint)
    if not _is_viewed(value):
        return value
    if value.get("truncated_cells"):
        hint = "The Hub's viewer shortens long rows: download the files of the data set instead."
        return DataError(f"cut off are {listed(value['truncated_cells'])}", hint=hint)
    return value["row"]


def _is_viewed(value: dict[str, Any]) -> bool:
    """Whether an object is what the Hub's viewer answers for a row."""
    known = {*_VIEWER, "truncated_cells"}
    cut = value.get("truncated_cells", [])
    return _VIEWER <= value.keys() <= known and isinstance(value["row"], dict) and isinstance(cut, list)
