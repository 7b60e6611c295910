"""Every link of the documentation and of the notebooks leads somewhere; nothing is fetched."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, anchors, hooks, links

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def wrong(text: str, path: Path) -> list[str]:
    found = []
    for link in links(text):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        page = anchor and target.suffix == ".md" and target.exists()
        if not target.exists() or (page and anchor not in anchors(target.read_text("utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files_and_headings(path):
    assert wrong(path.read_text("utf-8"), path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_files(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert wrong(text, path) == []


def test_links_to_nowhere_are_noticed(tmp_path):
    (tmp_path / "there.md").write_text("# A heading: so\n")
    text = "[a](there.md) [b](there.md#a-heading-so) [c](gone.md) [d](there.md#other) `[e](code.md)`\n"
    text += "```\n[f](x.md)\n```\n"
    assert wrong(text, tmp_path / "page.md") == ["gone.md", "there.md#other"]


def test_every_page_is_in_the_site_and_every_module_in_the_reference():
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    shown = set(re.findall(r": ([\w/]+\.md)$", site, flags=re.MULTILINE))
    assert all((DOCS / page).exists() for page in shown)
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "results" not in path.parts}
    assert written <= shown
    rooms = {path.stem: path.read_text("utf-8") for path in (DOCS / "api").glob("*.md")}
    assert all(f"<!-- modules {room} -->" in text for room, text in rooms.items())
    package = ROOT / "lit_rlhf"
    assert set(rooms) == {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    page = SimpleNamespace(file=SimpleNamespace(src_uri="api/networks.md"))
    reference = hooks().on_page_markdown(rooms["networks"], page)
    shown = re.findall(r"(?m)^::: lit_rlhf.networks.(\w+)$", reference)
    assert shown == sorted(path.stem for path in (package / "networks").glob("[!_]*.py"))
    assert "](../../" not in reference  # the site holds no code
