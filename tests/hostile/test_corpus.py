import bz2
import copy
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.data import json_rows, rows
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.data.strength import table_rows
from lit_rlhf.data.texts import LabelledTexts, TextPrompts
from lit_rlhf.world import tokenizer
from tests.hostile.corpus import CORPUS
from tests.hostile.making import GOOD, Bad, by_arrow, lines, parquet, zipped


def _render(path: Path) -> None:
    Renderer(copy.deepcopy(tokenizer()), path.read_text()).prompt_ids((Message("user", "q"),))


def _store(path: Path) -> None:
    Store(path).rows()
    Store(path).check({"policy": "p"})


READERS: dict[str, Callable[..., Any]] = {
    "pairs": lambda path, **options: list(PairFiles(str(path), **options).records()),
    "texts": lambda path: list(TextPrompts(str(path)).records()),
    "labelled": lambda path: list(LabelledTexts(str(path)).records()),
    "store": _store,
    "strength": table_rows,
    "tokenizer": lambda path: Renderer.load(str(path)),
    "template": _render,
}


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: f"{bad.reader}: {bad.name}")
def test_a_malformed_file_is_refused_with_what_where_and_what_to_do(tmp_path, bad: Bad):
    path = bad.write(tmp_path)
    with pytest.raises(DataError) as caught:
        READERS[bad.reader](path, **bad.options)
    message, _, hint = str(caught.value).partition("\n  ")
    location = f"{path}{bad.where}" if bad.reader != "labelled" else f"{path.stem}{bad.where}"
    assert not bad.where or (message.startswith(location) or message.startswith(f"{path}{bad.where}"))
    assert bad.what in message
    assert bad.todo in hint
    assert len(str(caught.value)) < 1500


def test_the_corpus_is_large_and_its_names_are_distinct():
    assert len(CORPUS) >= 150
    assert len({(bad.reader, bad.name) for bad in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize(
    "bad", [bad for bad in CORPUS if bad.where == ":2: " and bad.name.endswith("a.jsonl")], ids=lambda bad: bad.name
)
def test_a_bad_row_that_is_skipped_leaves_the_good_ones(tmp_path, bad: Bad):
    path = bad.write(tmp_path)
    path.write_bytes(path.read_bytes() + lines(GOOD))
    source = PairFiles(str(path), on_bad_row="skip", **bad.options)
    assert [(r.chosen, r.rejected) for r in source.records()] == [("a", "b")] * 2
    assert source.bad_rows == 1


def _as_parquet(tmp_path: Path) -> bytes:
    parquet(GOOD)(tmp_path / "made")
    return (tmp_path / "made").read_bytes()


UNUSUAL: dict[str, bytes | Callable[[Path], bytes]] = {
    "gzip a.jsonl": gzip.compress(lines(GOOD)),
    "parquet a.jsonl": _as_parquet,
    "plain a.jsonl.gz": lines(GOOD),
    "zstd a.jsonl": by_arrow("zstd", lines(GOOD)),
    "xz a.csv": lzma.compress(b"prompt,chosen,rejected\nq,a,b\n"),
    "zip a.jsonl": zipped("inner.csv", content=b"prompt;chosen;rejected\nq;a;b\n"),
    "a.csv": b"prompt,chosen,rejected\nq,a,b\n",
    "blanks a.tsv": b"\xef\xbb\xbf\n prompt\tchosen\t rejected \nq\ta\tb\n",
    "nan a.jsonl": b'{"prompt": "q", "chosen": "a", "rejected": "b", "seen": NaN, "other": [-Infinity]}\n',
    "mark a.json": "\ufeff\n".encode() + json.dumps([GOOD], indent=1).encode(),
    "within a.json": json.dumps({"version": 1, "data": [GOOD]}).encode(),
    "no-ending": lines(GOOD),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_only_unusual_is_read(tmp_path, name):
    content, path = UNUSUAL[name], tmp_path / name.split(" ")[-1]
    path.write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    (record,) = PairFiles(str(path)).records()
    assert (record.prompt, record.chosen, record.rejected) == ((Message("user", "q"),), "a", "b")


PACKINGS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress} | {
    "zst": lambda content: by_arrow("zstd", content),
    "lz4": lambda content: by_arrow("lz4", content),
    "zip": lambda content: zipped("a.jsonl", content=content),
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("start", [b'{"prompt": "', b"[", b'[{"prompt": "', b'{\n"prompt": "'])
def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, packing, start):
    monkeypatch.setattr(rows, "_LONGEST_ROW", 2**20)
    monkeypatch.setattr(json_rows, "LONGEST_ITEM", 2**20)
    path = tmp_path / f"a.jsonl.{packing}"
    path.write_bytes(PACKINGS[packing](start + b"a" * 2**23))
    with pytest.raises(DataError, match=r"a row of 1 MiB or more|broken JSON"):
        list(PairFiles(str(path)).records())
