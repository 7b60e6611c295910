"""What is fuzzed: one target per reader and store, each with seeds and with what counts as a wrong row."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets

from lit_rlhf.data import fields, strength
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.file_report import FileReport, WatchedRow, lines
from lit_rlhf.data.formats import FORMATS, detect_format
from lit_rlhf.data.hub import folder_rows
from lit_rlhf.data.json_rows import parse_row
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.data.texts import TextPrompts
from lit_rlhf.data.transcripts import parse_transcript
from lit_rlhf.data.unknown_rows import unknown_row
from lit_rlhf.world import tokenizer
from reliability import fuzz_files as files
from reliability.fuzz_oracles import check_record
from reliability.fuzz_plain import demand, transcript
from reliability.fuzz_seeds import CONVERSATIONS, PAIRS, REPLIES, ROWS, TABLE, TRANSCRIPTS
from tests.data.tokenizers import byte_level

Run = Callable[[bytes], None]

_KNOWS_TOOLS = (
    "{% if tools %}<|im_start|>user\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Target:
    """A reader or store.

    Attributes:
        share: Inputs of a million.
        seeds: Well-formed inputs, from which all others come.
        make: Gives the function that reads one input: it raises `DataError` where that is refused, and `WrongRow` where
            what was accepted is wrong.
    """

    share: int
    seeds: Callable[[], list[bytes]]
    make: Callable[[Path], Run]


def _row(format: str, folder: Path) -> Run:
    """A row of a format; wrong as `check_record` says, or with a column that matters but is not said to be used."""

    def run(data: bytes) -> None:
        row = parse_row(data)
        if isinstance(row, DataError):
            raise row
        demand(detect_format(row) in (None, *FORMATS), "an unknown format", row)
        unknown_row([row], str)
        watched = WatchedRow(row)
        record = FORMATS[format](watched)
        check_record(format, row, record)
        report = FileReport("a.jsonl", format)
        report.add(watched, record, {})
        "\n".join([json.dumps(report.asdict()), *lines([report])]).encode("utf-8", "backslashreplace")
        demand(sorted([*report.used, *report.left_aside]) == sorted(row), "a column that is not named", report)
        demand(_reads_alike(format, {name: row[name] for name in report.used}, record), "not all is used", row, report)

    return run


def _reads_alike(format: str, row: dict[str, Any], record: Record) -> bool:
    try:
        return repr(FORMATS[format](row)) == repr(record)
    except DataError:
        return False


def _decoded(data: bytes) -> str:
    """Text with whatever Python's strings may hold, now and then lone surrogates."""
    try:
        return data.decode("utf-8", "surrogatepass" if data[-1:] == b"a" else "replace")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _transcript(folder: Path) -> Run:
    """Wrong is a turn that a plain scan does not find."""

    def run(data: bytes) -> None:
        text = fields.text(_decoded(data), "chosen")
        turns = [(turn.role, turn.content, {}) for turn in parse_transcript(text, "chosen")]
        demand(turns == transcript(text), "other turns", turns)

    return run


def _texts(folder: Path) -> Run:
    """Wrong is a text that is not what its two parts make up."""
    source = TextPrompts("a.jsonl", words=3)

    def run(data: bytes) -> None:
        row = parse_row(data)
        if isinstance(row, DataError):
            raise row
        prompt, rest = source._cut(row)
        text = row["text"].strip()
        demand(text.startswith(prompt) and text.endswith(rest), "parts of another text", prompt, rest)
        demand((prompt.split(), rest.split()) == (text.split()[:3], text.split()[3:]), "another cut", prompt, rest)

    return run


def _files(store: Path) -> list[Path]:
    return sorted(path for path in store.iterdir() if path.is_file())


def _write_store(folder: Path) -> Path:
    store = Store(folder / "store")
    store.begin({"policy": "abc", "k": 2})
    for number in range(2):
        store.write_part(number, [{"prompt": f"p{number}", "texts": ["ä", ""], "scores": [0.5, -2.5]}] * 3)
    store.finish(2)
    return store.directory


def _write_folder(folder: Path) -> Path:
    datasets.Dataset.from_list(PAIRS).save_to_disk(folder / "saved")
    return folder / "saved"


def _write_tokenizer(folder: Path) -> Path:
    byte_level().save_pretrained(folder / "model")
    return folder / "model"


def _file_seeds(write: Callable[[Path], Path]) -> list[bytes]:
    """The files of a folder, each behind the byte that numbers it."""
    with tempfile.TemporaryDirectory() as folder:
        return [bytes([number]) + path.read_bytes() for number, path in enumerate(_files(write(Path(folder))))]


def _damaged(write: Callable[[Path], Path], read: Callable[[Path], Any], sealed: bool, folder: Path) -> Run:
    """A folder one of whose files is another; wrong is to read anything but what was written, if digests seal it."""
    where = write(folder)
    files = {path: path.read_bytes() for path in _files(where)}
    expected = read(where)

    def run(data: bytes) -> None:
        path, whole = list(files.items())[(data or b"\0")[0] % len(files)]
        path.unlink()  # not cut while an earlier input's table still maps it into memory
        path.write_bytes(data[1:])
        try:
            found = read(where)
        finally:
            path.unlink()
            path.write_bytes(whole)
        demand(found == expected or not sealed, "damage was not seen", path.name, found)

    return run


def _read_store(where: Path) -> Any:
    return Store(where).rows(), Store(where).key


def _check_tokenizer(where: Path) -> None:
    Renderer.load(str(where)).prompts_ids([(Message("user", "How are you?"),)])


def _strength(folder: Path) -> Run:
    """Wrong is a strength that is not the row's, or no finite number."""

    def run(data: bytes) -> None:
        try:
            table = json.loads(data)
        except (ValueError, RecursionError):
            raise DataError("no table") from None
        table = [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []
        with _table(table):
            known = strength.table_rows("nowhere")
            record = Record((Message("user", "q"),), "a", "b")
            for row in known:
                row["pair_hash"] = record.pair_hash
            found = strength.strengths("nowhere", [record], optional=not known)
        demand(not known or found.tolist() == [known[-1]["differences"]], "another strength", found, table)

    return run


@contextmanager
def _table(content: list[Any]) -> Iterator[None]:
    """Let every store hold these rows."""
    former = Store.rows
    Store.rows = lambda self: content  # type: ignore[method-assign]
    try:
        yield
    finally:
        Store.rows = former  # type: ignore[method-assign]


@cache
def _renderers() -> list[Renderer]:
    return [Renderer(byte_level(), _KNOWS_TOOLS), Renderer(copy.deepcopy(tokenizer()))]


def _marks(renderer: Renderer, ids: list[int]) -> list[int]:
    marks = set(renderer.tokenizer.all_special_ids) - {renderer.tokenizer.unk_token_id}
    return [token for token in ids if token in marks] or ids[:0]


def _prompts(folder: Path) -> Run:
    """Wrong are turns that the template did not write, and (for bytes) another text."""

    def run(data: bytes) -> None:
        row = parse_row(data)
        if isinstance(row, DataError):
            raise row
        prompt = FORMATS["prompt"](row).prompt
        calls = any(turn.extra or turn.role in ("tools", "tool") for turn in prompt)
        harmless = tuple(Message("user" if turn.extra or turn.role == "tool" else turn.role, "x") for turn in prompt)
        harmless = (Message("user", "x"), *harmless[1:]) if prompt[0].role == "tools" else harmless
        for renderer in _renderers()[: 1 if calls else 2]:
            ids = renderer.prompt_ids(prompt)
            demand(_marks(renderer, ids) == _marks(renderer, renderer.prompt_ids(harmless)), "a forged turn", prompt)
        renderer = _renderers()[0]
        text = renderer.tokenizer.decode(renderer.prompt_ids(prompt))
        demand(text == renderer.prompt_text(prompt), "another prompt", text)

    return run


def _responses(folder: Path) -> Run:
    """Wrong are tokens in a response that end or begin something, and (for bytes) another text."""

    def run(data: bytes) -> None:
        text = fields.filled(data.decode("utf-8", "replace"), "response")
        for renderer in _renderers():
            ids = renderer.response_ids(text)
            end = renderer.closing_ids
            demand(_marks(renderer, ids) == [renderer.eos_id] and ids[-len(end) :] == end, "a forged end", text)
        renderer = _renderers()[0]
        demand(renderer.response_text(renderer.response_ids(text)) == text, "another response", text)

    return run


def _row_seeds(name: str) -> list[bytes]:
    return [json.dumps(row).encode() for row in ROWS[name]]


TARGETS: dict[str, Target] = {
    **{f"row, {name}": Target(40_000, partial(_row_seeds, name), partial(_row, name)) for name in ROWS},
    "JSON lines": Target(100_000, files.line_seeds, files.in_lines),
    "JSON": Target(50_000, files.json_seeds, files.in_json),
    "tables": Target(50_000, files.table_seeds, files.in_a_table),
    "compressed": Target(30_000, files.packed_seeds, files.packed),
    "transcript": Target(70_000, lambda: TRANSCRIPTS, _transcript),
    "texts": Target(20_000, lambda: [b'{"text": "one two three four five six"}'], _texts),
    "Parquet": Target(15_000, partial(files.column_seeds, "parquet"), files.in_parquet),
    "Arrow": Target(15_000, partial(files.column_seeds, "arrow"), files.in_arrow),
    "folder": Target(8_000, files.folder_seeds, files.in_a_folder),
    "store": Target(25_000, partial(_file_seeds, _write_store), partial(_damaged, _write_store, _read_store, True)),
    "strength table": Target(20_000, lambda: [json.dumps(TABLE).encode()], _strength),
    "prompts as tokens": Target(40_000, lambda: CONVERSATIONS, _prompts),
    "responses as tokens": Target(30_000, lambda: REPLIES, _responses),
    "save_to_disk": Target(
        1_500,
        partial(_file_seeds, _write_folder),
        partial(_damaged, _write_folder, lambda where: [row for _, row in folder_rows(str(where))], False),
    ),
    "tokenizer": Target(
        500, partial(_file_seeds, _write_tokenizer), partial(_damaged, _write_tokenizer, _check_tokenizer, False)
    ),
}
