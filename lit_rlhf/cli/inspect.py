"""``lit-rlhf inspect``: what the project makes of files, before anything is trained on them."""

import sys
from pathlib import Path
from typing import Any, Literal

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.file_report import FileReport
from lit_rlhf.data.files import PairFiles, quoted
from lit_rlhf.data.records import Record
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import write_json

REFUSED = 2
"""Exit status where a file cannot be read."""

_KEYS = ("path", "format", "used", "left_aside", "rows", "warnings", "records")
_LONGEST = 300  # characters of a text on the screen


def inspect(
    files: list[str],
    tokenizer: str | None = None,
    template: str | None = None,
    out: str | None = None,
    format: str | None = None,
    split: str | None = None,
    fields: dict[str, str] | None = None,
    first_wins: str | None = None,
    label: Literal["better", "safer"] = "better",
    pairs: Literal["extremes", "all"] = "extremes",
    on_bad_row: Literal["stop", "skip"] = "stop",
    limit: int | None = None,
) -> int:
    """Show what files are read as: their format, the columns that are used and left aside, and the first records.

    Args:
        files: Files, patterns, folders or Hub ids of preference pairs, demonstrations or prompts.
        tokenizer: Hugging Face directory or Hub id of a model: shows the text and the tokens that it would see.
        template: Chat template, as ``data.template``.
        out: JSON file for the report.
        format: The format to read them as; by default each file's first rows tell.
        split: The split of a folder or Hub data set that has several.
        fields: The files' names for the format's fields, such as ``{prompt: question}``.
        first_wins: What a verdict says where the first of two responses is better.
        label: Which of the labels of PKU-SafeRLHF says what is preferred.
        pairs: Which pairs are made of more than two graded responses.
        on_bad_row: ``stop`` refuses a file with a row that cannot be read, ``skip`` counts such rows.
        limit: Read no more than this many records of each.

    Returns:
        0, or 2 where a file is refused; its message is on standard error, and the others are shown all the same.
    """
    renderer = Renderer.load(tokenizer, template) if tokenizer is not None else None
    sources: list[dict[str, Any]] = []
    refused = 0
    options: dict[str, Any] = {"first_wins": first_wins, "label": label, "pairs": pairs, "on_bad_row": on_bad_row}
    for path in files:
        source = _Inspected(path, format, split=split, limit=limit, fields=fields, **options)
        try:
            for _ in source.records():
                pass
            shown = [_described(report, renderer) for report in source.reports.values()]
        except DataError as error:
            shown = [dict.fromkeys(_KEYS) | {"path": path, "error": str(error)}]
        for description in shown:
            if "records" in description and description["records"] is not None:
                _show(description)
            if "error" in description:
                refused += 1
                print(f"\nerror: {description['error']}", file=sys.stderr)
        sources += shown
    if out is not None:
        write_json(Path(out), {"sources": sources})
        print(f"\nreport written to {out}")
    return REFUSED if refused else 0


def _described(report: FileReport, renderer: Renderer | None) -> dict[str, Any]:
    described = report.asdict()
    if renderer is not None:
        try:
            described["seen"] = [_seen(record, renderer) for record in report.records]
        except DataError as error:  # such as tools that its template does not know
            hint = "Name another --tokenizer or --template, or none to see the records alone."
            described["error"] = str(DataError(str(error), described["path"], hint))
    return described


class _Inspected(PairFiles):
    """Files whose errors name the options of this command."""

    def _options(self, **options: str) -> str:
        return " ".join(f"--{name} {quoted(value)}" for name, value in (self._given() | options).items())


def _seen(record: Record, renderer: Renderer) -> dict[str, Any]:
    """Text and tokens of a record as a model reads them; ``tokens`` are one text each."""
    sides = {side: text for side in ("chosen", "rejected") if (text := getattr(record, side)) is not None}
    prompt, responses = renderer.encoded(record.prompt, list(sides.values()))
    parts = {"prompt": prompt, **dict(zip(sides, responses, strict=True))}
    return {
        name: {
            "text": renderer.tokenizer.decode(ids),
            "tokens": renderer.tokenizer.convert_ids_to_tokens(ids),
            "ids": ids,
        }
        for name, ids in parts.items()
    }


def _show(described: dict[str, Any]) -> None:
    print(f"\n{described['path']}: format {described['format']}, {described['rows']:,} rows")
    print(f"  used: {', '.join(map(str, described['used']))}")
    if described["left_aside"]:
        print(f"  left aside: {', '.join(map(str, described['left_aside']))}")
    for warning in described["warnings"]:
        print(f"  note: {warning}")
    for number, record in enumerate(described["records"], 1):
        print(f"  record {number}")
        for message in record["prompt"]:
            extra = f" {message['extra']}" if "extra" in message else ""
            print(f"    {message['role']}: {_shortened(message['content'] + extra)}")
        for name in ("chosen", "rejected", "responses", "grades", "margin"):
            if record[name] is not None:
                print(f"    {name}: {_shortened(str(record[name]))}")
        if record["tie"]:
            print("    tie: yes")
        for part, seen in described.get("seen", [{}] * number)[number - 1].items():
            print(f"    {part} as tokens ({len(seen['ids'])}): {_shortened(seen['text'])}")


def _shortened(text: str) -> str:
    line = repr(text)[1:-1]
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
