"""Chat templates: named ones for tokenizers that bring none, and how any template is called."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.tool_turns import head
from lit_rlhf.data.turns import PROBE

_BOS = "{{ bos_token or '' }}"
_ROLE = "{{ {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'}[message.role] }}: "
_FOR, _TEXT = "{% for message in messages %}", "{{ message.content }}"
_END = "{% if loop.last and message.role == 'assistant' and not add_generation_prompt %}{{ eos_token }}"
_OPEN = "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
_GAP = "{{ ' ' if loop.index > 1 else '' }}"

TEMPLATES: dict[str, str] = {
    "dialogue": f"{_BOS}{_FOR}{_ROLE}{_TEXT}{_END}{{% else %}}{{{{ '\\n\\n' }}}}{{% endif %}}{_OPEN}",
    "plain": f"{_BOS}{_FOR}{_GAP}{_TEXT}{_END}{{% endif %}}{{% endfor %}}",
}
"""Named chat templates for tokenizers that bring none: a transcript, or the bare text for a raw language model."""

_FORMER = {
    f"{_BOS}{_FOR}{_ROLE}{_TEXT}\n\n{_OPEN}": "dialogue",
    f"{_BOS}{_FOR}{_GAP}{_TEXT}{{% endfor %}}": "plain",
}  # as earlier versions wrote them into tokenizers: they left out the end of an answer

_ENDS_WITH_EOS = "{% if not add_generation_prompt and messages[-1].role == 'assistant' %}{{ eos_token }}{% endif %}"

# Some templates print today's date, unless they are given one, or from a function; a score must not depend on the day.
_DATE = datetime(2024, 7, 26)
_PINNED = {"date_string": "26 Jul 2024"}
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.+?)\1\s*\)""")


def choose(tokenizer: Any, template: str | None) -> str:
    """The template to use: a named one, a Jinja text, or None for the tokenizer's own; on any day the same.

    Raises:
        DataError: If the template is neither a name nor Jinja.
    """
    if template is None:
        own = tokenizer.get_chat_template() if tokenizer.chat_template is not None else "dialogue"
        template = _FORMER.get(own, own)
    if template not in TEMPLATES and "{" not in template:  # every prompt would read alike
        hint = f"Named ones are {', '.join(TEMPLATES)}; a Jinja text has its parts in braces."
        raise DataError(f"no template is called {template!r}", "option data.template", hint)
    return _TODAY.sub(lambda call: repr(_DATE.strftime(call[2])), TEMPLATES.get(template, template))


def ended(template: str) -> str:
    """A template that ends no turn, made to end an answer by the end-of-sequence token."""
    return template + _ENDS_WITH_EOS


def write(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    add_generation_prompt: bool,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """A conversation as the tokenizer's template writes it.

    Raises:
        DataError: If the template refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **_PINNED,
        )
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        roles = ", ".join(message["role"] for message in messages[:10] if message["content"] != PROBE)
        message = f"the chat template cannot write a conversation of {roles}: {error or type(error).__name__}"
        raise DataError(message, "chat template", "Mend it, or name another one: data.template.") from None


def folded(prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation whose system turn stands before the first user's words, for templates that know no such turn."""
    before = head(prompt)
    if not before or before[-1].role != "system" or len(prompt) == len(before) or prompt[len(before)].role != "user":
        return prompt
    system, first = before[-1], prompt[len(before)]
    return (*before[:-1], Message("user", f"{system.content}\n\n{first.content}"), *prompt[len(before) + 1 :])
