"""Random models and tokenizers of the bench."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lit_rlhf.data.rendering import TEMPLATES

SPECIAL = ("<pad>", "<unk>", "<eos>")
KINDS = 3
"""Kinds of words, see `_set_stopping`."""
_NEVER = -30.0


def word_tokenizer(size: int) -> Any:
    """One token for each of the words w3, w4, ..."""
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), size))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _tokenizer(core, "plain")


def trained_tokenizer(texts: Iterable[str], size: int) -> Any:
    """Byte pairs of real texts."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return _tokenizer(core, "dialogue")


def _tokenizer(core: Tokenizer, template: str) -> Any:
    pad, unk, eos = SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, unk_token=unk, eos_token=eos, chat_template=TEMPLATES[template]
    )


def random_model(kind: str, hidden: int, layers: int, vocabulary: int) -> Any:
    """A Llama with random weights, the same every time."""
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=-(-hidden * 43 // 16),  # 688 at 256: 8/3, rounded as Llama does
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 64),
        vocab_size=vocabulary,
        max_position_embeddings=1024,
        initializer_range=0.5 * hidden**-0.5,
        pad_token_id=0,
        bos_token_id=None,  # type: ignore[arg-type]
        eos_token_id=2,
        num_labels=1,  # type: ignore[call-arg]
    )
    torch.manual_seed(0)
    if kind.startswith("scalar"):
        return transformers.LlamaForSequenceClassification(config)
    model = transformers.LlamaForCausalLM(config)
    _set_stopping(model, mean=28.0 if kind == "policy_stops" else None)
    return model


@torch.no_grad()
def _set_stopping(model: Any, mean: float | None) -> None:
    """Give a random model answers of realistic lengths, or endless ones.

    The words fall into three kinds. After a word of one kind comes another of the same kind or, now and then, one of
    the next; after the last kind, the end. Three geometric lengths add up to one that is rarely very short or very
    long. The kind rides on three hidden units that nothing else writes to.
    """
    body, size = model.model, model.config.vocab_size
    kind = (torch.arange(size) - len(SPECIAL)).clamp(min=0) * KINDS // (size - len(SPECIAL))
    embedding = body.embed_tokens.weight
    embedding[:, :KINDS] = 2.0 * torch.nn.functional.one_hot(kind, KINDS)
    for layer in body.layers:
        layer.self_attn.o_proj.weight[:KINDS] = layer.mlp.down_proj.weight[:KINDS] = 0
    ids = torch.arange(len(SPECIAL), size)[torch.randperm(size - len(SPECIAL))[:256]].view(4, -1)
    strength = body(input_ids=ids).last_hidden_state[..., :KINDS].sum(-1).mean()
    stay = math.log(mean / KINDS - 1) if mean is not None else 0.0
    after = torch.full((size, KINDS), _NEVER)  # logit of each token, given the kind before it
    for stage in range(KINDS):
        after[kind == stage, stage] = stay
        after[kind == stage + 1, stage] = 0.0
    if mean is None:
        after[:] = 0.0
    after[: len(SPECIAL)] = _NEVER
    if mean is not None:
        after[2, -1] = math.log((size - len(SPECIAL)) / KINDS)  # one token against a third of all
    model.lm_head.weight[:, :KINDS] = after / strength
