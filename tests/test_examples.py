"""The examples in the package's docstrings, run as they stand."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import lit_rlhf
from lit_rlhf import functional

ROOT = Path(lit_rlhf.__file__).parent
NAMES = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_module_give_what_they_say(name):
    found = doctest.testmod(import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", functional.__all__)
def test_every_formula_has_an_example(name):
    text = getattr(functional, name).__doc__ or ""
    assert "    Examples:\n" in text, "the name of the section by which the reference shows code as code"
    examples = [line for line in text.splitlines() if ">>> " in line]
    assert any(f"{name}(" in line for line in examples)
