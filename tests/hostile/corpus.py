"""Malformed input: every file that a reader must refuse, with the message that it must refuse it with."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GOOD: dict[str, Any] = {"prompt": "q", "chosen": "a", "rejected": "b"}
MEND = "on_bad_row skip"
AGAIN = "Copy or download it again."
ROWS_WANTED = "Name a file with rows."
NO_TOKENIZER, FOLDER = "no tokenizer could be loaded", "Give a Hugging Face directory."
NOT_WRITTEN, TEMPLATE = "chat template: the chat template cannot write", "data.template"
FIRST = "It is the first row"
USER, ASSISTANT = ({"role": role, "content": role} for role in ("user", "assistant"))
HUMAN = "\n\nHuman: q\n\nAssistant:"
CHAT = [USER, ASSISTANT]
STRENGTH = {"chosen": ["q", "a"], "rejected": ["q", "b"], "chosen score list": [1.0], "rejected score list": [0.0]}
SAFE = {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0}
TLDR = {"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}


@dataclass(frozen=True)
class Bad:
    """One malformed file or folder.

    Attributes:
        name: Of the file; what stands before a blank only tells two cases apart.
        content: Its bytes, or a function that writes it.
        where: What the message has behind the path.
        what: What was wrong.
        todo: What to do about it.
        reader: ``pairs``, ``texts``, ``labelled``, ``store``, ``strength``, ``tokenizer`` or ``template``.
        options: Of the reader.
    """

    name: str
    content: bytes | Callable[[Path], None]
    where: str
    what: str
    todo: str
    reader: str = "pairs"
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write it into a folder; returns its path."""
        path = folder / self.name.rsplit(" ", 1)[-1]
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        return path


def lines(*rows: Any) -> bytes:
    """JSON Lines; bytes stand as they are."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def row(name: str, bad: Any, what: str, **options: Any) -> Bad:
    """A bad row behind a good one."""
    content = lines(options.pop("good", GOOD), bad)
    return Bad(f"{name} a.jsonl", content, ":2: ", what, options.pop("todo", MEND), options=options)


def first(name: str, bad: Any, what: str, todo: str = FIRST, **options: Any) -> Bad:
    """A bad first row."""
    return Bad(f"{name} a.jsonl", lines(bad), ":1: ", what, todo, options=options)


def parquet(*rows: dict[str, Any], change: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    """A Parquet file, whose bytes may be changed."""

    def write(path: Path) -> None:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        path.write_bytes(change(path.read_bytes()))

    return write


def store(change: Callable[[Path], Any], *rows: dict[str, Any]) -> Callable[[Path], None]:
    """A finished store, whose folder may be changed."""

    def write(path: Path) -> None:
        from lit_rlhf.data.store import Store

        whole = Store(path)
        whole.begin({"policy": "p"})
        whole.write_part(0, list(rows) or [{"pair_hash": "x", "differences": [1.0]}])
        whole.finish(1)
        change(path)

    return write


def tokenizer(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """The folder of a tokenizer, which may be changed."""

    def write(path: Path) -> None:
        from lit_rlhf.world import tokenizer as world

        world().save_pretrained(path)
        change(path)

    return write


def saved(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A folder that `save_to_disk` wrote, which may be changed."""

    def write(path: Path) -> None:
        import datasets

        datasets.Dataset.from_list([GOOD]).save_to_disk(path)
        change(path)

    return write


def replace(name: str, old: str, new: str) -> Callable[[Path], Any]:
    """Replace a text in a file of a folder."""
    return lambda path: (path / name).write_text((path / name).read_text("utf-8").replace(old, new), "utf-8")


def put(name: str, text: str) -> Callable[[Path], Any]:
    """Put a text in the place of a file of a folder."""
    return lambda path: (path / name).write_text(text, "utf-8")


def cut(name: str) -> Callable[[Path], Any]:
    """Keep half of a file of a folder."""
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[: (path / name).stat().st_size // 2])


JSON_LINES = [
    row("cut", b'{"prompt": "q", "chosen": "a', "broken JSON at character 27, where it says"),
    row("bare-key", b'{prompt: "q"}', "broken JSON at character 2, where it says 'prompt: \"q\"}'"),
    row("quotes", b"{'prompt': 'q'}", "broken JSON at character 2"),
    row("two", b"{} {}", "broken JSON at character 4, where it says '{}': extra data"),
    row("comma", b'{"prompt": "q",}', "broken JSON at character 16"),
    row("comment", b'{"prompt": "q"} // no', "broken JSON at character 17"),
    row("list", [GOOD], "expected one JSON object per row, found a list"),
    row("number", 3, "found a number"),
    row("null", None, "found null"),
    row("text", "q", "found text"),
    row("bool", True, "found true or false"),
    row("nan", b'{"prompt": NaN}', "NaN is no JSON number; write null, or leave the row out"),
    row("infinity", b'{"prompt": -Infinity}', "-Infinity is no JSON number"),
    row("latin1", b'{"prompt": "\xe9"}', "not UTF-8: byte 0xe9 at position 13", todo="Save the file as UTF-8."),
    row("overlong", b'{"prompt": "\xc0\xaf"}', "not UTF-8: byte 0xc0 at position 13", todo="Save the file as UTF-8."),
    row("control", b'{"prompt": "a\x01b"}', "broken JSON at character 14, where it says '\\x01b\"}': invalid control"),
    row("nul", b"\0", "broken JSON at character 1"),
    row("deep", b'{"prompt": ' + b"[" * 60_000 + b"]" * 60_000 + b"}", "unreadable JSON"),
    row("digits", b'{"id": ' + b"9" * 9000 + b"}", "unreadable JSON"),
    row(
        "twice", b'{"prompt": "q", "chosen": "a", "rejected": "b", "chosen": "c"}', "field 'chosen' is given more than"
    ),
    row("role-twice", b'{"prompt": [{"role": "user", "role": "system"}]}', "field 'role' is given more than once"),
    Bad("empty.jsonl", b"", ": ", "empty: it holds no row", ROWS_WANTED),
    Bad("blank.jsonl", b"\n  \n\t\n", ": ", "empty: it holds no row", ROWS_WANTED),
    Bad("last a.jsonl", lines(GOOD)[:-9], ":1: ", "broken JSON", "the file may have been cut off"),
    Bad("utf16 a.jsonl", json.dumps(GOOD).encode("utf-16"), ":1: ", "not UTF-8: byte 0xff", "Save the file as UTF-8."),
    Bad("gzip a.jsonl", gzip.compress(lines(GOOD)), ": ", "this is a gzip file, not JSON", "Let its name end in .gz."),
    Bad("parquet a.jsonl", parquet(GOOD), ": ", "this is a Parquet file, not JSON", "Let its name end in .parquet."),
    Bad("plain a.jsonl.gz", lines(GOOD), ": ", "damaged gzip file", AGAIN),
    Bad("cut a.jsonl.gz", gzip.compress(lines(GOOD) * 99)[:-9], ": ", "damaged gzip file", AGAIN),
    Bad("tail a.jsonl.gz", gzip.compress(lines(GOOD)) + b"x", ": ", "damaged gzip file", AGAIN),
    Bad("half a.json", b'[{"prompt": "q"},', ": ", "broken JSON at character 18", "Mend it there"),
    Bad("none a.json", b"[]", ": ", "empty: it holds no row", ROWS_WANTED),
    Bad("items a.json", json.dumps([GOOD, 7]).encode(), ":item 2: ", "found a number", MEND),
    Bad("a.csv", b"prompt,chosen,rejected\nq,a,b\n", ": ", "unknown file type '.csv'; readable are", "to_json('a"),
    Bad("a.txt", b"q\n", ": ", "unknown file type '.txt'", "to_json('a.jsonl'"),
    Bad("no-ending", b"{}", ": ", "unknown file type ''", "to_json('no-ending.jsonl'"),
    Bad("split a.jsonl", lines(GOOD), ": ", "a file has no splits", "Leave out `split`.", options={"split": "train"}),
]

ROWS = [
    first("unknown", {"question": "q", "good": "a"}, "no known format has the fields of this row: question", "fields."),
    first("escape", {"a\x1b[2Jb": "q"}, r"has the fields of this row: a\x1b[2Jb", "sources.format"),
    first("misspelt", {"promt": "q", "chosen": "a", "rejected": "b"}, "does not begin with", "fields.prompt promt"),
    row("missing", {"prompt": "q", "chosen": "a"}, "field 'rejected': missing; the row has: prompt, chosen"),
    row("is-null", GOOD | {"chosen": None}, "field 'chosen': is null"),
    row("blank", GOOD | {"rejected": " \n"}, "field 'rejected': empty response"),
    row("kind", GOOD | {"chosen": 7}, "field 'chosen': expected text, found a number"),
    row("prompt-kind", GOOD | {"prompt": {"a": 1}}, "field 'prompt': expected text, found an object"),
    row("surrogate", b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "field 'prompt': half a surrogate pair"),
    row("open", GOOD | {"prompt": [ASSISTANT]}, "field 'prompt': the prompt ends with a turn of the assistant"),
    row("no-turns", GOOD | {"prompt": []}, "field 'prompt': the list of messages is empty"),
    row("role", GOOD | {"prompt": [{"role": "tool", "content": "x"}]}, "'prompt[0].role': unknown role 'tool'; known"),
    row("no-role", GOOD | {"prompt": [{"content": "x"}]}, "'prompt[0]': a message needs role and content"),
    row("message", GOOD | {"prompt": ["q"]}, "'prompt[0]': expected a message {role, content}, found text"),
    row("two-turns", GOOD | {"chosen": [ASSISTANT, ASSISTANT]}, "'chosen': expected one turn of the assistant"),
    row("other-format", GOOD | {"prompt": HUMAN}, "looks like format 'hh'", todo="Name the `format`"),
    first("transcript", {"prompt": "q", "chosen": "a", "rejected": "b"}, "field 'prompt': no transcript", format="hh"),
    first("goes-on", {"prompt": HUMAN, "chosen": "a\n\nHuman: c", "rejected": "b"}, "goes on with a further turn"),
    first("apart", {"chosen": f"{HUMAN} a", "rejected": "\n\nHuman: p\n\nAssistant: b"}, "they differ at turn 1"),
    first("user-last", {"chosen": "Human: q", "rejected": "Human: q"}, "'chosen': the last turn is the user's"),
    first("same", {"chosen": "a b", "rejected": "a b"}, "'rejected': the same as 'chosen'"),
    first("odd", STRENGTH | {"chosen": ["q"]}, "'chosen': expected an even number of turns"),
    first("counts", STRENGTH | {"rejected score list": [1, 2]}, "'rejected score list': 2 scores against 1"),
    first("no-scores", STRENGTH | {"chosen score list": []}, "'chosen score list': expected a list of scores"),
    first("huge", STRENGTH | {"chosen score list": [10**400]}, "'chosen score list[0]': expected a finite number"),
    first("third", SAFE | {"better_response_id": 2}, "'better_response_id': expected 0 or 1, found 2"),
    first("truth", SAFE | {"better_response_id": True}, "'better_response_id': expected 0 or 1, found True"),
    first("one-summary", TLDR | {"summaries": [{"text": "a"}]}, "'summaries': expected a list of two summaries"),
    first("no-post", TLDR | {"info": {"title": "t"}}, "'info.post': missing, and so is 'info.article'"),
    first("score", {"chosen": CHAT, "rejected": CHAT, "score_chosen": "5", "score_rejected": 1}, "expected a number"),
    Bad("all a.jsonl", b"{\n{\n", ": ", "not one row can be read; the last one", "Is the format another one?",
        options={"on_bad_row": "skip"}),
]  # fmt: skip

TEXTS = [
    Bad("short a.jsonl", lines({"text": "a b c"}), ":1: ", "expected more than 8 words", "on_bad_row", "texts"),
    Bad("absent a.jsonl", lines({"body": "a"}), ":1: ", "field 'text': missing; the row has: body", FIRST, "texts"),
    Bad("label a.jsonl", lines({"text": "a", "label": 1.5}), ":1: ", "expected a whole number", FIRST, "labelled"),
    Bad("one a.jsonl", lines({"text": "a", "label": 1}), ", field 'label': ", "expected two labels", "Set `positive`",
        "labelled"),
]  # fmt: skip

PARQUET = [
    Bad("empty.parquet", b"", ": ", "not a readable Parquet file (after row 0)", AGAIN),
    Bad("json a.parquet", lines(GOOD), ": ", "not a readable Parquet file", AGAIN),
    Bad("magic a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", ": ", "not a readable Parquet file", AGAIN),
    Bad("cut a.parquet", parquet(GOOD, change=lambda b: b[:-20]), ": ", "not a readable Parquet file", AGAIN),
    Bad("rows a.parquet", parquet(GOOD, GOOD | {"chosen": ""}), ":row 2: ", "field 'chosen': empty response", MEND),
    Bad("bytes a.parquet", parquet({**GOOD, "chosen": b"\xff"}), ":row 1: ", "found a bytes", FIRST),
    Bad("no-rows a.parquet", lambda path: pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path), ": ",
        "empty: it holds no row", ROWS_WANTED),
]  # fmt: skip

FOLDERS = [
    Bad("nothing", lambda path: path.mkdir(), ": ", "no data set that `save_to_disk` wrote", "To read the files in it"),
    Bad("state saved", saved(put("state.json", "{")), "/state.json: ", "damaged data set", "Copy it again"),
    Bad("info saved", saved(put("dataset_info.json", "[")), ": ", "damaged data set", "Copy it again"),
    Bad("arrow saved", saved(cut("data-00000-of-00001.arrow")), ": ", "damaged data set", "Copy it again"),
    Bad("outside saved", saved(replace("state.json", "data-0", "../data-0")), "/state.json: ",
        "names a file outside of its folder: ../data-0", "do not use it"),
    Bad("split saved", saved(lambda path: None), ": ", "one split, unnamed; 'train' was asked", "Leave out `split`.",
        options={"split": "train"}),
]  # fmt: skip

STORES = [
    Bad("missing store", lambda path: None, ": ", "there is no store", "Run the writing stage", "store"),
    Bad("unfinished store", store(lambda path: (path / "finished.json").unlink()), ": ", "not finished", "Run",
        "store"),
    Bad("gone store", store(lambda path: (path / "part-00000.parquet").unlink()), "/part-00000.parquet: ",
        "cannot be read", "Delete this part", "store"),
    Bad("cut store", store(cut("part-00000.parquet")), "/part-00000.parquet: ", "not the bytes that were written",
        "Delete this part", "store"),
    Bad("key store", store(replace("key.json", "policy", "Policy")), "/key.json: ", "not the bytes", "Delete", "store"),
    Bad("finished store", store(put("finished.json", "{")), "/finished.json: ", "cannot be read", "Is this", "store"),
    Bad("parts store", store(replace("finished.json", '"parts": 1', '"parts": null')), "/finished.json: ",
        "damaged: expected numbers of parts and rows", "Delete the folder", "store"),
    Bad("rows store", store(replace("finished.json", '"rows": 1', '"rows": 2')), ": ", "has 1 rows, 2 were written",
        "Delete the folder", "store"),
    Bad("more store", store(replace("finished.json", '"parts": 1', '"parts": 2')), "/part-00001.parquet: ",
        "cannot be read", "Delete this part", "store"),
    Bad("other table", store(lambda path: None, {"prompt": "p"}), ":row 1: ", "field 'pair_hash': missing; the row has",
        "Is this the folder of a strength table?", "strength"),
    Bad("text table", store(lambda path: None, {"pair_hash": "x", "differences": ["a"]}), ":row 1: ",
        "field 'differences[0]': expected a number, found text", "strength table?", "strength"),
    Bad("nan table", store(lambda path: None, {"pair_hash": "x", "differences": [float("nan")]}), ":row 1: ",
        "expected a finite number, found nan", "strength table?", "strength"),
    Bad("none table", store(lambda path: None, {"pair_hash": "x", "differences": []}), ":row 1: ",
        "expected a list of numbers, found a list", "strength table?", "strength"),
]  # fmt: skip

REMOTE = '{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}, "tokenizer_class": "Evil"}'
TOKENIZERS = [
    Bad("bare model", lambda path: path.mkdir(), ": ", "this folder holds no model", FOLDER, "tokenizer"),
    Bad("cut model", tokenizer(cut("tokenizer.json")), ": ", NO_TOKENIZER, FOLDER, "tokenizer"),
    Bad("list model", tokenizer(put("tokenizer_config.json", "[]")), ": ", NO_TOKENIZER, FOLDER, "tokenizer"),
    Bad("empty model", tokenizer(put("tokenizer.json", "{}")), ": ", NO_TOKENIZER, FOLDER, "tokenizer"),
    Bad("no-end model", tokenizer(lambda path: _without_end(path)), "", "tokenizer: has no end-of-sequence token",
        "Give one", "tokenizer"),
    Bad("remote model", tokenizer(put("tokenizer_config.json", REMOTE)), ": ", NO_TOKENIZER,
        "Take a tokenizer that transformers knows", "tokenizer"),
    Bad("syntax t.jinja", b"{% for m in messages %}{{ m.content }}", "", NOT_WRITTEN,
        TEMPLATE, "template"),
    Bad("refuses t.jinja", b"{{ raise_exception('no system turn') }}", "", "conversation of user: no system turn",
        TEMPLATE, "template"),
    Bad("sandbox t.jinja", b"{{ messages.__class__.__mro__[1].__subclasses__() }}", "", "is unsafe",
        TEMPLATE, "template"),
    Bad("undefined t.jinja", b"{{ messages[7].content.x }}", "", NOT_WRITTEN,
        TEMPLATE, "template"),
    Bad("range t.jinja", b"{% for i in range(10**9) %}x{% endfor %}", "", "Range too big", TEMPLATE, "template"),
]  # fmt: skip


def _without_end(path: Path) -> None:
    config = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    config["eos_token"] = None
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (path / "special_tokens_map.json").unlink(missing_ok=True)


CORPUS = [*JSON_LINES, *ROWS, *TEXTS, *PARQUET, *FOLDERS, *STORES, *TOKENIZERS]
