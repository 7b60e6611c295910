"""Rows within one JSON object: under a key such as ``data``, under the names of splits, or in the layouts of pandas."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import listed
from lit_rlhf.data.splits import choose_split, is_split

_HOLDERS = {
    "data", "rows", "examples", "instances", "items", "records", "samples", "entries", "dataset", "pairs", "prompts",
    "results", "comparisons", "preferences", "annotations", "questions", "dialogues", "list",
}  # fmt: skip
_PROMPTS = {"prompt", "question", "query", "instruction", "input", "problem", "text"}
_OF_A_ROW = _PROMPTS | {
    "answer", "answers", "candidates", "chat", "choices", "chosen", "completion", "completions", "context",
    "conversation", "conversations", "dialog", "dialogue", "history", "messages", "output", "outputs", "post",
    "rejected", "response", "responses", "summaries", "turns",
}  # fmt: skip
_FIELD = re.compile(r"([a-z]+)([_-]?[0-9a-b])?")
_OF_PANDAS = {"columns", "index", "data", "index_names", "column_names"}
_LOOKED_AT = 50
_HINT = "Write it anew: to_json('FILE.jsonl', orient='records', lines=True)."


def rows_within(value: dict[str, Any], split: str | None, where: str) -> Iterable[Any] | None:
    """The rows that an object holds, each as it stands there; None if the object is a row itself.

    Read are the layouts of pandas' ``to_json``, lists by the names of splits, and an object one of whose keys holds the
    rows.

    Args:
        value: The object.
        split: Which of several lists of rows.
        where: The file, for errors.

    Raises:
        DataError: If there are several lists and none is named, or the rows leave out what stands beside them.
    """
    table = _table(value, where)
    if table is not None:
        return None if split is not None else table
    lists = _lists(value)
    beside = [name for name in value if _is_field(name) and name not in lists]
    if beside and (held := [name for name in lists if name.lower() in _HOLDERS and _are_rows(lists[name])]):
        message = f"holds rows in '{held[0]}', and beside them {listed(beside)}, which they may need"
        raise DataError(message, where, "Write it anew with one row per line, each with all of its fields.")
    if beside:
        return None
    by_split = [name for name in value if is_split(name) and _holder(value[name], where) is not None]
    if by_split:
        return _holder(value[choose_split({*by_split, *lists}, split, where)], where)
    holders = [name for name in lists if name.lower() in _HOLDERS]
    names = holders if len(holders) == 1 else list(lists)
    if len(names) == 1 or (names and all(name in holders or _are_rows(lists[name]) for name in names)):
        return value[choose_split(names, split, where)]
    nested = [name for name in value if name.lower() in _HOLDERS and isinstance(value[name], dict)]
    if len(nested) == 1:
        return rows_within(value[nested[0]], split, where)
    return next((value[name] for name in value if name.lower() in _HOLDERS and value[name] == []), None)


def _holder(value: Any, where: str) -> Iterable[Any] | None:
    """What stands under the name of a split, as rows; None if that is no rows."""
    if isinstance(value, list):
        return value if not value or _are_objects(value) else None
    return rows_within(value, None, where) if isinstance(value, dict) else None


def _lists(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists that may be the rows: of objects, which are no messages, under names that are no row's field."""
    found = {name: items for name, items in value.items() if isinstance(items, list) and _are_objects(items)}
    return {
        name: items
        for name, items in found.items()
        if not _is_field(name) or (name == "conversations" and all("conversations" in item for item in items[:1]))
    }


def _are_objects(items: list[Any]) -> bool:
    """Whether a list holds objects that may be rows, and are no messages; a few bad items may be among them."""
    head = items[:_LOOKED_AT]
    objects = [item for item in head if isinstance(item, dict)]
    return 2 * len(objects) > len(head) and not any(map(_is_message, objects))


def _are_rows(items: list[Any]) -> bool:
    first = next(item for item in items if isinstance(item, dict))
    return any(map(_is_field, first))


def _is_message(item: dict[str, Any]) -> bool:
    return ("role" in item and ("content" in item or "parts" in item)) or ("from" in item and "value" in item)


def _is_field(name: str) -> bool:
    """Whether a row's field may bear this name, such as ``prompt``, ``response_0`` or ``answer_b``."""
    found = _FIELD.fullmatch(name.lower())
    return bool(found) and found[1] in _OF_A_ROW


# ---------------------------------------------------------------------- pandas and its like


def _table(value: dict[str, Any], where: str) -> Iterable[Any] | None:
    """The rows of an object in a layout of pandas: ``table``, ``split``, ``columns``, ``index`` or ``list``."""
    schema, data, columns = value.get("schema"), value.get("data"), value.get("columns")
    if (
        isinstance(schema, dict)
        and "fields" in schema
        and isinstance(data, list)
        and value.keys() == {"schema", "data"}
    ):
        return _without_index(data) if schema.get("primaryKey") == ["index"] else data
    if isinstance(columns, list) and isinstance(data, list) and value.keys() <= _OF_PANDAS:
        return _by_position(columns, data, where)
    contents = list(value.values())
    if all(map(is_split, value)):
        return None
    if all(isinstance(content, dict) and content for content in contents):
        return _columns_or_rows(value)
    if all(isinstance(content, list) and content for content in contents) and _are_columns(value):
        return (dict(zip(value, cells, strict=True)) for cells in zip(*contents, strict=True))
    return None


def _without_index(rows: list[Any]) -> Iterator[Any]:
    for row in rows:
        yield {name: cell for name, cell in row.items() if name != "index"} if isinstance(row, dict) else row


def _by_position(columns: list[Any], rows: list[Any], where: str) -> Iterator[Any]:
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
        raise DataError("the columns of pandas' layout 'split' need names, each its own", where, _HINT)
    for row in rows:
        if isinstance(row, list) and len(row) == len(columns):
            yield dict(zip(columns, row, strict=True))
        elif isinstance(row, list):
            yield DataError(f"{len(row)} cells, but there are {len(columns)} columns")
        else:
            yield row


def _columns_or_rows(value: dict[str, dict[str, Any]]) -> Iterable[Any] | None:
    """The rows of an object of objects: columns by the numbers of their rows, or rows by their number or name."""
    labels = list(next(iter(value.values())))
    if all(map(_is_number, labels)) and all(list(column) == labels for column in value.values()):
        return ({name: column[label] for name, column in value.items()} for label in labels)
    rows = list(islice(value.values(), _LOOKED_AT))
    if any(map(_is_message, rows)) or any(map(_is_field, value)) or any(map(is_split, value)):
        return None
    if all(map(_is_number, value)) or all(any(map(_is_field, row)) for row in rows):
        return value.values()
    return None


def _are_columns(value: dict[str, list[Any]]) -> bool:
    """Whether lists are columns, of a cell per row, and not the fields of one row: its messages, turns or scores."""
    lengths = {len(column) for column in value.values()}
    if len(lengths) != 1 or any(_are_objects(column) for column in value.values()):
        return False
    if len(value) == 1 and lengths == {1}:
        return False
    first = {name: column[0] for name, column in value.items()}
    if any(isinstance(cell, dict) for cell in first.values()):
        return False
    certain = any(isinstance(cell, str) and name.lower() in _PROMPTS for name, cell in first.items())
    nested = any(isinstance(cell, list) and name.lower() not in _HOLDERS for name, cell in first.items())
    return certain or nested or (len(first) > 1 and not {"chosen", "rejected"} & value.keys())


def _is_number(label: str) -> bool:
    return re.fullmatch(r"-?\d+", label) is not None
