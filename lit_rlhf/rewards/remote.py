"""Rewards that a server computes."""

from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import torch
from torch import Tensor

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError, NotFiniteError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.tool_turns import request
from lit_rlhf.rewards.reward import SequenceReward

_LARGEST = torch.finfo(torch.float32).max  # beyond it, and for NaN, a comparison says no


class RemoteReward(SequenceReward):
    """Scores that a server gives, whatever computes them: a large reward model, a program, a judge.

    The server is sent ``{"inputs": [{"messages": [{"role": "user", "content": "…"}, …], "response": "…",
    "truncated": false}, …]}`` and answers ``{"scores": [0.7, …]}``, one finite number per input, in their order.
    ``truncated`` says that the response reached the length limit without ending. Scores are asked for as the endpoint
    allows: each attempt bounded in time, repeated while the server is busy, and an error in the end, never a zero.

    Args:
        endpoint: The server. How long a run waits for an answer at most follows from its ``timeout``, ``retries`` and
            ``wait``.
        name: What the server computes, such as a model and its version. It stands for the address in the fingerprint,
            so that the server may move; give another one whenever the scores change. None names the address.
        path: Put behind the address.
        scale: Factor on the scores.
        batch_size: Responses in one question; several questions are asked at a time.

    Raises:
        DataError: If ``batch_size`` is below 1, or, when asked, the server gives no answer or one that is not a
            finite number for each response; it names the address and the prompt.
    """

    _expected = '{"scores": [one number per input]}'

    def __init__(
        self,
        endpoint: Endpoint,
        name: str | None = None,
        path: str = "/score",
        scale: float = 1.0,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise DataError(f"is {batch_size}", f"{type(self).__name__}, batch_size", "Give 1 or more.")
        self.endpoint, self.name, self.path, self.scale, self.batch_size = endpoint, name, path, scale, batch_size

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Nothing to open; what was remembered is forgotten. The server is first asked when there is a response."""
        self._memory = None
        self.fingerprint = f"remote {self.name or self._address} x {self.scale:.6g}"
        return self

    def scores(self, completions: Completions) -> Tensor:
        """The server's scores ``(N,)``, scaled; asked again about the same rows, they come from memory."""
        return self.remembered(completions, self._score)

    def _score(self, completions: Completions) -> Tensor:
        return self.scale * torch.tensor(self._ask(completions), device=completions.sequences.ids.device)

    def _ask(self, completions: Completions, **fields: Any) -> list[float]:
        """The server's scores; ``fields`` are put into each question."""
        starts = range(0, len(completions), self.batch_size)
        parts = [completions[start : start + self.batch_size] for start in starts]
        answers = self.endpoint.post_all(self.path, [self._question(part) | fields for part in parts])
        return [score for part, answer in zip(parts, answers, strict=True) for score in self._checked(part, answer)]

    def _question(self, part: Completions) -> dict[str, Any]:
        """What the server is asked about some responses."""
        rows = zip(part.records, part.texts, part.truncated.tolist(), strict=True)
        return {
            "inputs": [
                {**request(record.prompt), "response": text, "truncated": truncated} for record, text, truncated in rows
            ]
        }

    def _read(self, answer: Any) -> Any:
        """The scores in an answer, in the order of the question; what is no list of numbers is refused later."""
        return answer.get("scores") if isinstance(answer, dict) else None

    def _checked(self, part: Completions, answer: Any) -> list[float]:
        scores = self._read(answer)
        if not isinstance(scores, list) or len(scores) != len(part):
            found = f"{len(scores)} scores" if isinstance(scores, list) else f"{str(answer)[:200]!r}"
            message = f"gave {found} for {len(part)} responses, the first to {_shown(part, 0)}"
            raise DataError(message, self._address, f"Expected {self._expected}.")
        for row, score in enumerate(scores):
            if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= _LARGEST:
                message = f"gave {str(score)[:80]} for {_shown(part, row)}"
                kind = NotFiniteError if isinstance(score, float) else DataError
                raise kind(message, self._address, "A score is a finite number.")
        return [float(score) for score in scores]

    @property
    def _address(self) -> str:
        """Where it asks, without what may be secret: user, password and query."""
        parts = urlsplit(self.endpoint.url + self.path)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _shown(part: Completions, row: int) -> str:
    return f"prompt {part.records[row].prompt[-1].content[:80]!r}, response {part.texts[row][:80]!r}"
