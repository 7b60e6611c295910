"""Referees decide which of two responses is the better one: a base class, and a language model behind a server."""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.progress import Progress
from lit_rlhf.data.records import Message
from lit_rlhf.evaluation.judge_texts import TEMPLATE, Letter, conversation, digest, fill, parse_letter


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one conversation."""

    prompt: tuple[Message, ...]
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a referee says of a pair.

    Attributes:
        outcome: 1 if the first response is the better one, −1 if the second is, 0 for a tie.
        answers: How many answers this rests on; 0 where nobody had to be asked.
        inconsistent: Whether both answers can be read and the verdict changed with the order of the responses.
        unparseable: How many answers say neither A nor B nor C.
        picked: How many answers name the response that was shown first, and how many the other.
    """

    outcome: int
    answers: int = 0
    inconsistent: bool = False
    unparseable: int = 0
    picked: tuple[int, int] = (0, 0)


class Referee(ABC):
    """Says which of two responses to a prompt is the better one. Construction is cheap and asks nobody.

    Attributes:
        name: For reports.
    """

    name: str = "referee"

    @abstractmethod
    def judge(self, pairs: Sequence[Pair], folder: Path) -> list[Verdict]:
        """Judge pairs, in their order.

        Args:
            pairs: What is to be judged.
            folder: Where answers may be kept, so that an interrupted comparison goes on from them.
        """


class LLMJudge(Referee):
    """A language model behind an OpenAI-compatible server decides; both orders of the two responses are asked.

    A response wins if both answers prefer it. If they differ, or one of them says neither A nor B nor C, it is a tie:
    models tend to favour a position. How often that happens is reported. Equal responses tie without a question.
    Answers are kept in ``judgements.jsonl`` and never paid for twice: they are known by the whole request, that is by
    template, model, prompt, both responses and further fields.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv 2306.05685), section 3.4.

    Args:
        endpoint: The server, with or without ``/v1`` at the end of its address; asked at ``/v1/chat/completions``.
        model: The server's name for the model.
        template: The question, with ``{prompt}``, ``{answer_a}`` and ``{answer_b}``, each of which becomes a text
            between two lines that hold a mark which is not in the text, and ``{mark}`` for the mark itself. The answer
            has to be A, B or C for a tie: alone, as ``[[A]]``, as the last line, or behind "Verdict:" or "Answer:".
            None takes a plain one that asks for the letter alone.
        request: Further fields of the request, such as ``{max_tokens: 2048}``; a null leaves a field out. Otherwise
            the temperature is 0 and an answer has at most 512 tokens.

    Raises:
        DataError: If the template lacks one of the texts.
    """

    def __init__(
        self, endpoint: Endpoint, model: str, template: str | None = None, request: dict[str, Any] | None = None
    ) -> None:
        self.endpoint, self.model, self.name = endpoint, model, f"LLMJudge({model})"
        self.template = template or TEMPLATE
        fields = {"temperature": 0.0, "max_tokens": 512, **(request or {})}
        self.request = {name: value for name, value in fields.items() if value is not None}
        absent = [name for name in ("{prompt}", "{answer_a}", "{answer_b}") if name not in self.template]
        if absent:
            raise DataError(f"lacks {' and '.join(absent)}", "referee, template", "The judge has to see all three.")

    def judge(self, pairs: Sequence[Pair], folder: Path) -> list[Verdict]:
        """Ask about pairs, both orders, what has not been answered before.

        Raises:
            DataError: If the server does not answer, or not one of its answers can be read.
        """
        kept = Answers(folder / "judgements.jsonl")
        different = [pair for pair in pairs if pair.first != pair.second]
        questions = {pair: (self._question(pair), self._question(_swapped(pair))) for pair in dict.fromkeys(different)}
        keys = {pair: (_key(one), _key(other)) for pair, (one, other) in questions.items()}
        asked = {_key(question): question for both in questions.values() for question in both}
        todo = {key: question for key, question in asked.items() if key not in kept.texts}
        if asked:
            rank_zero_info(f"{self.name}: {len(todo):,} questions; {len(asked) - len(todo):,} are answered already")
        self._ask(todo, kept)
        letters: dict[str, Letter | None] = {key: parse_letter(kept.texts[key]) for key in asked}
        verdicts = {pair: _verdict(letters[one], letters[other]) for pair, (one, other) in keys.items()}
        if asked and not any(letters.values()):
            hint = f"Does it follow the template, with enough max_tokens? Its answers are kept in {kept.path}"
            example = kept.texts[next(iter(asked))][:200]
            raise DataError(f"no answer says A, B or C; one of them is {example!r}", self.name, hint)
        return [verdicts.get(pair, Verdict(0)) for pair in pairs]

    def _question(self, pair: Pair) -> dict[str, Any]:
        content = fill(self.template, conversation(pair.prompt), pair.first, pair.second)
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **self.request}

    def _ask(self, questions: dict[str, dict[str, Any]], kept: "Answers") -> None:
        """Ask some at a time. What was answered before an error or an interruption is kept, in whatever order."""
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            futures = [pool.submit(self._ask_one, key, question, kept) for key, question in questions.items()]
            progress = Progress(self.name, "question", len(futures))
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    future.result()
                    progress.tell(number, last=number == len(futures))
            finally:
                for future in futures:
                    future.cancel()

    def _ask_one(self, key: str, question: dict[str, Any], kept: "Answers") -> None:
        path = self.endpoint.openai("/chat/completions")
        answer = self.endpoint.post(path, question)
        try:
            text = answer["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            message, hint = f"no chat completion: {str(answer)[:200]}", "Is this an OpenAI-compatible server?"
            raise DataError(message, self.endpoint.url + path, hint) from None
        kept.add(key, str(text), self.model, question["messages"][0]["content"])


class Answers:
    """Answers in a file of JSON lines, one added after another; a last line that was cut off is left out.

    Attributes:
        texts: The answers by key.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.texts: dict[str, str] = {}
        lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
                self.texts[row["key"]] = row["answer"]
            except (ValueError, KeyError, TypeError):
                continue
        self._cut_off = bool(lines and lines[-1])

    def add(self, key: str, answer: str, model: str, question: str) -> None:
        """Keep an answer; from any thread."""
        line = (
            json.dumps({"key": key, "model": model, "answer": answer, "question": question}, ensure_ascii=False) + "\n"
        )
        with self._lock:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + line if self._cut_off else line)
            self._cut_off = False
            self.texts[key] = answer


def _swapped(pair: Pair) -> Pair:
    return Pair(pair.prompt, pair.second, pair.first)


def _key(question: dict[str, Any]) -> str:
    return digest(json.dumps(question, sort_keys=True))


def _verdict(one: Letter | None, other: Letter | None) -> Verdict:
    """From the answers to a question and to the one with the two responses exchanged."""
    outcome = {"A": 1, "B": -1, "C": 0}
    letters = (one, other)
    unparseable, picked = letters.count(None), (letters.count("A"), letters.count("B"))
    if one is None or other is None:
        return Verdict(0, 2, False, unparseable, picked)
    agree = outcome[one] == -outcome[other]
    return Verdict(outcome[one] if agree else 0, 2, not agree, 0, picked)
