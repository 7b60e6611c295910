"""Responses that an OpenAI-compatible server samples, and a check that it is the policy that speaks."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_rlhf.data.batches import Completions, PromptBatch, stack_sequences
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.tool_turns import request
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy.samplers import Sampler

Field = bool | int | float | str | list[Any] | dict[str, Any]
"""What JSON can hold. Spelled out, since under ``Any`` a config's text that happens to be JSON would be parsed."""


class ServedSampler(Sampler):
    """Samples through an OpenAI-compatible server, such as a vLLM cluster, SGLang or ``transformers serve``.

    Each response is a question of its own with a seed of its own, since not every server gives several at once; how
    many are asked at a time is the endpoint's ``concurrency``. The whole batch is one part of the store:
    ``data.val_batch_size`` times k should be a multiple of it. A resumed store equals an uninterrupted one where the
    server honours seeds; ``transformers serve`` does so for one question at a time only (``concurrency: 1``).

    Nobody can tell from here that the server runs the weights of the policy directory. With ``check``, the first
    questions are greedy: their answers must be what the policy would say, which finds another model, another
    template and a doubled beginning-of-sequence token, but not a small difference. The directory is read once, on the
    CPU, for that and for its fingerprint; nothing is sampled from it.

    Servers fill in what a question leaves out from the model's ``generation_config.json``, and so change the
    distribution: start vLLM with ``--generation-config vllm``, or say ``extra: {top_k: -1, repetition_penalty: 1.0}``.
    ``transformers serve`` takes the likeliest token unless told otherwise:
    ``extra: {generation_config: '{"do_sample": true, "top_k": 0}'}``. A response that ends just at the length
    limit counts as cut off there.

    Args:
        endpoint: The server, with or without ``/v1`` at the end of its address.
        model: Its name for the policy.
        prompt: ``ids`` sends token ids to ``/v1/completions`` (vLLM, SGLang): nothing can be added or read another way.
            ``text`` sends the rendered prompt (``transformers serve`` and others), less a beginning-of-sequence token
            that the tokenizer would add again. ``chat`` sends messages to ``/v1/chat/completions``, where the
            server's own template renders them.
        extra: Further fields of each question, for what a server needs beside the standard ones.
        check: Compare greedy answers with the policy before anything is sampled.

    Raises:
        DataError: When asked: if the server gives no answer or none that can be used, or the check fails.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        prompt: Literal["ids", "text", "chat"] = "ids",
        extra: dict[str, Field] | None = None,
        check: bool = True,
    ) -> None:
        super().__init__()
        self.endpoint, self.model, self.extra, self.check = endpoint, model, extra or {}, check
        self.prompt: Literal["ids", "text", "chat"] = prompt
        self.path = endpoint.openai("/chat/completions" if prompt == "chat" else "/completions")
        # Ids and text are the same tokens; a chat template is the server's own.
        self.key = {
            "engine": f"served {model}{' chat' if prompt == 'chat' else ''}",
            "extra": json.dumps(self.extra, sort_keys=True),
        }
        self._unchecked: list[PolicyNetwork] = []  # in a list, so that it is no module and stays on the CPU

    def load(self, policy: PolicyNetwork) -> None:
        """Keep the policy until it has been compared."""
        self._unchecked = [policy] if self.check else []

    def complete(self, batch: PromptBatch, renderer: Renderer, sampling: Sampling, k: int, stream: str) -> Completions:
        """Ask for ``k`` responses per prompt."""
        if self._unchecked:
            self._compare(self._unchecked[0], batch, renderer)
            self._unchecked = []
        prompts = self._prompts(batch, renderer)
        questions = [
            {**self._question(prompt, sampling), "seed": _seed(f"{stream} {row} {j}")}
            for row, prompt in enumerate(prompts)
            for j in range(k)
        ]
        completions = self._answers(questions, batch, renderer, k)
        _warn_if_alike(completions.texts, sampling, k, self.endpoint.url)
        return completions

    # ------------------------------------------------------------------ questions and answers

    def _prompts(self, batch: PromptBatch, renderer: Renderer) -> list[dict[str, Any]]:
        """What each prompt is sent as."""
        rows = [ids[:length] for ids, length in zip(batch.ids.tolist(), batch.length.tolist(), strict=True)]
        if self.prompt == "ids":
            return [{"prompt": ids} for ids in rows]
        if self.prompt == "text":
            texts = [prompt_as_text(ids, batch.records[row].prompt, renderer) for row, ids in enumerate(rows)]
            return [{"prompt": text} for text in texts]
        for record, ids in zip(batch.records, rows, strict=True):
            if ids != renderer.prompt_ids(record.prompt):
                hint = "Raise data.max_length, or send ids."
                raise DataError("the prompt was cut, and a chat has no place for half of one", record.location, hint)
        options = {"chat_template_kwargs": renderer.server_options} if renderer.server_options else {}
        return [{**request(record.prompt), **options} for record in batch.records]

    def _question(self, prompt: dict[str, Any], sampling: Sampling) -> dict[str, Any]:
        question = {
            "model": self.model,
            **prompt,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.top_k:
            question["top_k"] = sampling.top_k
        return question | self.extra

    def _answers(
        self, questions: Sequence[dict[str, Any]], batch: PromptBatch, renderer: Renderer, k: int
    ) -> Completions:
        """Ask, and bring the texts back into the renderer's ids."""
        answers = [self._read(answer) for answer in self.endpoint.post_all(self.path, questions)]
        texts = [renderer.answer_text(text) for text, _ in answers]
        truncated = [cut_off for _, cut_off in answers]
        rows = zip(batch.ids.tolist(), batch.length.tolist(), strict=True)
        prompts = [ids[:length] for ids, length in rows for _ in range(k)]
        sequences = stack_sequences(prompts, renderer.responses_ids(texts, truncated, as_sampled=True), renderer.pad_id)
        device = batch.ids.device
        records = [record for record in batch.records for _ in range(k)]
        return Completions(sequences.to(device), torch.tensor(truncated, device=device), records, texts)

    def _read(self, answer: Any) -> tuple[str, bool]:
        """The text of an answer, and whether it was cut off."""
        try:
            (choice,) = answer["choices"]
            text = choice["message"]["content"] if self.prompt == "chat" else choice["text"]
            reason = choice["finish_reason"]
        except (KeyError, TypeError, ValueError):
            text = reason = None
        if not isinstance(text, str):
            raise DataError(f"no completion in the answer {str(answer)[:300]!r}", self.endpoint.url + self.path)
        if reason not in ("stop", "length"):
            message = f"a response ended for the reason {reason!r}, neither by its end nor by the length limit"
            raise DataError(message, self.endpoint.url + self.path, "Look into the server's log.")
        return text, reason == "length"

    # ------------------------------------------------------------------ is it the same policy?

    def _compare(self, policy: PolicyNetwork, batch: PromptBatch, renderer: Renderer) -> None:
        """Ask greedily, and see whether the policy at hand would have said the same."""
        some = PromptBatch(batch.ids[:4].cpu(), batch.length[:4].cpu(), batch.records[:4])
        greedy = Sampling(max_new_tokens=16, temperature=0.0)
        questions = [self._question(prompt, greedy) for prompt in self._prompts(some, renderer)]
        behind = shortfall(policy, self._answers(questions, some, renderer, 1))
        # Rounding decides between near-equal tokens, and a text may come back as other tokens: some are allowed.
        strange = float((behind > 0.2).float().mean())
        if strange > 0.2:
            message = (
                f"{strange:.0%} of the tokens in greedy answers of {self.model!r} are not what the policy directory "
                "would say"
            )
            hint = (
                "Does the server run these weights with this template? Look at one answer; a quantised server may need "
                "check: false."
            )
            raise DataError(message, self.endpoint.url + self.path, hint)


def prompt_as_text(ids: list[int], prompt: tuple[Message, ...], renderer: Renderer) -> str:
    """A text that the tokenizer, with the special tokens that it adds by itself, turns into these very ids.

    Raises:
        DataError: If there is none.
    """
    for text in _candidates(ids, prompt, renderer):
        if renderer.tokenizer(text)["input_ids"] == ids:
            return text
    message = f"no text gives the tokens of the prompt {prompt[-1].content[:80]!r}: the tokenizer adds others"
    raise DataError(message, "ServedSampler, prompt", "Send ids, to a server that takes them.")


def _candidates(ids: list[int], prompt: tuple[Message, ...], renderer: Renderer) -> Iterator[str]:
    text, tokenizer = renderer.prompt_text(prompt), renderer.tokenizer
    yield text
    if tokenizer.bos_token:
        yield text.removeprefix(tokenizer.bos_token)
    yield tokenizer.decode(ids)  # of a prompt that was cut
    yield tokenizer.decode(ids, skip_special_tokens=True)


@torch.no_grad()
def shortfall(policy: PolicyNetwork, completions: Completions) -> Tensor:
    """By how much each token is less likely than the likeliest one, in nats, of all responses in a row ``(M,)``.

    The last token of a response that was cut off is left out: its text may be half a character.
    """
    policy.eval()
    sequences = completions.sequences
    logits = policy.model(input_ids=sequences.ids, use_cache=False).logits.float()  # (N, S, V)
    rows = torch.arange(len(sequences), device=logits.device)[:, None]
    logits = logits[rows, sequences.response_positions - 1]  # (N, T, V)
    behind = logits.amax(-1) - logits.gather(-1, sequences.responses[..., None]).squeeze(-1)  # (N, T)
    counted = sequences.response_length - completions.truncated.long()
    return behind[torch.arange(behind.shape[1], device=behind.device) < counted[:, None]]


def _seed(stream: str) -> int:
    """A seed of 31 bits, which every server takes."""
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:4], "big") >> 1


def _warn_if_alike(texts: list[str], sampling: Sampling, k: int, where: str) -> None:
    prompts = [set(texts[start : start + k]) for start in range(0, len(texts), k)]
    if sampling.temperature > 0 and k > 1 and all(len(distinct) == 1 for distinct in prompts):
        message = f"{where}: all {k} responses are alike for each of {len(prompts)} prompts: does the server sample?"
        rank_zero_warn(message + " See `extra` of ServedSampler.")
