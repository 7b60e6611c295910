"""What a chat template writes around an answer: `Turn`, found by writing one and looking where it went."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PROBE = "\u241fPROBE\u241f"
"""Stands in the place of an answer while the template writes a conversation."""

_QUESTION = "\u241fQUESTION\u241f"
_BLANKS = " \n\t"

Template = Callable[[list[dict[str, str]], bool], str]
"""Writes messages; the second argument asks for a generation prompt."""


@dataclass(frozen=True)
class Turn:
    """The answer's turn in a template's own words.

    Attributes:
        opening: From the end of the question to the answer, less ``blank``.
        blank: Spaces before the answer which the generation prompt lacks; tokenizers join them to the first word.
        closing: What follows the answer where the conversation ends with it.
        generation: What the generation prompt puts in the place of ``opening``.
        left: Characters that the template strips from the beginning of an answer; None strips all white space.
        right: The same for the end.
        parses: Whether the template takes an answer's reasoning (``<think>…</think>``) apart from the rest.
    """

    opening: str
    blank: str
    closing: str
    generation: str
    left: str | None = ""
    right: str | None = ""
    parses: bool = False

    @classmethod
    def of(cls, template: Template) -> "Turn | None":
        """Find out how a template writes an answer; None where it does not write it as it is."""

        def around(answer: str) -> tuple[str, str] | None:
            """Text from the question to the probe, and from the probe to the end."""
            text = template([_message("user", _QUESTION), _message("assistant", answer)], False)
            question, place = text.rfind(_QUESTION), text.rfind(PROBE)
            if not 0 <= question < place:
                return None
            return text[question + len(_QUESTION) : place], text[place + len(PROBE) :]

        plain = around(PROBE)
        opened = template([_message("user", _QUESTION)], True)
        if plain is None or _QUESTION not in opened:
            return None
        before, closing = plain
        generation = opened[opened.rfind(_QUESTION) + len(_QUESTION) :]
        added = before[common_length(before, generation) :]
        blank = added[len(added.rstrip(" ")) :]
        left = "".join(char for char in _BLANKS if (around(char + PROBE) or plain)[0] == before)
        right = "".join(char for char in _BLANKS if (around(PROBE + char) or plain)[1] == closing)
        reasoned = around(f"<think>\nr\n</think>\n\n{PROBE}")
        return cls(
            opening=before.removesuffix(blank),
            blank=blank,
            closing=closing,
            generation=generation,
            left=None if left == _BLANKS else left,
            right=None if right == _BLANKS else right,
            parses=reasoned is None or reasoned[0] != f"{before}<think>\nr\n</think>\n\n",
        )

    @property
    def answers_at_once(self) -> bool:
        """Whether the opening says more than the generation prompt, such as an empty think block."""
        return self.opening != self.generation.removesuffix(self.blank)

    def stripped(self, answer: str) -> str:
        """An answer as the template writes it."""
        return answer.lstrip(self.left).rstrip(self.right)

    def anchor(self, marks: re.Pattern[str]) -> str:
        """The end of the opening, from its last special token on: what an answer is tokenised behind."""
        places = [match.start() for match in marks.finditer(self.opening) if match[0]]
        anchor = self.opening[places[-1] :] if places else self.opening
        return anchor or ("a" if self.blank else "")


def common_length(*rows: Sequence[object]) -> int:
    """How many entries all of the sequences begin with alike."""
    columns = enumerate(zip(*rows, strict=False))
    return next(
        (place for place, column in columns if any(entry != column[0] for entry in column)), min(map(len, rows))
    )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
