"""Plain texts as sources: labelled texts paired into preferences, and texts cut into a beginning and the rest."""

import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import Literal

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.fields import Row, describe, field, filled, require
from lit_rlhf.data.files import RowSource
from lit_rlhf.data.records import Message, Record
from lit_rlhf.data.rows import find_files, read_rows

Label = int | str

_SHOWN = 10


class LabelledTexts(RowSource):
    """Texts with one of two labels, paired into preferences: a positive text over a negative one.

    The positive texts come in the order of the files, again from the start when they run out. The negative ones
    come in a random order that is drawn anew whenever it runs out, so that all are used about equally often.

    All records have the same prompt. With an empty one they are split by the positive text; with any other, a split by
    prompt would put them all on one side: give the validation texts as a source of their own.

    Args:
        path: As for `PairFiles`.
        text_field: The field with the text.
        label_field: The field with the label.
        positive: The label of a positive text, exactly as in the file (``1`` is not ``"1"``).
        prompt: What all the texts answer. May be empty, for a raw language model.
        pairs: How many pairs to make; by default as many as there are positive texts.
        seed: Of the random order.
        name: For reports; by default the file's name without its ending.
        weight: Share of the records that is used; see `Source`.
        on_bad_row: ``stop`` raises for a row that cannot be read, ``skip`` counts it in ``bad_rows``.
        split: The split of a `datasets` folder or Hub data set that has several.

    Raises:
        DataError: If an argument is out of its range.
    """

    def __init__(
        self,
        path: str | list[str],
        text_field: str = "text",
        label_field: str = "label",
        positive: Label = 1,
        prompt: str = "",
        pairs: int | None = None,
        seed: int = 0,
        name: str | None = None,
        weight: float = 1.0,
        on_bad_row: Literal["stop", "skip"] = "stop",
        split: str | None = None,
    ) -> None:
        super().__init__(path, name, weight, on_bad_row, split)
        if pairs is not None and pairs < 1:
            raise DataError(f"expected a positive number, found {pairs}", "pairs")
        self.text_field = text_field
        self.label_field = label_field
        self.positive = positive
        self.prompt = prompt
        self.pairs = pairs
        self.seed = seed

    def records(self) -> Iterator[Record]:
        """Yield the pairs, the same at every call; ``bad_rows`` counts anew.

        Raises:
            DataError: For bad input, or unless the texts have exactly two labels, the positive one among them.
        """
        positive, negative = self._by_label()
        prompt = (Message("user", self.prompt),)
        rejected = _reshuffled(negative, self.seed)
        count = len(positive) if self.pairs is None else self.pairs
        for index in range(count):
            location, chosen = positive[index % len(positive)]
            yield Record(prompt, chosen, next(rejected), source=self.name, location=location)

    def _by_label(self) -> tuple[list[tuple[str, str]], list[str]]:
        self.bad_rows = 0
        groups: dict[Label, list[tuple[str, str]]] = {}
        for file in find_files(self.path):
            for location, (text, label) in self._convert(file, read_rows(file, self.split), self._labelled):
                groups.setdefault(label, []).append((location, text))
        positive = groups.pop(self.positive, [])
        if not positive or len(groups) != 1:
            labels = ", ".join(repr(label) for label in [*([self.positive] if positive else []), *groups][:_SHOWN])
            message = f"expected two labels, the positive one being {self.positive!r}; found {labels}"
            raise DataError(message, f"{self.name}, {field(self.label_field)}", "Set `positive` to one of them.")
        (others,) = groups.values()
        return positive, [text for _, text in others]

    def _labelled(self, row: Row) -> tuple[str, Label]:
        text = filled(require(row, self.text_field), self.text_field).strip()
        label = require(row, self.label_field)
        if not isinstance(label, Label):
            raise DataError(f"expected a whole number or text, found {describe(label)}", field(self.label_field))
        return text, label


class TextPrompts(RowSource):
    """Texts cut in two: the first words are the prompt, the rest is a demonstration of how it goes on.

    The blanks at the cut belong to neither part.

    Args:
        path: As for `PairFiles`.
        text_field: The field with the text.
        words: How many words (runs of non-blanks) the prompt has. A shorter text is a bad row.
        limit: Read no more than this many records.
        name: For reports; by default the file's name without its ending.
        weight: Share of the records that is used; see `Source`.
        on_bad_row: ``stop`` raises for a row that cannot be read, ``skip`` counts it in ``bad_rows``.
        split: The split of a `datasets` folder or Hub data set that has several.

    Raises:
        DataError: If an argument is out of its range.
    """

    def __init__(
        self,
        path: str | list[str],
        text_field: str = "text",
        words: int = 8,
        limit: int | None = None,
        name: str | None = None,
        weight: float = 1.0,
        on_bad_row: Literal["stop", "skip"] = "stop",
        split: str | None = None,
    ) -> None:
        super().__init__(path, name, weight, on_bad_row, split)
        for option, value in (("words", words), ("limit", limit)):
            if value is not None and value < 1:
                raise DataError(f"expected a positive number, found {value}", option)
        self.text_field = text_field
        self.words = words
        self.limit = limit
        self._beginning = re.compile(rf"\s*(\S+(?:\s+\S+){{{words - 1}}})\s+")

    def records(self) -> Iterator[Record]:
        """Yield one demonstration per text; ``bad_rows`` counts anew.

        Raises:
            DataError: For bad input, a text that is too short among it.
        """
        self.bad_rows = 0
        return islice(self._all_records(), self.limit)

    def _all_records(self) -> Iterator[Record]:
        for file in find_files(self.path):
            for location, (prompt, rest) in self._convert(file, read_rows(file, self.split), self._cut):
                yield Record((Message("user", prompt),), chosen=rest, source=self.name, location=location)

    def _cut(self, row: Row) -> tuple[str, str]:
        text = filled(require(row, self.text_field), self.text_field)
        beginning = self._beginning.match(text)
        if beginning is None or not (rest := text[beginning.end() :].rstrip()):
            message = f"expected more than {self.words} words, found {len(text.split())}"
            raise DataError(message, field(self.text_field), "Set `on_bad_row: skip` to leave short texts out.")
        return beginning[1], rest


def _reshuffled(texts: list[str], seed: int) -> Iterator[str]:
    generator = random.Random(seed)
    while True:
        yield from generator.sample(texts, len(texts))
