"""Which column of a row is what, by the names that public data sets give them.

Names are compared in small letters, with ``_`` between the words (``Chosen Response``, ``chosenResponse``). A column
that no function here finds is left aside, and the report of what was read names it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from lit_rlhf.data.errors import UnsettledError
from lit_rlhf.data.messages import is_conversation, is_message, spelled_out
from lit_rlhf.data.values import Row, field

PROMPTS = (
    *("question", "query", "instruction", "instructions", "user_prompt", "user_query", "user_input", "user_message"),
    *("problem", "prompt_text", "question_text", "input_text", "prompts", "prompt_messages", "context_messages"),
)
"""Names of a prompt that stand for themselves; ``prompt`` comes before all of them."""
LESSER_PROMPTS = ("history", "context", "post", "task", "input", "user")
"""Names of a prompt where nothing else is one: beside another, they may be anything."""
_CONTENTS = ("text", "document", "passage", "article", "claim", "source", "sentence", "trajectory")
"""What a task may be about; where one stands beside a lesser prompt, nobody knows which is the prompt."""
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "trajectory", "contents")
SYSTEMS = ("system", "system_prompt", "system_message", "sys_prompt", "system_instruction", "developer")
TOOLS = ("tools", "functions", "available_tools", "tool_definitions")
ANSWERS = ("response", "completion", "answer", "output", "target", "reply", "assistant", "solution")
LISTS = ("responses", "completions", "answers", "candidates", "outputs", "generations", "replies", "model_responses")
GRADES = (
    *("scores", "score", "ratings", "rewards", "grades", "overall_scores", "gold_scores", "rating", "reward", "grade"),
    *("upvotes", "votes"),
)
RANKS = ("ranks", "rank", "rankings", "ranking")
_MARGINS = {"margin", "margins", "difference", "diff", "delta", "deltas", "strength", "gap"}
MARKS = (
    *("is_good", "desirable", "is_desirable", "thumbs_up", "is_preferred", "kto_tag", "is_safe", "is_response_safe"),
    *("accepted", "is_accepted", "is_correct", "correct", "is_chosen", "liked", "is_liked", "upvoted", "quality"),
    *("preferred", "is_acceptable", "acceptable", "is_helpful", "approved"),
)
"""Names of a column that says of one response whether it is good."""
BAD_MARKS = (
    *("is_bad", "is_unsafe", "unsafe", "is_toxic", "toxic", "is_harmful", "harmful", "is_rejected", "disliked"),
    *("is_undesirable", "undesirable", "thumbs_down", "is_incorrect", "incorrect", "downvoted"),
)
"""Names of a column that says of one response whether it is bad."""
LABELS = ("label", "labels", "feedback")
"""Names of a column that says so if it holds true and false; numbers in it may mean anything."""
VERDICTS = (
    *("preferred", "preference", "winner", "choice", "better", "best", "verdict", "better_response", "label", "labels"),
    *(
        "preferred_response",
        "best_response",
        "chosen",
        "chosen_index",
        "better_response_id",
        "preference_label",
        "vote",
    ),
    *("overall_preference", "preference_strength", "human_preference", "selected", "result", "decision", "judgment"),
)
INDICES = ("chosen_index", "best_index", "preferred_index", "winner_index", "choice", "best_idx", "chosen_idx")
"""Which response of a list is the best, counted from 0."""
SIGNED_VERDICTS = ("overall_preference", "preference_strength")
"""Below zero the first response is better, above it the second, by so many steps (HelpSteer 2 and 3)."""

_SIDES = (
    *(("chosen", "rejected"), ("accepted", "rejected"), ("preferred", "rejected"), ("preferred", "dispreferred")),
    *(("preferred", "unpreferred"), ("preferred", "non_preferred"), ("good", "bad"), ("better", "worse")),
    *(("best", "worst"), ("positive", "negative"), ("pos", "neg"), ("winner", "loser"), ("win", "lose")),
    *(("winning", "losing"), ("correct", "incorrect"), ("safe", "unsafe"), ("upvoted", "downvoted")),
)
REJECTED = (
    *(
        "rejected_response",
        "rejected",
        "rejected_answer",
        "rejected_messages",
        "rejected_completion",
        "rejected_output",
    ),
    *("bad_response", "worse_response", "dispreferred_response", "negative_response"),
)
"""Names of a rejected response whose better one ends the row's messages, or is its only response."""

_NOUNS = (
    "response",
    "answer",
    "completion",
    "output",
    "text",
    "reply",
    "message",
    "messages",
    "summary",
    "conversation",
)
_KINDS = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "grades"}
_FILLERS = {"avg", "average", "mean", "overall", "total", "final", "raw", "model", "judge", "list", "gpt4", *_NOUNS}
_STEMS = (
    *("response", "responses", "answer", "completion", "output", "summary", "candidate", "reply", "generation", "text"),
    *("message", "messages", "conversation", "conversations", "human_ref", "assistant", "translation", "option"),
)
_NUMBERED = re.compile(rf"({'|'.join(sorted(_STEMS, key=len, reverse=True))})_?([0-9]|[a-h])")
_TEXT_KEYS = ("response", "answer", "completion", "output", "text", "content", "generation", "reply", "value")


@lru_cache(maxsize=4096)
def _by_name(columns: tuple[Any, ...]) -> Mapping[str, Any]:
    """The columns by the names that are compared; of two alike, the one spelt so, or else the first."""
    found: dict[str, Any] = {}
    for column in columns:
        name = written(column)
        if name == column or name not in found:
            found[name] = column
    return found


def written(column: Any) -> str:
    """A column's name as it is compared."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(column).strip())
    return re.sub(r"[\s.\-]+", "_", words.lower())


def names(row: Row) -> Mapping[str, Any]:
    """A row's columns by the names that are compared."""
    return _by_name(tuple(row))


def _given(row: Row, column: Any) -> bool:
    """Whether a column is not null; looking does not count as using it."""
    return dict.get(row, column) is not None


def find(row: Row, wanted: Iterable[str]) -> Any | None:
    """The first of the wanted columns that the row has, and that is not null."""
    known = names(row)
    return next((known[name] for name in wanted if name in known and _given(row, known[name])), None)


def prompt_column(row: Row) -> Any | None:
    """The column that holds the prompt as text or messages, if one does.

    Raises:
        DataError: If two may, and nothing tells which.
    """
    plain = find(row, ["prompt"])
    if plain is not None and not _is_blank(dict.get(row, plain)):
        return plain
    able = [column for name in PROMPTS if (column := find(row, [name])) is not None]
    if plain is not None and all(_is_blank(dict.get(row, column)) for column in able):
        return plain
    if len(able) > 1:
        message = f"which of these is the prompt: {' or '.join(map(str, able))}?"
        raise UnsettledError(message, field(str(able[0])), "If it is this one", "fields.prompt", str(able[0]))
    return able[0] if able else _lesser_prompt(row)


def _lesser_prompt(row: Row) -> Any | None:
    lesser = find(row, LESSER_PROMPTS)
    about = None if lesser is None else find(row, _CONTENTS)
    if about is not None and isinstance(dict.get(row, about), str) and isinstance(dict.get(row, lesser), str):
        message = f"which of these is the prompt: {lesser} or {about}?"
        raise UnsettledError(message, field(str(lesser)), "If it is this one", "fields.prompt", str(lesser))
    return lesser


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def sides(row: Row) -> tuple[Any, Any] | None:
    """The columns of the better and the worse response, if the row has a pair of such names."""
    known = names(row)
    for better, worse in _side_names():
        if better in known and worse in known and _given(row, known[better]) and _given(row, known[worse]):
            return known[better], known[worse]
    worse, answers = find(row, REJECTED), [name for name in ANSWERS if find(row, [name]) is not None]
    if worse is not None and len(answers) == 1:  # ms-swift: ``response`` and ``rejected_response``
        return known[answers[0]], worse
    return None


@lru_cache(maxsize=1)
def _side_names() -> tuple[tuple[str, str], ...]:
    forms = ["{}", *(f"{{}}_{noun}" for noun in _NOUNS), *(f"{noun}_{{}}" for noun in _NOUNS)]
    pairs = [(form.format(better), form.format(worse)) for better, worse in _SIDES for form in forms]
    # Stack Exchange in pairs: j is the answer with more votes; in papers, y_w wins and y_l loses.
    return (*pairs, ("response_j", "response_k"), ("y_w", "y_l"), ("y_win", "y_lose"))


def half_of_a_pair(row: Row) -> str | None:
    """The name of the missing rejected response, where the row has its chosen one in a column of that name."""
    known = names(row)
    for better, worse in _side_names():
        if better in known and worse not in known and any(word in better for word in ("chosen", "accepted")):
            return worse
    return None


def side_scores(row: Row, better: Any, worse: Any) -> tuple[Any, Any] | None:
    """The columns with the scores of the two responses, if there are any."""
    words = (_stem(str(better)), _stem(str(worse)))
    kinds = {name: kind for name in names(row) if (kind := _kind(name)) is not None}
    for name, (word, rest) in kinds.items():
        partner = next((each for each, (other, same) in kinds.items() if other == words[1] and same == rest), None)
        if word == words[0] and partner is not None:
            found = names(row)[name], names(row)[partner]
            if all(_given(row, column) for column in found):
                return found
    return None


def margin_column(row: Row) -> Any | None:
    """The column with the difference of a pair's scores, if there is one."""
    known = names(row)
    able = (
        name for name in known if (found := set(name.split("_"))) & _MARGINS and found <= _MARGINS | _KINDS | _FILLERS
    )
    return find(row, [*able, "mean_preference_difference", "preference_strength"])


def _stem(column: str) -> str:
    tokens = re.split(r"[\s._\-]+", column.lower())
    return next((token for token in tokens if any(token in pair for pair in _SIDES)), tokens[-1])


def _kind(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Of a column with scores of one side, the side and the rest of its name."""
    tokens = name.split("_")
    marked = [token for token in tokens if token not in _KINDS and token not in _FILLERS]
    if len(marked) != 1 or not _KINDS.intersection(tokens):
        return None
    return marked[0], tuple(token for token in tokens if token != marked[0])


@dataclass(frozen=True, slots=True)
class Numbered:
    """Responses in columns that are numbered: ``response_a`` and ``response_b``, ``output_1`` to ``output_4``.

    Attributes:
        stem: What their names share.
        tags: What tells them apart, in order.
        columns: The columns.
    """

    stem: str
    tags: tuple[str, ...]
    columns: tuple[Any, ...]

    def beside(self, row: Row, kinds: Iterable[str]) -> tuple[Any, ...] | None:
        """Columns that are numbered alike, such as ``score_1`` and ``score_2``, or ``response_1_score``."""
        known = names(row)
        for kind in kinds:
            for form in (f"{kind}_{{}}", f"{kind}{{}}", f"{self.stem}_{{}}_{kind}", f"{self.stem}{{}}_{kind}"):
                wanted = [form.format(tag) for tag in self.tags]
                if all(name in known and _given(row, known[name]) for name in wanted):
                    return tuple(known[name] for name in wanted)
        return None


def numbered(row: Row) -> Numbered | None:
    """The responses in numbered columns, if there are two or more."""
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, column in names(row).items():
        match = _NUMBERED.fullmatch(name)
        if match and _given(row, column):
            groups.setdefault((match[1], match[2].isdigit()), {})[match[2]] = column
    for (stem, _), columns in groups.items():
        tags = tuple(sorted(columns))
        first = tags[0] in ("0", "1", "a")
        if len(tags) > 1 and first and all(ord(b) == ord(a) + 1 for a, b in pairwise(tags)):
            return Numbered(stem, tags, tuple(columns[tag] for tag in tags))
    return None


def response_list(row: Row) -> Any | None:
    """The column with a list of several responses, as texts or as objects, if there is one."""
    known = names(row)
    for name in (*LISTS, *ANSWERS):
        if name in known and is_response_list(dict.get(row, known[name])):
            return known[name]
    return None


def is_response_list(value: Any) -> bool:
    """Whether a value is a list of texts, or of objects that hold one, but no conversation."""
    if not isinstance(value, list) or not value or is_conversation(value):
        return False
    return all(is_answer(item) or (isinstance(item, dict) and text_key(item) is not None) for item in value)


def text_key(item: Mapping[str, Any]) -> str | None:
    """The key under which an object holds a response."""
    return next((key for key in _TEXT_KEYS if isinstance(item.get(key), str)), None)


def full_text_key(item: Mapping[str, Any]) -> str | None:
    """The key under which an object holds a question."""
    return next((key for key in ("full_text", "prompt", "question") if isinstance(item.get(key), str)), None)


def is_plain_turns(value: Any) -> bool:
    """Whether a value is a list of plain texts that may alternate between user and assistant."""
    return isinstance(value, list) and len(value) > 1 and not len(value) % 2 and all(isinstance(t, str) for t in value)


def is_whole(value: Any) -> bool:
    """Whether a value holds a conversation of more than the assistant's turn."""
    value = spelled_out(value)
    return is_conversation(value) and len(value) > 1


def is_answer(value: Any) -> bool:
    """Whether a value can be one response: text, a message, or messages."""
    return isinstance(value, str) or is_message(value) or is_conversation(value)
