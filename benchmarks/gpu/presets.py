"""The model that is measured, with random weights, and what it reads."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.preparation import View

_SPECIAL = ("<pad>", "<unk>", "<eos>")


@dataclass(frozen=True)
class Preset:
    """A Llama-shaped model, and how much work a measurement does. Every row is as long as the next: no padding.

    Attributes:
        hidden: Width.
        intermediate: Width of the feed-forward layers.
        layers: Their number.
        heads: Of the queries.
        kv_heads: Of keys and values.
        vocabulary: Tokens; input and output embeddings are one matrix.
        prompt: Tokens of a prompt.
        response: Tokens of a response, end-of-sequence included; also what a rollout draws at most.
        pairs: Per training step.
        rollouts: Prompts per rollout, and per iteration of PPO.
        minibatch: Responses per update of PPO.
        warmup: Steps that are not measured.
        steps: Steps that are.
        matrix: Side of the square matrices whose product sets the pace.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    prompt: int
    response: int
    pairs: int
    rollouts: int
    minibatch: int
    warmup: int
    steps: int
    matrix: int

    @property
    def row(self) -> int:
        """Tokens of a prompt with its response."""
        return self.prompt + self.response

    @property
    def body_weights(self) -> int:
        """Weights of the body's matrices; looking up an embedding costs no product, and a reward model has no other."""
        keys = 2 * self.hidden * self.hidden * self.kv_heads // self.heads
        return self.layers * (2 * self.hidden**2 + keys + 3 * self.hidden * self.intermediate)

    def training_flops(self, lora: bool) -> float:
        """Floating-point operations that a training step's mathematics needs, whatever else is computed.

        Two per weight and token on the way there, and two for each of the gradients: of the inputs, and of the
        weights unless these are frozen. Attention counts the half that a causal mask leaves: 2 S² H per row and layer,
        three times. Chowdhery et al. 2022 (arXiv 2204.02311), appendix B, with that half.
        """
        rows = 2 * self.pairs
        weights = 2 * self.body_weights * rows * self.row * (2 if lora else 3)
        attention = 2 * self.row**2 * self.hidden * self.layers * rows * 3
        return float(weights + attention)


PRESETS = {
    "1b": Preset(2048, 8192, 16, 32, 8, 128_256, 256, 256, 16, 64, 16, 5, 20, 8192),
    "tiny": Preset(32, 64, 2, 2, 1, 256, 8, 8, 2, 4, 2, 1, 2, 64),
}


def write_policy(directory: Path, preset: Preset, device: str) -> Path:
    """Write the language model, and a tokenizer whose every token is a word, as a Hugging Face directory."""
    words = _tokenizer(preset.vocabulary)
    config = LlamaConfig(
        hidden_size=preset.hidden,
        intermediate_size=preset.intermediate,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.kv_heads,
        vocab_size=preset.vocabulary,
        max_position_embeddings=4 * preset.row,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


def pairs(folder: Path, preset: Preset, steps: int) -> PreferenceDataModule:
    """Preference pairs of random words, read from a file as a user's would be."""
    draw = random.Random(0)
    kinds = {"prompt": preset.prompt, "chosen": preset.response - 1, "rejected": preset.response - 1}  # and the end
    rows = [{name: _text(draw, size, preset) for name, size in kinds.items()} for _ in range(preset.pairs * steps)]
    return _data(folder / "pairs.jsonl", rows, preset, preset.pairs, "pairs")


def prompts(folder: Path, preset: Preset, steps: int) -> PreferenceDataModule:
    """Prompts of random words."""
    draw = random.Random(1)
    rows = [{"prompt": _text(draw, preset.prompt, preset)} for _ in range(preset.rollouts * steps)]
    return _data(folder / "prompts.jsonl", rows, preset, preset.rollouts, "prompts")


def _data(file: Path, rows: list[dict[str, str]], preset: Preset, batch_size: int, view: View) -> PreferenceDataModule:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tokenizer = str(file.parent / "policy")
    return PreferenceDataModule(
        str(file), tokenizer=tokenizer, view=view, batch_size=batch_size, max_length=preset.row, val_fraction=0.0
    )


def _text(draw: random.Random, words: int, preset: Preset) -> str:
    return " ".join(f"w{draw.randrange(preset.vocabulary - len(_SPECIAL))}" for _ in range(words))


def _tokenizer(vocabulary: int) -> Any:
    tokens = [*_SPECIAL, *(f" w{number}" for number in range(vocabulary - len(_SPECIAL)))]
    core = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" \S+"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        chat_template="{% for message in messages %} {{ message.content }}{% endfor %}",
    )
