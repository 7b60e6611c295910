"""A model that reads a question with an answer and writes a better answer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.data.batches import Sequences, pad_rows, stack_sequences
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.policy_network import PolicyNetwork, chosen_logprobs
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.networks.sharding import gathered


@dataclass
class Rewriting:
    """What a rewriter thinks of given target texts.

    Attributes:
        target: Token ids of the targets ``(N, T)``, padded on the right.
        mask: Real target tokens ``(N, T)``.
        logprobs: Log-probability of each target token, given those before it ``(N, T)``; meaningless at padding.
        predicted: The likeliest token in the place of each ``(N, T)``.
    """

    target: Tensor
    mask: Tensor
    logprobs: Tensor
    predicted: Tensor

    @property
    def matches(self) -> Tensor:
        """Where the likeliest token is the target's ``(N, T)``; False at padding."""
        return (self.predicted == self.target) & self.mask

    def __getitem__(self, rows: slice) -> "Rewriting":
        """A part of the rows."""
        return Rewriting(self.target[rows], self.mask[rows], self.logprobs[rows], self.predicted[rows])


class Rewriter(nn.Module):
    """Reads (prompt, response) and predicts a corrected response.

    A decoder reads question, answer and a marker, and goes on with the correction; an encoder–decoder reads question
    and answer, and decodes the correction.

    Source: Zhou et al. 2024, "Sequence to Sequence Reward Modeling" (arXiv 2409.00162).

    Args:
        path: Hugging Face directory or Hub id of a language model or an encoder–decoder.
        marker: Token ids between answer and correction, for decoders.
        pad_id: Fills rows up.

    Attributes:
        computes: What it computes beside ``forward``, see `lit_rlhf.networks.sharding.split`.
    """

    computes = ()

    def __init__(self, path: str, marker: list[int], pad_id: int) -> None:
        super().__init__()
        self.marker, self.pad_id = marker, pad_id
        model = load_model(path, "rewriter")
        self.is_encoder_decoder: bool = model.config.is_encoder_decoder
        if self.is_encoder_decoder:
            self.network: PolicyNetwork | None = None
            self.body: PreTrainedModel | None = model
        else:
            self.network, self.body = PolicyNetwork(model), None

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model."""
        return self.body if self.network is None else self.network.model  # type: ignore[return-value]

    def forward(self, asked: Sequences, targets: list[list[int]]) -> Rewriting:
        """Read N answers and look at N targets, teacher-forced, in one pass; an equal prompt is computed once.

        Args:
            asked: Prompts with the responses to be corrected, N rows.
            targets: Token ids of the texts whose likelihood is asked for; row i answers row i.
        """
        device = asked.ids.device
        target, lengths = (each.to(device) for each in pad_rows(targets, self.pad_id))
        mask = torch.arange(target.shape[1], device=device) < lengths[:, None]
        if self.network is not None:
            rows = stack_sequences(self._heads(asked), targets, self.pad_id).to(device)
            return Rewriting(target, mask, *self.network.predictions(rows, asked.prompt_length))
        model = self.model
        begin = torch.full_like(target[:, :1], model.config.decoder_start_token_id)  # type: ignore[arg-type]
        inputs = torch.cat([begin, target[:, :-1]], 1)  # (N, T): each token is predicted from those before it
        logits = model(input_ids=asked.ids, attention_mask=asked.mask, decoder_input_ids=inputs, use_cache=False).logits
        return Rewriting(target, mask, chosen_logprobs(logits.float(), target), logits.argmax(-1))

    @torch.no_grad()
    def correct(self, asked: Sequences, end_ids: list[int], max_new_tokens: int) -> list[list[int]]:
        """Write the likeliest corrections, token by token; for reading, rewards need none."""
        with gathered(self):
            return self._written(asked, end_ids, max_new_tokens)

    def _written(self, asked: Sequences, end_ids: list[int], max_new_tokens: int) -> list[list[int]]:
        if self.network is None:
            limits = {"max_new_tokens": max_new_tokens, "eos_token_id": end_ids, "pad_token_id": self.pad_id}
            ids = self.model.generate(asked.ids, attention_mask=asked.mask, do_sample=False, **limits)[:, 1:]  # type: ignore[operator]
            return [_until(row, end_ids) for row in ids.tolist()]
        prompts, lengths = (each.to(asked.ids.device) for each in pad_rows(self._heads(asked), self.pad_id))
        greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
        return sample(self.model, prompts, lengths, end_ids, greedy)[0].response_lists()

    def longest(self, prompt: int, answer: int, target: int) -> int:
        """Positions that a correction of these lengths takes."""
        return max(prompt + answer, target) if self.is_encoder_decoder else prompt + answer + len(self.marker) + target

    def _heads(self, asked: Sequences) -> list[list[int]]:
        """Question, answer and marker of every row."""
        rows = zip(asked.ids.tolist(), asked.length.tolist(), strict=True)
        return [ids[:length] + self.marker for ids, length in rows]


def correction_marker(renderer: Renderer, text: str | None) -> list[int]:
    """Token ids between an answer and its correction.

    Args:
        renderer: The tokenizer with its chat template.
        text: The marker as text; None takes what the template writes before an assistant's turn, as if the assistant
            answered once more.
    """
    return renderer.generation_ids if text is None else renderer.plain_ids(text)


def _until(ids: list[int], ends: list[int]) -> list[int]:
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: stop + 1]
