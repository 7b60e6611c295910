"""Rewards that vLLM computes: an exported reward model behind ``/classify`` or ``/pooling``."""

from typing import Any, Literal, Self

import torch

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.tool_turns import request
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.reward import through_text

_ENOUGH = 4  # raw scores of a reward model, which all lie between 0 and 1 by chance once in a hundred times at most


class VLLMReward(RemoteReward):
    """Raw scores of a sequence-classification model with one label that ``vllm serve`` runs.

    With ``tokenizer``, the server is sent token ids, made as `RewardModel` makes them, and the scores are those of
    ``RewardModel.score`` on the same folder, up to the server's precision; a response that was cut off has no end
    there either. Without it, the server is sent messages, one conversation in a question, and writes them by the
    template that it has: that is the recipe of a model card, and right as far as that template is.

    vLLM puts a sigmoid on the score unless it is told not to, takes a switch that it does not know without a word,
    and calls what it gives ``probs`` in either case. So the first question is asked with the activation off and on
    (``check``): scores that stay the same and all lie between 0 and 1 are refused. See docs/servers.md for versions.

    Args:
        endpoint: The server; its address ends before ``/classify``, and without ``/v1``.
        tokenizer: The reward model's Hugging Face directory or Hub id, or one that holds its tokenizer and template
            only; nothing else of it is read. None sends messages.
        model: The server's name for the reward model; None leaves it to a server of one model.
        form: Which of vLLM's two interfaces is asked.
        switch: What this version of vLLM calls the field that switches the activation off.
        check: See above; leave it out only where raw scores are known to lie between 0 and 1.
        name: See `RemoteReward`.
        scale: Factor on the scores.
        batch_size: Responses in one question of token ids; several questions are asked at a time.

    Raises:
        DataError: As for `RemoteReward`; if the server scores classes, tokens or probabilities; if nothing can be
            loaded from ``tokenizer``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tokenizer: str | None = None,
        model: str | None = None,
        form: Literal["classify", "pooling"] = "classify",
        switch: Literal["use_activation", "activation", "softmax"] = "use_activation",
        check: bool = True,
        name: str | None = None,
        scale: float = 1.0,
        batch_size: int = 16,
    ) -> None:
        super().__init__(endpoint, name, f"/{form}", scale, batch_size)
        self.tokenizer, self.model, self.form, self.switch, self.check = tokenizer, model, form, switch, check
        self._expected = f'{{"data": [{{"index": 0, "{self._field}": [one number]}}, …]}}, one entry per input'
        self._renderer: Renderer | None = None
        self._same_ids, self._unchecked = False, check
        if tokenizer is None:
            self.batch_size = 1

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Load the tokenizer; what was remembered is forgotten. The server is first asked about a response."""
        self._memory, self._unchecked = None, self.check
        written = "messages"
        if self.tokenizer is not None:
            self._renderer = Renderer.load(self.tokenizer)
            self._same_ids = self._renderer.fingerprint == renderer.fingerprint
            written = self._renderer.fingerprint
        server = self.name or " ".join(filter(None, [self._address, self.model]))
        self.fingerprint = f"vllm {server} of {written} x {self.scale:.6g}"
        return self

    def _question(self, part: Completions) -> dict[str, Any]:
        question: dict[str, Any] = {self.switch: False, "add_special_tokens": False}
        if self.model is not None:
            question["model"] = self.model
        if self.form == "pooling":
            question["task"] = "classify"  # one score per sequence, where the default may be one per token
        if self._renderer is None:
            return question | _conversation(part)
        sequences = part.sequences if self._same_ids else through_text(part, self._renderer)
        rows = zip(sequences.ids.tolist(), sequences.length.tolist(), strict=True)
        return question | {"input": [ids[:length] for ids, length in rows]}

    def _ask(self, completions: Completions, **fields: Any) -> list[float]:
        scores = super()._ask(completions, **fields)
        if self._unchecked and not fields:
            self._check_raw(scores, completions)
        return scores

    def _read(self, answer: Any) -> Any:
        entries = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            return None
        numbered = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("index"), int)]
        by_index = {entry["index"]: entry.get(self._field) for entry in numbered}
        if set(by_index) != set(range(len(entries))):
            return None
        return [self._number(by_index[index]) for index in range(len(entries))]

    def _number(self, values: Any) -> Any:
        if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):  # pooling may nest them
            values = values[0]
        if not isinstance(values, list) or len(values) == 1:
            return values[0] if isinstance(values, list) else values
        if values and isinstance(values[0], list):
            hint = 'Start it with --pooler-config \'{"pooling_type": "LAST"}\', or say form: classify.'
            raise DataError(f"scores each of {len(values)} tokens, not the response", self._address, hint)
        hint = "A reward model has one label: serve the exported folder as it is."
        raise DataError(f"gives {len(values)} numbers per response", self._address, hint)

    def _check_raw(self, scores: list[float], completions: Completions) -> None:
        """Refuse scores that may have gone through a sigmoid: they lie between 0 and 1, whatever the switch says."""
        if all(0.0 <= score <= 1.0 for score in scores):
            activated = self._ask(completions, **{self.switch: True})
            if torch.allclose(torch.tensor(scores), torch.tensor(activated), rtol=0.0, atol=1e-3):
                if len(scores) < _ENOUGH:
                    return
                message = f"all {len(scores)} scores lie between 0 and 1, with {self.switch} on and off: probabilities?"
                hint = (
                    "Name the switch that this version of vLLM knows, such as switch: activation, or say check: false "
                    "if these are raw scores."
                )
                raise DataError(message, self._address, hint)
        self._unchecked = False

    @property
    def _field(self) -> str:
        """What an entry of the answer calls its numbers."""
        return "probs" if self.form == "classify" else "data"


def _conversation(part: Completions) -> dict[str, Any]:
    """The one conversation of a part, with its answer, which stays open where it was cut off."""
    asked = request(part.records[0].prompt)
    return {
        **asked,
        "messages": [*asked["messages"], {"role": "assistant", "content": part.texts[0]}],
        "add_generation_prompt": False,
        "continue_final_message": bool(part.truncated[0]),
    }
