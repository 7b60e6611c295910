"""What to say of rows that look like no known format, and which option settles what they are."""

from collections.abc import Callable, Sequence

from lit_rlhf.data import columns, prompt_readers
from lit_rlhf.data.errors import excerpt
from lit_rlhf.data.formats import FORMATS, detect_format, is_labelled
from lit_rlhf.data.readers import shared_words
from lit_rlhf.data.values import Row, listed

_LONGEST_NAME = 40
_WORSE = {"rejected", "bad", "worse", "worst", "losing", "loser", "incorrect", "dispreferred", "negative", "flawed"}
_NOT_SAID = {
    "id", "ids", "uuid", "winner", "verdict", "label", "labels", "score", "scores", "rank", "source", "role", "type",
    "language", "lang", "category", "model", "date", "url", "license", "split",
}  # fmt: skip

Options = Callable[[dict[str, str]], str]


def unknown_row(rows: Sequence[Row], options: Options) -> tuple[str, str]:
    """A message and a hint for rows that look like no known format.

    Args:
        rows: The first rows of a file.
        options: Writes the command line with some options of the source.
    """
    row = rows[0]
    pair = columns.sides(row)
    if pair is not None and all(isinstance(row[name], str) for name in pair):
        return _without_prompt(rows, pair, options)
    if is_labelled(row):
        label = columns.find(row, columns.LABELS)
        message = f"'{label}' is a number: does it say whether the response is good? The row has: {listed(row)}"
        hint = f"If 1 marks a good response and 0 a bad one: {options({'format': 'marked'})}"
        return message, f"{hint}\n  If it means something else: {options({'format': 'demonstration'})}"
    name = columns.response_list(row)
    if name is not None and prompt_readers.prompt_of(row) is not None:
        message = f"'{name}' lists responses, but nothing tells which are better; the row has: {listed(row)}"
        hint = f"If they are listed from best to worst: {options({'format': 'ranked'})}"
        return message, f"{hint}\n  If only the prompts are wanted: {options({'format': 'prompt'})}"
    found = columns.numbered(row)
    if found is not None and prompt_readers.prompt_of(row) is not None:
        first, second = found.columns[:2]
        empty = [str(name) for name in row if columns.written(name) in columns.VERDICTS and row[name] is None]
        if empty:
            message = f"'{empty[0]}' is empty, so nothing tells whether '{first}' or '{second}' is better"
            return message, f"To leave such rows out: {options({'format': 'compared', 'on_bad_row': 'skip'})}"
        message = (
            f"'{first}' and '{second}' are responses, but nothing tells which is better; the row has: {listed(row)}"
        )
        return (
            message,
            f"If '{first}' is better: {options({'fields.chosen': str(first), 'fields.rejected': str(second)})}",
        )
    keyed = next((name for name in row if columns.written(name) in columns.LISTS and _is_object(row[name])), None)
    if keyed is not None:
        message = f"'{keyed}' is an object, not a list of responses; the row has: {listed(row)}"
        return (
            message,
            f"Give '{keyed}' as a list of texts, and what grades them as a list of numbers in the same order.",
        )
    message = f"no known format has the fields of this row: {listed(row)}"
    return message, f"{_guess(row, options)}\n  The formats that can be named are {', '.join(FORMATS)}."


def _is_object(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith("{"))


def _without_prompt(rows: Sequence[Row], pair: tuple[str, str], options: Options) -> tuple[str, str]:
    """Pairs of texts without a prompt: which column holds it, or do both texts begin with it?"""
    row = rows[0]
    better, worse = pair
    message = (
        f"'{better}' and '{worse}' are texts, and no column is known to hold their prompt; the row has: {listed(row)}"
    )
    others = [name for name, value in row.items() if name not in pair and isinstance(value, str) and value.strip()]
    if others:
        asked = max(others, key=lambda name: _looks_like_a_prompt(name, rows))
        return message, f"Is {excerpt(str(asked))!r} the prompt? Then say so: {options({'fields.prompt': str(asked)})}"
    texts = [(each.get(better), each.get(worse)) for each in rows]
    begin_alike = all(isinstance(a, str) and isinstance(b, str) and a != b and _parts(a, b) for a, b in texts)
    if begin_alike:
        return message, f"If both begin with the prompt, as far as they are alike: {options({'format': 'implicit'})}"
    return message, f"If they answer nothing, so that the prompt is empty: {options({'format': 'unprompted'})}"


def _parts(first: str, second: str) -> bool:
    shared = shared_words(first, second)
    return shared is not None and all(text[len(shared) :].strip() for text in (first, second))


def _looks_like_a_prompt(name: str, rows: Sequence[Row]) -> tuple[bool, float]:
    """Ranks columns: names with a prompt's words in them first, then those with longer and more varied texts."""
    words = ("prompt", "promt", "quest", "instr", "query", "user", "input", "ask", "post", "title", "q")
    named = any(word in str(name).lower() for word in words[:-1]) or str(name).lower() in words
    texts = {text for row in rows if isinstance(text := row.get(name), str)}
    return named, sum(map(len, texts)) / max(1, len(rows))


def _may_be_said(name: object, value: object) -> bool:
    """Whether a column may hold a prompt or a response, by its name and its value."""
    if _words(name) & _NOT_SAID or name in columns.SYSTEMS:
        return False
    if isinstance(value, str):
        return bool(value.strip())
    return columns.is_answer(value) or (bool(_words(name) & _WORSE) and columns.is_response_list(value))


def _words(name: object) -> set[str]:
    return set(columns.written(name).split("_"))


def _guess(row: Row, options: Options) -> str:
    """How to name the columns, by the order that prompt, better and worse response mostly stand in."""
    able = [str(name) for name, value in row.items() if len(str(name)) <= _LONGEST_NAME and _may_be_said(name, value)]
    able.sort(key=lambda name: isinstance(row.get(name), list))
    worse = [name for name in able if _words(name) & _WORSE]
    texts = [name for name in able if name not in worse]
    if not able:
        return "It holds no text. Is this the right file?"
    if worse and len(texts) < 2:
        return f"'{worse[0]}' needs a better response beside it, in a column 'chosen'."
    texts = [*texts[:2], *worse, *texts[2:]] if worse else texts
    standards = {1: ("prompt",), 2: ("prompt", "response")}.get(len(texts), ("prompt", "chosen", "rejected"))
    fields = {f"fields.{standard}": name for standard, name in zip(standards, texts, strict=False) if standard != name}
    renamed = {name: value for name, value in row.items() if name not in fields.values()}
    renamed |= {option.removeprefix("fields."): row[name] for option, name in fields.items() if name in row}
    if not fields or detect_format(renamed) is None:
        return "Name the columns as the documentation of the data formats has them (prompt, chosen, rejected, …)."
    meaning = ", ".join(f"{excerpt(name)!r} the {option.removeprefix('fields.')}" for option, name in fields.items())
    return f"Is {meaning}? Then say so: {options(fields)}"
