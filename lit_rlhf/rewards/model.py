"""A trained reward model, asked about texts from Python."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lit_rlhf.data import fields
from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import check_embeddings, dtype_of, positions
from lit_rlhf.networks.heads import Attributes
from lit_rlhf.networks.reward_network import RewardNetwork

Prompt = str | Sequence[Message] | Sequence[Mapping[str, str]]
"""One prompt: a text, or the messages of a conversation that ends with the user's turn."""


class RewardModel(nn.Module):
    """A scalar reward model with the tokenizer and template that it was trained with.

    ``RewardModel.load(path).score(prompts, responses)``; ``.to("cuda")`` moves it as any module. Scores are the
    model's own, without the scale that `ScalarReward` puts on them.

    Args:
        network: The body with its head.
        renderer: The model's own way from text to ids.
        batch_size: Rows in one forward pass; rows of similar length go together.
        name: What errors call the model: its directory.
    """

    def __init__(self, network: RewardNetwork, renderer: Renderer, batch_size: int = 64, name: str = "") -> None:
        super().__init__()
        if batch_size < 1:
            raise DataError(f"is {batch_size}", "RewardModel, batch_size", "Give 1 or more.")
        self.network, self.renderer = network.requires_grad_(False).eval(), renderer
        self.batch_size, self.name = batch_size, name
        self._config = network.model.config  # on a policy's trunk the network has the policy's

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        batch_size: int = 64,
        attributes: Attributes | None = None,
        dtype: str | torch.dtype = "float32",
        tokenizer: str | None = None,
    ) -> Self:
        """Load a Hugging Face directory or Hub id of a sequence-classification model.

        Args:
            path: The directory or id.
            batch_size: Rows in one forward pass.
            attributes: Which of its numbers is the score, where its head gives several: one by its name or position
                (``"helpfulness"``, 0), or a weighted sum (``{"helpfulness": 0.7, "verbosity": -0.3}``).
            dtype: What the body computes in: ``float32``, ``bfloat16`` or ``float16``; the head's last layer computes
                in fp32.
            tokenizer: Directory or Hub id of the tokenizer, where the model brings none.

        Raises:
            DataError: If nothing can be loaded from there, its head gives several numbers and none was chosen, or there
                is no head: a language model would be given a random one.
        """
        path = os.fspath(path)
        network = RewardNetwork(path, 1.0, attributes, dtype_of(dtype), option="attributes", trained=True)
        renderer = _renderer(network, tokenizer or path)
        check_embeddings(network.model, renderer, path)
        return cls(network, renderer, batch_size, path)

    @property
    def calibration(self) -> dict[str, Any] | None:
        """``mean``, ``std``, ``n`` and ``data`` of its scores on its validation pairs; None where never measured."""
        return getattr(self._config, "calibration", None) or None

    @property
    def positions(self) -> int | None:
        """Most tokens of prompt and response together; None where the architecture sets no limit."""
        return positions(self.network.model)

    # ------------------------------------------------------------------ texts

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """Scores of whole responses, end-of-sequence included; an empty response is that token alone.

        Args:
            prompts: Texts (one user message each) or conversations, one for each response.
            responses: The responses.

        Raises:
            DataError: If the two lists differ in length, or a text is longer than the model has positions for.
        """
        return self._ask_texts(prompts, responses, self.network).tolist()

    def features(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """What the head reads, as `score` ``(N, H)``: the final hidden state of each response's last token."""
        if not len(prompts) and not len(responses):
            return self.network.head.weight.new_zeros(0, self.network.head.in_features)
        return self._ask_texts(prompts, responses, self.network.features)

    def lengths(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[int]:
        """Tokens of each prompt and its response together ``(N,)``; none is too long to be counted."""
        return [len(asked) + len(answer) for asked, answer in zip(*self.tokenise(prompts, responses), strict=True)]

    def tokenise(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the prompts and of the responses, each response with its end-of-sequence.

        Raises:
            DataError: If the two lists differ in length, or an entry is neither text nor conversation.
        """
        if isinstance(prompts, str) or isinstance(responses, str):
            raise DataError("expected lists of prompts and responses, found one text", "RewardModel")
        if len(prompts) != len(responses):
            hint = "Give one prompt per response; repeat a prompt that has several."
            raise DataError(f"{len(prompts)} prompts but {len(responses)} responses", "RewardModel", hint)
        conversations = [_conversation(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)]
        texts = [fields.text(response, f"responses[{i}]") for i, response in enumerate(responses)]
        asked, answers = self.renderer.rows_ids(conversations, texts)
        return asked, [self._read_part(ids) for ids in answers]

    def _read_part(self, ids: list[int]) -> list[int]:
        """A response up to the token at which the head reads it.

        A model of others is read as transformers reads it: at the last token that is not padding, even where padding
        is what ends a turn. Models that were trained here have a padding token that no text has.
        """
        stop = len(ids)
        while not self.network.looks_ahead and stop > 1 and ids[stop - 1] == self._config.pad_token_id:
            stop -= 1
        return ids[:stop]

    def _ask_texts(
        self, prompts: Sequence[Prompt], responses: Sequence[str], compute: Callable[[Sequences], Tensor]
    ) -> Tensor:
        asked, answers = self.tokenise(prompts, responses)
        length = torch.tensor([len(a) + len(b) for a, b in zip(asked, answers, strict=True)])
        self._check_positions(length, responses)

        def pick(rows: Tensor) -> Sequences:
            chosen = rows.tolist()
            return stack_sequences([asked[i] for i in chosen], [answers[i] for i in chosen], self.renderer.pad_id)

        return self._in_groups(length, [tuple(each) for each in asked], pick, compute)

    def _check_positions(self, length: Tensor, responses: Sequence[str]) -> None:
        limit = self.positions
        if limit is None or not len(length) or int(length.max()) <= limit:
            return
        row = int((length > limit).nonzero()[0])
        message = (
            f"prompt and response number {row} (counted from 0; {responses[row][:60]!r}) make {int(length[row])} tokens"
            f", the model has {limit} positions"
        )
        raise DataError(message, self.name or "RewardModel", "Leave long ones out: RewardModel.lengths tells which.")

    # ------------------------------------------------------------------ token ids

    def score_sequences(self, sequences: Sequences) -> Tensor:
        """Scores of rows that are token ids of this model's tokenizer already ``(N,)``."""
        return self._ask_rows(sequences, self.network)

    def sequence_features(self, sequences: Sequences) -> Tensor:
        """What the head reads of such rows ``(N, H)``."""
        return self._ask_rows(sequences, self.network.features)

    def _ask_rows(self, sequences: Sequences, compute: Callable[[Sequences], Tensor]) -> Tensor:
        last = sequences.ids.gather(1, sequences.length[:, None] - 1)
        padding = self._config.pad_token_id
        if padding is not None and bool((last == padding).any()):
            starts = sequences.prompt_length.tolist()
            prompts = [ids[:start] for ids, start in zip(sequences.ids.tolist(), starts, strict=True)]
            responses = [self._read_part(ids) for ids in sequences.response_lists()]
            sequences = stack_sequences(prompts, responses, self.renderer.pad_id).to(sequences.ids.device)
        rows = zip(sequences.ids.tolist(), sequences.prompt_length.tolist(), strict=True)
        return self._in_groups(
            sequences.length, [tuple(ids[:length]) for ids, length in rows], sequences.__getitem__, compute
        )

    @torch.no_grad()
    def _in_groups(
        self,
        length: Tensor,
        prompts: list[tuple[int, ...]],
        pick: Callable[[Tensor], Sequences],
        compute: Callable[[Sequences], Tensor],
    ) -> Tensor:
        """Compute rows in batches; the results keep the rows' order.

        Rows of one prompt go together where it is computed once for all of them, rows of similar length elsewhere.
        """
        device = self.network.head.weight.device
        if not len(length):
            return torch.zeros(0, device=device)
        order = length.argsort(stable=True)
        if self.network.packs:
            place = {prompt: number for number, prompt in reversed(list(enumerate(prompts)))}
            order = torch.tensor([place[prompt] for prompt in prompts]).argsort(stable=True)
        parts = [compute(pick(rows).to(device)) for rows in order.split(self.batch_size)]
        return torch.cat(parts)[order.argsort().to(device)]


READ_AT = "read_at"
"""What an exported model's config says of where its head reads: the end of what the chat template writes."""


def _renderer(network: RewardNetwork, tokenizer: str) -> Renderer:
    """A reward model's own way from text to ids.

    Args:
        network: The model.
        tokenizer: Directory or Hub id of its tokenizer.

    Raises:
        DataError: If the tokenizer cannot be loaded.
    """
    config = network.model.config
    ours = hasattr(config, "calibration")
    renderer = Renderer.load(tokenizer, exact=not ours)
    if not renderer.brings_template:
        rank_zero_warn(
            f"{tokenizer}: brings no chat template, so conversations are written as a transcript (Human: … "
            "Assistant: …). If its card says otherwise, put that into chat_template.jinja in its folder."
        )
    if ours and not hasattr(config, READ_AT):
        renderer.end_by_eos()
    return renderer


def _conversation(value: Any, name: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return fields.prompt(value, name)
    listed = list(value) if isinstance(value, Sequence) else value
    if isinstance(listed, list) and listed and all(isinstance(each, Message) for each in listed):
        return fields.ends_with_user(listed, name)
    return fields.ends_with_user(fields.messages(listed, name), name)
