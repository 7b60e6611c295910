"""One way from text to token ids, shared by every stage: `Renderer`.

A prompt and a response tokenised together in one stage and apart in another give different ids, and with
them different scores. So there is one function for each, and nobody else calls the tokenizer.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch

from lit_rlhf.data import templates
from lit_rlhf.data.adapter_folders import tokenizer_folder
from lit_rlhf.data.answers import Answers, encode
from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.marks import Marks
from lit_rlhf.data.records import Message, ToolCall
from lit_rlhf.data.tokenizer_folders import open_tokenizer
from lit_rlhf.data.tool_turns import as_dicts, check_written, tools_of
from lit_rlhf.data.turns import PROBE, Turn, common_length

Prompt = tuple[Message, ...]
TEMPLATES = templates.TEMPLATES


class Renderer:
    """Turns (prompt, response) into token ids, and response ids back into text.

    Prompt ids and response ids together are those of the whole conversation as the chat template writes it, the
    answer's turn ended: a response's ids hold all that the template writes after an answer. A prompt goes up to the
    answer, so it holds what the template puts before one (an empty think block, say).

    Only the template writes the tokens that begin and end turns: where a message or a response contains their text,
    that is spelled out. A template whose marks are plain words (``dialogue``) can be imitated all the same.

    Args:
        tokenizer: A transformers tokenizer. Its chat template is replaced when ``template`` is given.
        template: A name in `TEMPLATES`, or a Jinja chat template; None takes the tokenizer's own, and
            ``dialogue`` where it has none.
        ends: Further ids at which generation stops, such as those of a model's ``generation_config``.
        thinking: Let the policy reason before it answers: prompts end as the template's generation prompt does.
        exact: Read as the tokenizer's template writes, even if that ends no turn: for models that others trained.

    A template that ends an answer by no special token is made to end it by the end-of-sequence token, unless
    ``exact``. An encoder's tokenizer (BERT's) has none: there, the separator ends a response and the classification
    token begins the text. All of it is written into the tokenizer, and so travels with an exported model.

    Attributes:
        brings_template: Whether the tokenizer has a chat template of its own.
        end_ids: Ids at which generation stops; the first is the one by which the template ends an answer.

    Raises:
        DataError: If the tokenizer has neither an end-of-sequence token nor a separator, or the template is neither
            a name nor Jinja. Later, if the template refuses a conversation.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        ends: Sequence[int] = (),
        thinking: bool = False,
        exact: bool = False,
    ) -> None:
        if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
            tokenizer.eos_token = tokenizer.sep_token
            tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
        if tokenizer.eos_token_id is None:
            hint = "Give one: `eos_token` in the model's tokenizer_config.json."
            raise DataError("has no end-of-sequence token, so no response can end", "tokenizer", hint)
        self.brings_template = tokenizer.chat_template is not None
        tokenizer.chat_template = templates.choose(tokenizer, template)
        self.tokenizer, self.thinking = tokenizer, thinking
        self._options = {
            "path": str(tokenizer.name_or_path),
            "template": template,
            "thinking": thinking,
            "exact": exact,
        }
        self._answers = self._read_template()
        if self._answers.end is None and not exact:
            tokenizer.chat_template = templates.ended(tokenizer.chat_template)
            self._answers = self._read_template()
        named = [token for token in self.closing_ids if self.is_special(token)]
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys([*named, int(tokenizer.eos_token_id), *ends]))

    @classmethod
    def load(cls, path: str, template: str | None = None, thinking: bool = False, exact: bool = False) -> "Renderer":
        """Load the tokenizer of a Hugging Face directory or Hub id, and what its generation config ends at."""
        folder = tokenizer_folder(path)
        renderer = cls(open_tokenizer(folder), template, _declared_ends(folder), thinking, exact)
        renderer._options = {"path": path, "template": template, "thinking": thinking, "exact": exact}
        return renderer

    def described(self) -> dict[str, Any]:
        """The arguments of `load` that give this renderer again, as far as they are known."""
        return self._options

    def _read_template(self) -> Answers:
        """Find out what the template writes around an answer, and how that is tokenised."""
        with suppress(DataError):
            return Answers(self.tokenizer, Turn.of(self._written))
        return Answers(self.tokenizer, None)

    def end_by_eos(self) -> None:
        """End responses by the end-of-sequence token alone, as models of earlier versions were trained to read them."""
        self.end_ids = (int(self.tokenizer.eos_token_id),)
        self._answers.end_by(self.end_ids[0])

    # ------------------------------------------------------------------ facts

    @property
    def closing_ids(self) -> list[int]:
        """What the template writes after an answer; the first special token of it ends the answer."""
        return self._answers.closing_ids

    @property
    def eos_id(self) -> int:
        """The id by which an answer ends."""
        return self.end_ids[0]

    @property
    def pad_id(self) -> int:
        """An id to fill padding with. It never matters which: rows are read by length, never by id."""
        pad = self.tokenizer.pad_token_id
        return self.eos_id if pad is None else pad

    @property
    def server_options(self) -> dict[str, bool]:
        """What a server that renders messages itself must tell its template, to write prompts as they are here."""
        turn = self._answers.turn
        at_once = turn is not None and turn.answers_at_once and not self.thinking
        return {"enable_thinking": False} if at_once and "enable_thinking" in self.tokenizer.chat_template else {}

    def is_special(self, token: int) -> bool:
        """Whether a token is special, or was added to the vocabulary."""
        return token in self._answers.special

    def warning(self, texts: Iterable[list[int]]) -> str:
        """What to tell where more than a hundredth of the tokens are unknown to the tokenizer; else nothing."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown in self.end_ids:  # some bring one token for both
            return ""
        counted = [(ids.count(unknown), len(ids)) for ids in texts]
        share = sum(count for count, _ in counted) / max(1, sum(length for _, length in counted))
        said = f"warning: {share:.0%} of the tokens are unknown to the tokenizer: those words are lost on the model."
        return said if share > 0.01 else ""

    @cached_property
    def generation_ids(self) -> list[int]:
        """Token ids that open an assistant's turn; the end-of-sequence where the template writes nothing there."""
        question = [{"role": "user", "content": "Hello"}]
        closed, opened = (self._written(question, add) for add in (False, True))
        text = opened[len(closed) :] if opened.startswith(closed) else ""
        return self.plain_ids(text) or [self.eos_id]

    @cached_property
    def fingerprint(self) -> str:
        """Names the template and the vocabulary: equal fingerprints give equal ids for equal texts."""
        # Reward models are given a padding token of their own; it changes no id of a text.
        tokenizer = self.tokenizer
        own_pad = {tokenizer.pad_token} - {None, tokenizer.eos_token}
        probe = "The quick brown fox (1984) said: 'it is\n\n good, isn’t it?' ÄÖÜ 北京 🙂"
        asked, (answer,) = self.encoded((Message("user", probe),), [probe])
        facts = [
            self.tokenizer.chat_template,
            len(tokenizer) - len(own_pad),
            [token for token in tokenizer.all_special_tokens if token not in own_pad],
            asked + answer,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    # ------------------------------------------------------------------ from text to ids

    def prompt_text(self, prompt: Prompt) -> str:
        """The conversation as the template writes it, up to the assistant's next words."""
        fitted, turn = self._fitted(prompt), self._answers.turn
        if turn is None or (self.thinking and turn.answers_at_once):
            return self._conversation(fitted, True)
        text = self._conversation((*fitted, Message("assistant", PROBE)), False)
        place = text.rfind(PROBE)
        if place < 0 or text[place + len(PROBE) :] != turn.closing:
            message = f"the chat template ends this conversation by {text[place:]!r}, others by {turn.closing!r}"
            raise DataError(message, "chat template", "Mend it, or name another one: data.template.")
        return text[:place].removesuffix(turn.blank)

    def prompts_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of rendered conversations, up to the assistant's next words.

        Special-token text inside a message is spelled out, as in a response.
        """
        rows = self._encode([self.prompt_text(prompt) for prompt in prompts])
        for index, prompt in enumerate(prompts):
            if self._marks.are_in(prompt):
                rows[index] = self._marks.prompt_ids(prompt, self.prompt_text)
        return rows

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of one rendered conversation."""
        return self.prompts_ids([prompt])[0]

    def responses_ids(
        self, texts: Sequence[str], truncated: Sequence[bool] | None = None, as_sampled: bool = False
    ) -> list[list[int]]:
        """Token ids of responses; finished ones with all that the template writes after an answer.

        Special-token text inside a response is spelled out, never turned into the token itself, so a
        response can neither end early nor open a turn.

        Args:
            texts: The responses.
            truncated: Which of them were cut off and so do not end; by default none. One without
                any token ends all the same.
            as_sampled: Stop at the token that ends the answer, as generation does.
        """
        rows = self._answers.ids(texts, self._marks)
        closing = self.closing_ids or [self.eos_id]
        if as_sampled and self._answers.end is not None:
            closing = closing[: self._answers.end + 1]
        cut_off = truncated or [False] * len(rows)
        return [ids if ids and cut else [*ids, *closing] for ids, cut in zip(rows, cut_off, strict=True)]

    def response_ids(self, text: str) -> list[int]:
        """Token ids of one finished response."""
        return self.responses_ids([text])[0]

    def encoded(
        self, prompt: Prompt, responses: Sequence[str], truncated: Sequence[bool] | None = None
    ) -> tuple[list[int], list[list[int]]]:
        """Token ids of a prompt, and of its responses, which may bring their reasoning with them.

        A template that takes reasoning apart writes it in one place only: there, the prompt ends where all of the
        conversations still agree.
        """
        if not self.reasons(responses):
            return self.prompt_ids(prompt), self.responses_ids(responses, truncated)
        return self._as_a_whole(prompt, responses, truncated or [False] * len(responses))

    def reasons(self, responses: Sequence[str]) -> bool:
        """Whether the template itself has to write one of the responses: it shows reasoning, or calls tools."""
        if any(isinstance(text, ToolCall) for text in responses):
            return True
        if self._answers.turn is None or not self._answers.turn.parses:
            return False
        return self.thinking or any("<think>" in text or "</think>" in text for text in responses)

    def rows_ids(
        self, prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool] | None = None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of prompts and of one response to each."""
        cut_off = truncated or [False] * len(responses)
        asked, answers = self.prompts_ids(prompts), self.responses_ids(responses, cut_off)
        for row, response in enumerate(responses):
            if self.reasons([response]):
                asked[row], (answers[row],) = self.encoded(prompts[row], [response], [cut_off[row]])
        return asked, answers

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text that no template surrounds."""
        return self._encode([text])[0]

    def closed(self, sequences: Sequences, truncated: torch.Tensor) -> Sequences:
        """Sampled rows as the template would end them, which is how reward models read them.

        Generation stops at the end of the answer; the template may write more, such as a line break.

        Args:
            sequences: Prompts with sampled responses ``(N, S)``.
            truncated: Responses that did not end ``(N,)``; they are left as they are.
        """
        end = self.closing_ids[self._answers.end or 0 :] or [self.eos_id]
        last = sequences.ids.gather(1, sequences.length[:, None] - 1).squeeze(1)
        if len(end) == 1 and bool(((last == end[0]) | truncated).all()):
            return sequences
        lengths, starts = sequences.length.tolist(), sequences.prompt_length.tolist()
        rows = [ids[:length] for ids, length in zip(sequences.ids.tolist(), lengths, strict=True)]
        rows = [ids if cut else ids[:-1] + end for ids, cut in zip(rows, truncated.tolist(), strict=True)]
        parts = [(ids[:start], ids[start:]) for ids, start in zip(rows, starts, strict=True)]
        closed = stack_sequences([part[0] for part in parts], [part[1] for part in parts], self.pad_id)
        return closed.to(sequences.ids.device)

    # ------------------------------------------------------------------ from ids to text

    def response_text(self, ids: list[int]) -> str:
        """The text of response ids up to their end, without special tokens."""
        return self._answers.text(ids, self.end_ids)

    def answer_text(self, text: str) -> str:
        """A response that another program decoded, as `response_text` gives it.

        Others leave what the template writes before a response, and the blank that SentencePiece puts there.
        """
        return self._answers.text_of_others(text)

    # ------------------------------------------------------------------ inside

    def _written(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return templates.write(self.tokenizer, messages, add_generation_prompt)

    def _conversation(self, turns: Prompt, add_generation_prompt: bool) -> str:
        """A conversation as the template writes it, with all that is said of tools in it."""
        tools = tools_of(turns)
        text = templates.write(self.tokenizer, as_dicts(turns), add_generation_prompt, tools)
        check_written(turns, text, str(self.tokenizer.name_or_path or type(self.tokenizer).__name__))
        return text

    def _fitted(self, prompt: Prompt) -> Prompt:
        return templates.folded(prompt) if self._folds else prompt

    @cached_property
    def _folds(self) -> bool:
        """Whether the template refuses a system turn, or leaves it out."""
        turns = [{"role": "system", "content": PROBE}, {"role": "user", "content": "a"}]
        try:
            return PROBE not in self._written(turns, True)
        except DataError:
            return True

    def _as_a_whole(
        self, prompt: Prompt, responses: Sequence[str], truncated: Sequence[bool]
    ) -> tuple[list[int], list[list[int]]]:
        asked = self._fitted(prompt)
        generation = self._written_ids(asked, True)
        said = [text.message if isinstance(text, ToolCall) else Message("assistant", text) for text in responses]
        rows = [self._written_ids((*asked, message), False) for message in said]
        shared, n = common_length(generation, *rows), len(self.closing_ids)
        ended = [ids[: len(ids) - n] if cut else ids for ids, cut in zip(rows, truncated, strict=True)]
        return generation[:shared], [ids[shared:] for ids in ended]

    def _written_ids(self, conversation: Prompt, add_generation_prompt: bool) -> list[int]:
        """Token ids of a conversation as the template writes it."""

        def render(turns: Prompt) -> str:
            return self._conversation(turns, add_generation_prompt)

        said = self._marks.are_in(conversation)
        return self._marks.prompt_ids(conversation, render) if said else self.plain_ids(render(conversation))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return encode(self.tokenizer, texts)

    @cached_property
    def _marks(self) -> Marks:
        return Marks(self.tokenizer, self._probes())

    def _probes(self) -> Iterator[str]:
        """Short conversations, as far as the template takes them."""
        turns = [{"role": role, "content": "a"} for role in ("system", "user", "assistant", "user")]
        for conversation in (turns, turns[1:], turns[1:2]):
            with suppress(DataError):
                yield self._written(conversation, False)


def _declared_ends(path: str) -> list[int]:
    """End-of-sequence ids in a model's generation config; none where there is no such file."""
    from transformers import GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except Exception:  # no file, no network, or a damaged one, which loading the model reports
        return []
    return [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]


def cut_into_tokens(ids: list[int], renderer: Renderer) -> list[str]:
    """The text that each token adds to its response; the entries join to that response.

    The whole text is cut where the text of the first t tokens stops agreeing with it, for every t.
    """
    whole = renderer.response_text(ids)
    agreed = [common_length(whole, renderer.response_text(ids[:t])) for t in range(len(ids))]
    cuts = accumulate([*agreed, len(whole)], max)
    return [whole[start:stop] for start, stop in pairwise(cuts)]
