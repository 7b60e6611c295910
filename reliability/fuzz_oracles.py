"""What a right row is, told without the code under test: plain second readers, and `WrongRow` where they disagree."""

import json
from typing import Any

from lit_rlhf.data.records import Record

SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class WrongRow(AssertionError):
    """A reader accepted a row and made something else of it than is written there."""


def demand(holds: bool, what: str, *shown: Any) -> None:
    """Raise `WrongRow` unless a statement holds."""
    if not holds:
        raise WrongRow(f"{what}: {', '.join(repr(each)[:200] for each in shown)}")


def check_record(name: str, row: dict[str, Any], record: Record) -> None:
    """Compare a record with what a plain second reader finds in the row.

    Wrong is: another prompt, chosen or rejected text (for transcripts: other words or other speakers), chosen and
    rejected exchanged, scores that are not the row's, a blank response, or a prompt that the user does not end.
    """
    demand(record.prompt[-1].role == "user", "the prompt is not the user's", record)
    for text in (record.chosen, record.rejected):
        demand(text is None or bool(text.strip()), "a blank response", record)
    found = (conversation(record), record.chosen, record.rejected)
    expected = _PLAIN[name](row)
    demand(_same(found, expected, name), f"{name}: not what is written", found, expected)
    demand(record.tie is (_tie(name, row)), f"{name}: tie", record.tie, row)
    if name == "hh-strength":
        row = {key.replace("_", " "): value for key, value in row.items()}
        scores = (list(record.chosen_scores or ()), list(record.rejected_scores or ()))
        written = tuple(list(map(float, row[f"{which} score list"])) for which in ("chosen", "rejected"))
        demand(scores == written, "other scores", scores, row)


def conversation(record: Record) -> list[tuple[str, str]]:
    """The prompt as (role, text)."""
    return [(message.role, message.content) for message in record.prompt]


def json_lines(content: bytes) -> dict[int, Any]:
    """Line numbers and values of JSON Lines; unreadable lines are left out."""
    rows = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            rows[number] = json.loads(line.rstrip(b"\r").decode(), object_pairs_hook=distinct)
        except (ValueError, RecursionError):
            continue
    return rows


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """A JSON object, or None for one that gives a field twice: no reader may accept it."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


def transcript(text: str) -> list[tuple[str, str]]:
    """Turns of an HH transcript: a scan for the marks, where the reader splits by an expression."""
    turns: list[tuple[str, str]] = []
    rest = "\n\n" + text.lstrip()
    while rest:
        role = "user" if rest.startswith("\n\nHuman:") else "assistant"
        rest = rest[rest.index(":") + 1 :]
        ends = [place for mark in ("\n\nHuman:", "\n\nAssistant:") if (place := rest.find(mark)) >= 0]
        end = min(ends, default=len(rest))
        said, rest = rest[:end].strip(), rest[end:]
        if turns and turns[-1][0] == role:
            said = "\n\n".join(part for part in (turns.pop()[1], said) if part)
        turns.append((role, said))
    return turns


def _same(found: Any, expected: Any, name: str) -> bool:
    if name in ("implicit", "tldr"):  # blanks where prompt and response are parted, and headings, are the reader's
        return [_words(part) for part in found] == [_words(part) for part in expected]
    return found == tuple(expected)


def _words(part: Any) -> Any:
    return [(role, text.split()) for role, text in part] if isinstance(part, list) else part and part.split()


def _tie(name: str, row: dict[str, Any]) -> bool:
    if name == "ultrafeedback-binarized":
        return float(row["score_chosen"]) == float(row["score_rejected"])
    return row.get("tie") is True and name in ("explicit", "conversational", "implicit", "hh") and _is_pair(row)


def _is_pair(row: dict[str, Any]) -> bool:
    return row.get("chosen") is not None or row.get("rejected") is not None


# ---------------------------------------------------------------------- one plain reader per format


def _turns(value: list[dict[str, str]]) -> list[tuple[str, str]]:
    keys = [("role", "content") if "role" in turn or "from" not in turn else ("from", "value") for turn in value]
    return [(SPEAKERS[turn[role]], turn[content]) for turn, (role, content) in zip(value, keys, strict=True)]


def _prompt(value: Any) -> list[tuple[str, str]]:
    return [("user", value)] if isinstance(value, str) else _turns(value)


def _reply(value: Any) -> str:
    return value if isinstance(value, str) else _turns(value)[-1][1]


def _explicit(row: dict[str, Any]) -> tuple[Any, ...]:
    return _prompt(row["prompt"]), _reply(row["chosen"]), _reply(row["rejected"])


def _implicit(row: dict[str, Any]) -> tuple[Any, ...]:
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list):
        return _turns(chosen)[:-1], _reply(chosen), _reply(rejected)
    shared = f"{chosen} "
    while shared and not (f"{rejected} ".startswith(shared) and shared[-1:].isspace()):
        shared = shared[:-1]  # back to the last blank that both have
    shared = shared.rstrip()
    return [("user", shared)], chosen[len(shared) :], rejected[len(shared) :]


def _hh(row: dict[str, Any]) -> tuple[Any, ...]:
    if row.get("prompt") is None:
        chosen, rejected = transcript(row["chosen"]), transcript(row["rejected"])
        return chosen[:-1], chosen[-1][1], rejected[-1][1]
    asked = transcript(row["prompt"])
    asked = asked[:-1] if asked[-1] == ("assistant", "") else asked
    if _is_pair(row):
        return asked, *(transcript(f"Assistant: {row[name]}")[0][1] for name in ("chosen", "rejected"))
    answers = [row[name] for name in ("response", "completion") if row.get(name) is not None]
    return asked, transcript(f"Assistant: {answers[0]}")[0][1] if answers else None, None


def _strength(row: dict[str, Any]) -> tuple[Any, ...]:
    turns = [("user" if i % 2 == 0 else "assistant", text.strip()) for i, text in enumerate(row["chosen"])]
    return turns[:-1], turns[-1][1], row["rejected"][-1].strip()


def _safe(row: dict[str, Any]) -> tuple[Any, ...]:
    best = int(row["better_response_id"])
    return _prompt(row["prompt"]), _reply(row[f"response_{best}"]), _reply(row[f"response_{1 - best}"])


def _tldr(row: dict[str, Any]) -> tuple[Any, ...]:
    info, best = row["info"], int(row["choice"])
    parts = [f"SUBREDDIT: r/{info['subreddit'].strip()}"] if info.get("subreddit") is not None else []
    parts += [f"TITLE: {info['title']}"] if info.get("title") is not None else []
    body = "post" if info.get("post") is not None else "article"
    parts += [f"{body.upper()}: {info[body]}", "TL;DR:"]
    return [("user", " ".join(parts))], row["summaries"][best]["text"], row["summaries"][1 - best]["text"]


def _demonstration(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("response", "completion", "messages", "conversations")
    name = next(name for name in names if row.get(name) is not None)
    if name in names[2:]:
        return _turns(row[name])[:-1], _reply(row[name]), None
    return _prompt(row["prompt"]), _reply(row[name]), None


_PLAIN = {
    "prompt": lambda row: (_prompt(row["prompt"]), None, None),
    "demonstration": _demonstration,
    "explicit": _explicit,
    "conversational": _explicit,
    "implicit": _implicit,
    "hh": _hh,
    "hh-strength": _strength,
    "ultrafeedback-binarized": lambda row: _explicit(row) if row.get("prompt") is not None else _implicit(row),
    "safe-rlhf": _safe,
    "tldr": _tldr,
}
