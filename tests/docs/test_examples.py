"""What the documentation shows is run: files with their tests, configs, rows of every format, tables of claims."""

import importlib
import inspect
import json
import re
import sys

import pytest
import yaml

from lit_rlhf.cli import commands
from lit_rlhf.cli.stage import make_cli
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.formats import FORMATS, detect_format
from lit_rlhf.world import write_base_model
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, hooks

EXTENDING = sorted((DOCS / "extending").glob("*.md"))
WITH_CONFIGS = [path for path in PAGES if any(block.mark == "config" for block in blocks(path))]


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """Writes the files of a page into an empty folder from which they can be imported; gives their names."""
    before = set(sys.modules)
    formats = dict(FORMATS)

    def write(path) -> list[str]:
        files = {block.about: block.text for block in blocks(path) if block.mark == "file"}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        importlib.invalidate_caches()
        return [name.removesuffix(".py") for name in files]

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "test_my_")):
            del sys.modules[name]
    FORMATS.clear()
    FORMATS.update(formats)
    from lit_rlhf.data import formats as module

    for name in set(module._DETECTORS) - set(formats):
        del module._DETECTORS[name]


@pytest.mark.parametrize("path", EXTENDING, ids=lambda path: path.stem)
def test_a_walk_through_files_passes_its_own_tests(path, own_files, tmp_path):
    names = own_files(path)
    assert any(name.startswith("test_") for name in names)
    counted = 0
    for name in names:
        module = importlib.import_module(name)
        for test in [value for key, value in vars(module).items() if key.startswith("test_")]:
            folder = tmp_path / test.__name__
            folder.mkdir()
            test(**({"tmp_path": folder} if "tmp_path" in inspect.signature(test).parameters else {}))
            counted += 1
    assert counted >= 2


@pytest.mark.parametrize("path", WITH_CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_becomes_a_stage(path, own_files, tmp_path):
    own_files(path)
    for number, block in enumerate(block for block in blocks(path) if block.mark == "config"):
        content = yaml.safe_load(block.text)
        file = tmp_path / f"{number}.yaml"
        file.write_text(block.text)
        quiet = ["--trainer.logger", "false", "--trainer.accelerator", "cpu"]
        cli = make_cli(["-c", str(file), *quiet], run=False)
        assert type(cli.model).__name__ == content["model"]["class_path"].rpartition(".")[2]
        given = content["model"]["init_args"]
        assert given.keys() <= cli.config["model"]["init_args"].as_dict().keys()


@pytest.fixture(scope="module")
def with_pairs_and_model(tmp_path_factory):
    """A folder as the page on Python takes it."""
    folder = tmp_path_factory.mktemp("from_python")
    write_base_model(folder / "path" / "to" / "model", "tiny")
    rows = [{"prompt": f"Name fruit {i}.", "chosen": "An apple.", "rejected": "A chair."} for i in range(24)]
    (folder / "my-pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SCRIPTS = [block.text for block in blocks(DOCS / "from_python.md") if block.mark == "script"]


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_scripts_of_the_page_on_python_run_one_after_another(number, with_pairs_and_model, monkeypatch):
    monkeypatch.chdir(with_pairs_and_model)
    exec(compile(SCRIPTS[number], f"script {number}", "exec"), {"__name__": "script"})
    assert len(SCRIPTS[number].splitlines()) <= 25


FORMAT_BLOCKS = [block for block in blocks(DOCS / "data_formats.md") if block.mark in ("format", "fields")]


@pytest.mark.parametrize("block", FORMAT_BLOCKS, ids=lambda block: block.about[:24])
def test_the_example_of_a_format_is_read(block, tmp_path):
    (tmp_path / "rows.jsonl").write_text(block.text)
    fields = json.loads(block.about) if block.mark == "fields" else None
    (record,) = PairFiles(str(tmp_path / "rows.jsonl"), fields=fields).records()
    assert record.prompt[-1].content
    if block.mark == "format":
        assert detect_format(json.loads(block.text)) == block.about
    if block.about not in ("prompt", "demonstration", "marked", "tldr", "explicit"):
        assert (record.chosen, record.rejected) == ("An apple.", "A chair.")


def test_every_format_has_an_example():
    named = {block.about for block in blocks(DOCS / "data_formats.md") if block.mark == "named"}
    shown = {block.about for block in FORMAT_BLOCKS if block.mark == "format"} | named
    assert shown == set(FORMATS) - {"stepwise"}  # which is refused


@pytest.mark.parametrize("block", [b for b in blocks(DOCS / "data_formats.md") if b.mark == "named"])
def test_the_example_of_a_format_that_has_to_be_named_is_read_under_its_name(block, tmp_path):
    (tmp_path / "rows.jsonl").write_text(block.text)
    (record,) = PairFiles(str(tmp_path / "rows.jsonl"), format=block.about).records()
    assert (record.chosen, record.rejected) == ("An apple.", "A chair.")


def test_every_command_that_is_shown_has_only_options_that_there_are():
    for path in PAGES:
        for block in blocks(path):
            for line in block.text.replace("\\\n", " ").splitlines() if block.language == "bash" else []:
                for name in re.findall(r"^lit-rlhf (\w+)", line.strip()):
                    assert name in (*commands.LIGHTNING, *commands.FUNCTIONS, "run", "COMMAND"), f"{path.name}: {line}"
                    if name in commands.FUNCTIONS:
                        assert_options_of(name, line)
                for file in re.findall(r"configs/[\w/.-]+\.yaml", line):
                    assert (ROOT / file).exists(), f"{path.name}: {file}"


def assert_options_of(command: str, line: str) -> None:
    known = inspect.signature(commands._function(command)).parameters
    for option in re.findall(r" --([\w.]+)", line.split(" -- ")[0]):
        assert option.split(".")[0] in {*known, "help", "config"}, f"{line}: --{option}"


def test_tables_of_claims_are_those_of_the_latest_results():
    """`python docs/hooks.py` writes them anew."""
    made = hooks()
    for path in DOCS.rglob("*.md"):
        text = path.read_text("utf-8")
        assert made.filled(text) == text, f"{path.name}: run python docs/hooks.py"
        for study, patterns in re.findall(r"<!-- claims (\w+) ([^>]*?) -->", text):
            for pattern in patterns.split():
                assert len(made.table(study, [pattern]).splitlines()) > 2, f"{path.name}: no claim {pattern}"
