import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.data.strength import table_rows
from lit_rlhf.data.texts import LabelledTexts, TextPrompts
from lit_rlhf.world import tokenizer
from tests.hostile.corpus import CORPUS, GOOD, Bad, lines


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
    assert len(CORPUS) >= 60
    assert len({(bad.reader, bad.name) for bad in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("bad", [bad for bad in CORPUS if bad.where == ":2: "], ids=lambda bad: bad.name)
def test_a_bad_row_that_is_skipped_leaves_the_good_ones(tmp_path, bad: Bad):
    path = bad.write(tmp_path)
    path.write_bytes(path.read_bytes() + lines(GOOD))
    source = PairFiles(str(path), on_bad_row="skip", **bad.options)
    assert [(r.chosen, r.rejected) for r in source.records()] == [("a", "b")] * 2
    assert source.bad_rows == 1
