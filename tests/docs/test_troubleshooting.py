"""Every message that the page quotes is one that the package gives."""

import ast
import re
from functools import cache

from tests.docs.pages import DOCS, ROOT

GAP = "…"


@cache
def messages() -> str:
    """All texts of the package, one per line, with a gap where something is put in."""
    found = []
    for path in (ROOT / "lit_rlhf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def quoted() -> list[str]:
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    tables = re.findall(r"(?m)^\| message .*\n\|[-|]+\n((?:\|.*\n)+)", text)
    return [match[1] for table in tables for line in table.splitlines() if (match := re.match(r"\| `(.*?)` \|", line))]


def given(message: str) -> bool:
    return all(part in messages() for part in message.split(GAP) if part.strip(" .,:()'"))


def test_quoted_messages_are_the_packages_own():
    found = quoted()
    assert len(found) > 30
    assert [message for message in found if not given(message)] == []


def test_a_message_that_nobody_gives_is_noticed():
    assert given("the store does not match: …")
    assert not given("the store does not fit: …")
