"""What the tests of the documentation read: pages, their links, and their blocks of code with the mark above them."""

import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.rglob("*.md")),
    ROOT / "lit_rlhf" / "world" / "README.md",
    ROOT / "lit_rlhf" / "world" / "checked" / "README.md",
]

_FENCE = re.compile(r"(?m)^(?:<!-- ([\w-]+)(?: ([^\n]*?))? -->\n)?```(\w*)\n(.*?)^```", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A block of code: its language, its text, and the mark in the line above it, such as ``<!-- file a.py -->``."""

    mark: str
    about: str
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    return [Block(mark or "", about or "", *rest) for mark, about, *rest in _FENCE.findall(path.read_text("utf-8"))]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", text)


def links(text: str) -> list[str]:
    plain = re.sub(r"`[^`]*`", lambda match: "" if "](" in match[0] else match[0], prose(text))
    return [first or second for first, second in _LINK.findall(plain)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    found = set()
    for heading in re.findall(r"(?m)^#+ (.+)$", prose(text)):
        words = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def hooks() -> Any:
    """What makes tables of claims and pages of reference."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
