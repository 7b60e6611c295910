"""What is said of the house is so."""

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

import lit_rlhf

PACKAGE = Path(lit_rlhf.__file__).parent
ROOT = PACKAGE.parent
ROOMS = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]


def test_the_map_shows_every_room_and_where_it_is_tested():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for room in ROOMS:
        assert f"`lit_rlhf/{room}/`" in text
        assert f"`tests/{room}/`" in text
        assert (ROOT / "tests" / room).is_dir()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for folder in {path.split("/")[0] for path in listed.stdout.splitlines() if "/" in path} - {"lit_rlhf", "tests"}:
        assert f"`{folder}/" in text, f"{folder} is not on the map"


def test_the_changelog_begins_with_the_present_version():
    versions = re.findall(r"(?m)^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert versions[0] == lit_rlhf.__version__


def test_the_package_says_that_it_is_typed_and_is_checked_strictly():
    assert (PACKAGE / "py.typed").exists()
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pyright"]
    assert options["typeCheckingMode"] == "strict"
    off = [name for name, value in options.items() if value is False]
    assert all(name.startswith(("reportUnknown", "reportMissingTypeStubs")) for name in off)


def test_hooks_run_the_tools_that_are_installed_for_development():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "nothing is downloaded"
    tools = {hook["entry"].split()[0].rpartition("/")[2] for repo in hooks for hook in repo["hooks"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    installed = {re.split(r"[^\w-]", each)[0] for each in project["optional-dependencies"]["dev"]}
    assert tools <= installed


def test_what_the_makefile_installs_has_tested_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = re.findall(r'-c constraints\.txt .*-e "\.\[(\w+)\]"', (ROOT / "Makefile").read_text("utf-8"))
    assert "docs" in extras
    wanted = [*project["dependencies"], *(each for name in extras for each in project["optional-dependencies"][name])]
    known = {_normal(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    assert {_normal(each) for each in wanted if "==" not in each} <= known


def _normal(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-")
