"""What the documentation is made of beside its text: tables of claims from the studies' results.

``python docs/hooks.py`` writes them anew between the marks ``<!-- claims STUDY PATTERN ... -->`` and
``<!-- end of claims -->`` of every page. MkDocs takes this file for a hook: links that leave the folder become plain
text, since the pages are served without the code, and ``<!-- modules ROOM -->`` becomes the reference of the modules.
"""

import json
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_CLAIMS = re.compile(r"(<!-- claims (\w+) ([^>]*?) -->\n).*?(<!-- end of claims -->)", re.DOTALL)
_MODULES = re.compile(r"<!-- modules (\w+) -->")
_LINK = re.compile(r"\[([^\]\[]+)\]\((\.\./[^)\s]+)\)")


def table(study: str, patterns: list[str]) -> str:
    """The claims of a study whose names match, with what was measured and the verdict."""
    summary = json.loads((FOLDER / "results" / study / "summary.json").read_text("utf-8"))
    rows = ["| claim | measured | effect [95 % over seeds] | verdict |", "|---|---|---|---|"]
    for pattern in patterns:
        rows += [_row(claim) for claim in summary["claims"] if fnmatchcase(claim["id"], pattern)]
    return "\n".join(rows) + "\n"


def _row(claim: dict[str, Any]) -> str:
    effect = "–" if claim["effect"] is None else f"{claim['effect']:.3f}"
    if claim["ci_low"] is not None:
        effect += f" [{claim['ci_low']:.3f}, {claim['ci_high']:.3f}]"
    return f"| {claim['claim']} | {claim['measured']} | {effect} | {claim['verdict']} |"


def filled(text: str) -> str:
    """A page with its tables of claims as the results have them now."""
    return _CLAIMS.sub(lambda match: f"{match[1]}\n{table(match[2], match[3].split())}\n{match[4]}", text)


def modules(room: str) -> list[str]:
    """The modules of a room, by their import paths."""
    package = FOLDER.parent / "lit_rlhf"
    paths = [path for path in sorted((package / room).rglob("*.py")) if path.name != "__init__.py"]
    return [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in paths]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs: turn links out of the folder into text, and rooms into their references."""
    here = (FOLDER / page.file.src_uri).parent

    def plain(match: re.Match[str]) -> str:
        target = (here / match[2].partition("#")[0]).resolve()
        return match[0] if target.is_relative_to(FOLDER.resolve()) else match[1]

    reference = _MODULES.sub(lambda match: "\n\n".join(f"::: {name}" for name in modules(match[1])), markdown)
    return _LINK.sub(plain, reference)


if __name__ == "__main__":
    for path in sorted(FOLDER.rglob("*.md")):
        before = path.read_text("utf-8")
        if (after := filled(before)) != before:
            path.write_text(after, "utf-8")
            print(f"{path.relative_to(FOLDER)}: tables written", file=sys.stderr)
