"""One way from text to token ids, shared by every stage: `Renderer`.

A prompt and a response tokenised together in one stage and apart in another give different ids, and with
them different scores. So there is one function for each, and nobody else calls the tokenizer.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.marks import Marks
from lit_rlhf.data.records import Message
from lit_rlhf.data.rows import check_folder, near_names

_BOS = "{{ bos_token or '' }}"
TEMPLATES: dict[str, str] = {
    "dialogue": _BOS
    + "{% for message in messages %}"
    + "{{ {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'}[message.role] }}: {{ message.content }}\n\n"
    + "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
    "plain": _BOS + "{% for message in messages %}{{ ' ' if loop.index > 1 else '' }}{{ message.content }}{% endfor %}",
}
"""Named chat templates for tokenizers that bring none: a transcript, or the bare text for a raw language model."""

# Some templates print today's date, unless they are given one, or from a function; a score must not depend on the day.
_DATE = datetime(2024, 7, 26)
_PINNED = {"date_string": "26 Jul 2024"}
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.+?)\1\s*\)""")
_PROBE = "\u241fPROBE\u241f"


class Renderer:
    """Turns (prompt, response) into token ids, and response ids back into text.

    Only the template writes the tokens that begin and end turns: where a message or a response contains their text,
    that is spelled out. A template whose marks are plain words (``dialogue``) can be imitated all the same.

    Args:
        tokenizer: A transformers tokenizer. Its chat template is replaced when ``template`` is given.
        template: A name in `TEMPLATES`, or a Jinja chat template; None takes the tokenizer's own, and
            ``dialogue`` where it has none.

    An encoder's tokenizer (BERT's) has no end-of-sequence token: there, the separator ends a response and the
    classification token begins the text. Both are written into the tokenizer, and so travel with an exported model.

    Raises:
        DataError: If the tokenizer has neither an end-of-sequence token nor a separator, or the template is neither
            a name nor Jinja. Later, if the template refuses a conversation.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
            tokenizer.eos_token = tokenizer.sep_token
            tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
        if tokenizer.eos_token_id is None:
            hint = "Give one: `eos_token` in the model's tokenizer_config.json."
            raise DataError("has no end-of-sequence token, so no response can end", "tokenizer", hint)
        if template is None and tokenizer.chat_template is None:
            template = "dialogue"
        if template is not None:
            if template not in TEMPLATES and "{" not in template:  # every prompt would read alike
                hint = f"Named ones are {', '.join(TEMPLATES)}; a Jinja text has its parts in braces."
                raise DataError(f"no template is called {template!r}", "option data.template", hint)
            tokenizer.chat_template = TEMPLATES.get(template, template)
        self.tokenizer = tokenizer
        self.eos_id: int = tokenizer.eos_token_id

    @classmethod
    def load(cls, path: str, template: str | None = None) -> "Renderer":
        """Load the tokenizer of a Hugging Face directory or Hub id."""
        from transformers import AutoTokenizer

        check_folder(path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except Exception as error:  # damaged files raise anything, tokenizers' own bare Exception among it
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            hint = near_names(path) if not os.path.exists(path) else ""
            hint = hint or "Give a Hugging Face directory."
            raise DataError(f"no tokenizer could be loaded: {reason}", path, hint) from None
        return cls(tokenizer, template)

    def warning(self, texts: Iterable[list[int]]) -> str:
        """What to tell where more than a hundredth of the tokens are unknown to the tokenizer; else nothing."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == self.eos_id:  # some bring one token for both
            return ""
        counted = [(ids.count(unknown), len(ids)) for ids in texts]
        share = sum(count for count, _ in counted) / max(1, sum(length for _, length in counted))
        said = f"warning: {share:.0%} of the tokens are unknown to the tokenizer: those words are lost on the model."
        return said if share > 0.01 else ""

    @property
    def pad_id(self) -> int:
        """An id to fill padding with. It never matters which: rows are read by length, never by id."""
        pad = self.tokenizer.pad_token_id
        return self.eos_id if pad is None else pad

    def prompt_text(self, prompt: tuple[Message, ...]) -> str:
        """The conversation as the template writes it, ready for the assistant's next words."""
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        return self._template(messages, add_generation_prompt=True)

    def prompts_ids(self, prompts: Sequence[tuple[Message, ...]]) -> list[list[int]]:
        """Token ids of rendered conversations, generation prompt included.

        Special-token text inside a message is spelled out, as in a response.
        """
        rows = self._encode([self.prompt_text(prompt) for prompt in prompts])
        for index, prompt in enumerate(prompts):
            if self._marks.are_in(prompt):
                rows[index] = self._marks.prompt_ids(prompt, self.prompt_text)
        return rows

    def prompt_ids(self, prompt: tuple[Message, ...]) -> list[int]:
        """Token ids of one rendered conversation."""
        return self.prompts_ids([prompt])[0]

    def responses_ids(self, texts: Sequence[str], truncated: Sequence[bool] | None = None) -> list[list[int]]:
        """Token ids of responses; finished ones with their end-of-sequence.

        Special-token text inside a response is spelled out, never turned into the token itself, so a
        response can neither end early nor open a turn.

        Args:
            texts: The responses.
            truncated: Which of them were cut off and so do not end; by default none. One without
                any token ends all the same.
        """
        encoded = self._encode([self._response_prefix + text for text in texts], split_special_tokens=True)
        rows = [self._marks.spelled_out(row) for row in encoded]
        cut_off = truncated or [False] * len(rows)
        return [row if row and cut else [*row, self.eos_id] for row, cut in zip(rows, cut_off, strict=True)]

    def response_ids(self, text: str) -> list[int]:
        """Token ids of one finished response."""
        return self.responses_ids([text])[0]

    def response_text(self, ids: list[int]) -> str:
        """The text of sampled response ids, without special tokens."""
        return self._decode(ids).removeprefix(self._decoded_prefix)

    def answer_text(self, text: str) -> str:
        """A response that another program decoded, as `response_text` gives it.

        Others leave what the template writes before a response, and the blank that SentencePiece puts there.
        """
        drops_blank = self._writes_blank or self._decode(self._encode([" a"])[0]) == "a"
        return text.removeprefix(self._response_prefix or (" " if drops_blank else ""))

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text that no template surrounds."""
        return self._encode([text])[0]

    @cached_property
    def generation_ids(self) -> list[int]:
        """Token ids that open an assistant's turn; the end-of-sequence where the template writes nothing there."""
        question = [{"role": "user", "content": "Hello"}]
        closed, opened = (self._template(question, add_generation_prompt=add) for add in (False, True))
        text = opened[len(closed) :] if opened.startswith(closed) else ""
        return self.plain_ids(text) or [self.eos_id]

    @cached_property
    def fingerprint(self) -> str:
        """Names the template and the vocabulary: equal fingerprints give equal ids for equal texts."""
        # Reward models are given a padding token of their own; it changes no id of a text.
        tokenizer = self.tokenizer
        own_pad = {tokenizer.pad_token} - {None, tokenizer.eos_token}
        probe = "The quick brown fox (1984) said: 'it is\n\n good, isn’t it?' ÄÖÜ 北京 🙂"
        facts = [
            self.tokenizer.chat_template,
            len(tokenizer) - len(own_pad),
            [token for token in tokenizer.all_special_tokens if token not in own_pad],
            self.prompt_ids((Message("user", probe),)),
            self.response_ids(probe),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                messages,
                chat_template=self._timeless_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **_PINNED,
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            roles = ", ".join(message["role"] for message in messages[:10])
            message = f"the chat template cannot write a conversation of {roles}: {error or type(error).__name__}"
            raise DataError(message, "chat template", "Mend it, or name another one: data.template.") from None

    @cached_property
    def _timeless_template(self) -> str:
        return _TODAY.sub(lambda call: repr(_DATE.strftime(call[2])), self.tokenizer.get_chat_template())

    def _encode(self, texts: list[str], **options: bool) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, **options)["input_ids"] if texts else []

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    @cached_property
    def _marks(self) -> Marks:
        return Marks(self.tokenizer, self._probes())

    def _probes(self) -> Iterator[str]:
        """Short conversations, as far as the template takes them."""
        turns = [{"role": role, "content": "a"} for role in ("system", "user", "assistant", "user")]
        for conversation in (turns, turns[1:], turns[1:2]):
            with suppress(DataError):
                yield self._template(conversation, add_generation_prompt=False)

    @cached_property
    def _response_prefix(self) -> str:
        """What the template puts between the generation prompt and the response: usually nothing or a blank."""
        question = [{"role": "user", "content": "Hello"}]
        opened = self._template(question, add_generation_prompt=True)
        answered = self._template([*question, {"role": "assistant", "content": _PROBE}], add_generation_prompt=False)
        written = answered.startswith(opened) and _PROBE in answered
        prefix = answered[len(opened) : answered.index(_PROBE)] if written else ""
        return "" if prefix == " " and self._writes_blank else prefix

    @cached_property
    def _writes_blank(self) -> bool:
        """Tokenizers of the SentencePiece family write the blank themselves; a second one is a token of its own."""
        return len(self._encode([" a"])[0]) > len(self._encode(["a"])[0])

    @cached_property
    def _decoded_prefix(self) -> str:
        """What decoding leaves of that prefix: tokenizers of the SentencePiece family drop a first blank themselves."""
        return "" if self._decode(self._encode([self._response_prefix + "a"])[0]) == "a" else self._response_prefix


def cut_into_tokens(ids: list[int], renderer: Renderer) -> list[str]:
    """The text that each token adds to its response; the entries join to that response.

    The whole text is cut where the text of the first t tokens stops agreeing with it, for every t.
    """
    whole = renderer.response_text(ids)
    agreed = [_agreed(whole, renderer.response_text(ids[:t])) for t in range(len(ids))]
    cuts = accumulate([*agreed, len(whole)], max)
    return [whole[start:stop] for start, stop in pairwise(cuts)]


def _agreed(one: str, other: str) -> int:
    """Number of characters that two texts begin with alike."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
