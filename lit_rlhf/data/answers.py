"""An answer's tokens as they stand in its turn: `Answers`."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from lit_rlhf.data.marks import Marks
from lit_rlhf.data.turns import Turn


def encode(tokenizer: Any, texts: Sequence[str], **options: bool) -> list[list[int]]:
    """Token ids of texts, without special tokens that the tokenizer would add by itself."""
    return tokenizer(list(texts), add_special_tokens=False, **options)["input_ids"] if texts else []


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids, without special tokens."""
    return tokenizer.decode(list(ids), skip_special_tokens=True)


class Answers:
    """How answers become tokens behind a template's opening, how they end, and how they are read back.

    Tokenizers look at what stands before a word, and some put a mark before the first word of a text. So an answer is
    tokenised behind the end of the opening, which is then taken off: the ids are those of the whole conversation.

    Args:
        tokenizer: A transformers tokenizer.
        turn: What its template writes around an answer; None where that cannot be told.

    Attributes:
        special: Special tokens, and those that were added to the vocabulary.
        closing_ids: What the template writes after an answer; empty without a turn.
        end: Place among these of the token that ends the answer; None where no special token does.
    """

    def __init__(self, tokenizer: Any, turn: Turn | None) -> None:
        self.tokenizer, self.turn = tokenizer, turn
        self.special = frozenset([*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder])
        self.blank = turn.blank if turn is not None else ""
        self.anchor = turn.anchor(self._special_texts) if turn is not None else ""
        self.closing_ids: list[int] = []
        if turn is not None:
            texts = [f"{self.anchor}{self.blank}a{closing}" for closing in ("", turn.closing)]
            body, whole = encode(tokenizer, texts)
            joins = whole[: len(body)] != body
            self.closing_ids = encode(tokenizer, [turn.closing])[0] if joins else whole[len(body) :]
        self.end = next((place for place, token in enumerate(self.closing_ids) if token in self.special), None)

    def end_by(self, token: int) -> None:
        """End answers by one token alone, whatever the template writes."""
        self.closing_ids, self.end = [token], 0

    def ids(self, texts: Sequence[str], marks: Marks) -> list[list[int]]:
        """Token ids of answers without their end; the text of special tokens in them is spelled out."""
        turn = self.turn
        bodies = list(texts) if turn is None else [turn.blank + turn.stripped(text) for text in texts]
        placed = self._placed(bodies)
        spelled = [row for row, body in enumerate(bodies) if placed[row] is None or marks.pattern.search(body)]
        rows = [ids or [] for ids in placed]
        encoded = encode(self.tokenizer, [bodies[row] for row in spelled], split_special_tokens=True)
        for row, ids in zip(spelled, encoded, strict=True):
            rows[row] = marks.spelled_out(ids)
        return rows

    def text(self, ids: Sequence[int], end_ids: Sequence[int]) -> str:
        """The text of an answer's ids up to its end, without special tokens."""
        stop = next((place for place, token in enumerate(ids) if token in end_ids), None)
        context, blank = self._decoding
        text = decode(self.tokenizer, [*context, *ids[:stop]]).removeprefix(decode(self.tokenizer, context))
        text = text.removeprefix(blank)
        return text if stop is None else text.removesuffix(self._written_before_end)

    def text_of_others(self, text: str) -> str:
        """An answer that another program decoded, which leaves the blank that the template or the tokenizer writes."""
        drops_blank = decode(self.tokenizer, encode(self.tokenizer, [" a"])[0]) == "a"
        return text.removeprefix(self.blank or (" " if drops_blank else ""))

    def _placed(self, bodies: Sequence[str]) -> list[list[int] | None]:
        """Ids of texts as they stand behind the opening; None where they join with it."""
        if self.turn is None:
            return [None] * len(bodies)
        rows = self._behind(self.anchor, bodies)
        joined = [row for row, ids in enumerate(rows) if ids is None]
        if joined and self.anchor:  # what begins with a line break after one that the template writes, say
            for row, ids in zip(joined, self._behind("a", [bodies[row] for row in joined]), strict=True):
                rows[row] = ids
        return rows

    def _behind(self, anchor: str, bodies: Sequence[str]) -> list[list[int] | None]:
        before, *rows = encode(self.tokenizer, [anchor, *(anchor + body for body in bodies)])
        return [ids[len(before) :] if ids[: len(before)] == before else None for ids in rows]

    @cached_property
    def _special_texts(self) -> re.Pattern[str]:
        texts = [str(token) for token in self.tokenizer.convert_ids_to_tokens(sorted(self.special))]
        return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))

    @cached_property
    def _decoding(self) -> tuple[list[int], str]:
        """Ids that an answer is decoded behind, and what decoding leaves of the blank before it.

        Tokenizers of the SentencePiece family drop a blank that nothing stands before.
        """
        if self.turn is None:
            return [], ""
        anchor = encode(self.tokenizer, [self.anchor])[0]
        context = anchor if decode(self.tokenizer, anchor) else []
        (ids,) = self._placed([f"{self.blank}a"])
        text = decode(self.tokenizer, [*context, *(ids or [])]).removeprefix(decode(self.tokenizer, context))
        return context, text[:-1] if text.endswith("a") else ""

    @cached_property
    def _written_before_end(self) -> str:
        """Plain text that the template writes between an answer and its end."""
        a = encode(self.tokenizer, ["a"])[0]
        whole = decode(self.tokenizer, [*a, *self.closing_ids[: self.end]])
        return whole.removeprefix(decode(self.tokenizer, a)) if self.end else ""


@contextmanager
def adding_nothing(tokenizer: Any) -> Generator[None]:
    """For a while, a tokenizer adds no special tokens to a text by itself: the template writes all there are.

    Saved so, a reward model's tokenizer gives others the same ids whether or not they ask for special tokens.
    """
    from tokenizers.processors import TemplateProcessing

    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one in plain Python
        yield
        return
    former = backend.post_processor
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    try:
        yield
    finally:
        if former is not None:
            backend.post_processor = former
