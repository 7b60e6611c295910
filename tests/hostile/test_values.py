"""Any value in any column: whatever reads rows, or says something of them, gives a record or a `DataError`."""

import json
import random
from typing import Any

import pytest

from lit_rlhf.data import columns, prompt_readers, tool_turns, verdicts
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.file_report import FileReport, WatchedRow, lines, surprises
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.formats import FORMATS, detect_format, has_responses, with_options
from lit_rlhf.data.records import Record
from lit_rlhf.data.unknown_rows import unknown_row
from reliability.fuzz_mutation import NAMES, VALUES
from reliability.fuzz_seeds import ROWS

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def nested(levels: int, key: str | None = None) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if key is None else {key: value}
    return value


def called(calls: Any) -> list[Any]:
    return [Q, {"role": "assistant", "content": None, "tool_calls": calls}]


def asked(**message: Any) -> list[Any]:
    return [{"role": "user", "content": "q", **message}]


DEEP = [nested(levels, key) for levels in (90, 110, 300, 450, 600, 900) for key in (None, "a", "function", "content")]
ODD = [
    *(asked(role=role) for role in (3, [], None, "", "\ud800", {}, "User ", "tool", "system")),
    *(asked(content=content) for content in (3, None, [], {}, [{}], {"parts": 3}, [{"type": [], "text": {}}], [[]])),
    *(asked(content=[{"type": "text", "text": text}]) for text in (3, None, "\ud800", [])),
    *(called(calls) for calls in (5, "x", "[1]", [5], [{}], {"name": "f"}, [{"function": 5}], [{"name": []}])),
    *(called([{"function": {"name": name, "arguments": 10**400}}]) for name in ("f", "\ud800", "", None)),
    *([Q, {"from": "function_call", "value": value}] for value in (5, None, "", "{}", "[]", "[1]", '{"name": "f"}')),
    [Q, {**A, "reasoning_content": 5, "thinking": "\ud800"}],
    [{"role": "tool", "content": "x", "name": [], "tool_call_id": {}}],
    *([{"name": name}, {"function": name}] for name in ("f", 5, [], {}, None)),
    *([{"text": "a", key: value}, {"text": "b", key: 1}] for key in ("score", "rank") for value in ([], "x", True, {})),
    *("{[]: 1}", "[{}]", "[" * 400, "[" + "-" * 900 + "1]", "{" * 300, "[0x]", "\0", "[\0]", "Human:", "A>B>A", "[[]]"),
]
EVERY = [*VALUES, *ODD, *DEEP]
SEEDS = [row for rows in ROWS.values() for row in rows] + [
    {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]},
    {"text": "q"},
    {},
]
COLUMNS = sorted({*NAMES, *(name for row in SEEDS for name in row)})


def attempt(what: Any, *given: Any) -> Any:
    try:
        return what(*given)
    except DataError as error:
        said = str(error)
    said.encode("utf-8")
    assert len(said) < 2000
    return None


def check(row: dict[str, Any]) -> None:
    """Show a row to everything that sees one."""
    found = attempt(detect_format, row)
    assert found is None or found in FORMATS
    assert attempt(detect_format, WatchedRow(row)) == found
    message = attempt(unknown_row, [row, row], json.dumps)
    assert message is None or len(message) == 2
    for look in (columns.names, columns.prompt_column, columns.sides, columns.response_list, columns.half_of_a_pair):
        attempt(look, row)
    for look in (prompt_readers.system_turn, prompt_readers.tools_turn, prompt_readers.prompt_of, has_responses):
        attempt(look, row, *([()] if look is prompt_readers.system_turn else []))
    for better, worse in (("chosen", "rejected"), ("good", "bad"), ("y_w", "y_l")):
        attempt(columns.side_scores, row, better, worse)
    if (numbered := columns.numbered(row)) is not None and len(numbered.tags) == 2:
        attempt(verdicts.verdict_of, row, numbered, ["a", "b"], None)
    attempt(with_options("compared", first_wins="1"), row)
    for name, reader in FORMATS.items():
        watched = WatchedRow(row)
        record = attempt(reader, watched)
        if record is not None:
            check_record(name, watched, record)


def check_record(name: str, row: WatchedRow, record: Record) -> None:
    assert all(isinstance(turn.content, str) and isinstance(turn.extra, str) for turn in record.prompt)
    assert len(record.prompt_hash) == len(record.pair_hash) == len(record.split_hash) == 16
    report = FileReport("a.jsonl", name)
    report.add(row, record, {})
    assert len(list(surprises(row, record))) == sum(report.counts.values())
    json.loads(json.dumps(report.asdict()))
    "\n".join(lines([report])).encode("utf-8", "backslashreplace")
    tool_turns.request(record.prompt)
    attempt(tool_turns.check_written, record.prompt, "nothing", "t")


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_any_value_in_a_column_of_a_good_row(number):
    rng, seed = random.Random(number), SEEDS[number]
    for name in [*seed, *rng.sample(COLUMNS, 3)]:
        for value in rng.sample(EVERY, 40):
            check({**seed, name: value})


@pytest.mark.parametrize("number", range(20))
def test_any_values_in_several_columns(number):
    rng = random.Random(number)
    for _ in range(60):
        row = dict(rng.choice(SEEDS))
        for _ in range(rng.choice((1, 2, 3))):
            row[rng.choice([*row, *rng.sample(COLUMNS, 1)])] = rng.choice(EVERY)
        shuffled = list(row.items())
        rng.shuffle(shuffled)
        check(dict(shuffled))


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:30])
def test_such_values_in_a_file_give_records_or_an_error_that_names_the_line(tmp_path, value):
    path = tmp_path / "a.jsonl"
    for name in ("prompt", "chosen", "system", "tools", "margin", "id"):
        row = {"prompt": "q", "chosen": "a", "rejected": "b", name: value}
        path.write_text(json.dumps(row) + "\n")
        said = f"{path}:1: "
        try:
            list(PairFiles(str(path)).records())
        except DataError as error:
            said = str(error)
        assert said.startswith(f"{path}:1: ")
