"""The table of docs/templates.md is what the families' templates give here, token by token."""

from pathlib import Path

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.templates import write
from lit_rlhf.data.tool_turns import as_dicts
from tests.data.families import FAMILIES, Family

PAGE = Path(__file__).parents[2] / "docs" / "templates.md"
PROMPTS = [
    (Message("user", "How are you?"),),
    (Message("user", "How are you?"), Message("assistant", "I am fine."), Message("user", "Good. And the fox?")),
    (Message("system", "Be quick."), Message("user", "How are you?")),
]
ANSWERS = [
    "I am fine",
    "fine",
    "1. One\n\n2. Two",
    "Good morning!  Thank  you.",
    "- a\n- b\n",
    "Ä 北京 🙂",
    "?",
    "A\tb",
]


def row(name: str, family: Family) -> str:
    """One family's line of the table."""
    renderer = Renderer(family.tokenizer())
    tokens = renderer.tokenizer.convert_ids_to_tokens(renderer.closing_ids)
    place = tokens.index(family.end)
    after = renderer.tokenizer.decode(renderer.closing_ids[place + 1 :])
    equal = compared = 0
    system = "own turn"
    for prompt in PROMPTS:
        for answer in ANSWERS:
            try:
                text = write(renderer.tokenizer, as_dicts((*prompt, Message("assistant", answer))), False)
            except DataError:
                system = "before the user's first words"
                continue
            if prompt[0].role == "system" and "Be quick." not in text:
                system = "before the user's first words"
                continue
            compared += 1
            whole = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
            equal += renderer.prompt_ids(prompt) + renderer.response_ids(answer) == whole
    end = family.end.replace("|", "\\|")
    return f"| {name} | `{end}` | {shown(after)} | {system} | {equal} of {compared} |"


def shown(text: str) -> str:
    return f"`{text}`".replace("\n", "\\n").replace("|", "\\|") if text else "–"


def test_the_table_is_measured():
    page = PAGE.read_text("utf-8")
    missing = [line for line in (row(name, family) for name, family in FAMILIES.items()) if line not in page]
    assert not missing, "\n".join(missing)
