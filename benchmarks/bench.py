"""The bench: sizes, random models that both sides load from one directory, and texts of given lengths."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.records import Message, Record, Source
from lit_rlhf.data.rendering import TEMPLATES
from lit_rlhf.networks.backbone import replace_directory

SPECIAL = ("<pad>", "<unk>", "<eos>")
_NEVER, _STAGES = -30.0, 3


@dataclass(frozen=True)
class Sizes:
    """How large models and work are.

    Attributes:
        hidden: Width of the models.
        layers: Blocks of the models.
        vocabulary: Tokens of the vocabulary.
        pairs: Pairs of made-up reward-model training.
        hh_pairs: Pairs of training on HH-RLHF.
        prompts: Prompts that are answered once, and k times.
        sequences: Sequences that are scored.
        rollout: Prompts of a PPO iteration.
        new_tokens: Most tokens of an answer.
        longest: Most tokens of a made-up sequence.
    """

    hidden: int = 256
    layers: int = 6
    vocabulary: int = 4096
    pairs: int = 256
    hh_pairs: int = 96
    prompts: int = 64
    sequences: int = 384
    rollout: int = 32
    new_tokens: int = 64
    longest: int = 256


QUICK = Sizes(32, 2, 512, pairs=32, hh_pairs=16, prompts=8, sequences=32, rollout=8, new_tokens=16, longest=64)


class Words(Source):
    """Made-up records of given lengths.

    Args:
        name: Also seeds the words.
        prompts: Tokens of each prompt.
        responses: Tokens of each chosen and rejected response, end-of-sequence included; None gives bare prompts.
        vocabulary: Words are drawn from its first third.
    """

    def __init__(self, name: str, prompts: list[int], responses: list[tuple[int, int]] | None, vocabulary: int) -> None:
        self.name, self.prompts, self.responses, self.vocabulary = name, prompts, responses, vocabulary

    def records(self) -> Iterator[Record]:
        """Yield the records."""
        draw, last = random.Random(self.name), len(SPECIAL) + (self.vocabulary - len(SPECIAL)) // _STAGES - 1

        def text(tokens: int) -> str:
            return " ".join(f"w{draw.randint(len(SPECIAL), last)}" for _ in range(tokens))

        for number, prompt in enumerate(self.prompts):
            messages = (Message("user", text(prompt)),)
            answers = [text(n - 1) for n in self.responses[number]] if self.responses is not None else [None, None]
            yield Record(messages, *answers, source=self.name, location=f"{self.name}:{number}")


class Bench:
    """Models and data of all rows.

    Args:
        folder: Where the models are written, once.
        quick: Toy sizes, to try the harness.
        hh: An HH-RLHF file of preference pairs, or a folder with such files; None or absent leaves rows out.
    """

    def __init__(self, folder: Path, quick: bool = False, hh: Path | None = None) -> None:
        self.folder, self.quick, self.hh = folder, quick, hh
        self.sizes = QUICK if quick else Sizes()

    # ------------------------------------------------------------------ data

    @cached_property
    def hh_files(self) -> list[str]:
        """Files of real pairs, or none."""
        if self.hh is None or not self.hh.exists():
            return []
        return sorted(map(str, self.hh.glob("hh_*_base.train.jsonl"))) if self.hh.is_dir() else [str(self.hh)]

    def lengths(self, n: int, seed: int) -> list[int]:
        """Lognormal around 64 tokens, between 16 and 256."""
        draw, longest = random.Random(seed), self.sizes.longest
        return [min(max(round(draw.lognormvariate(math.log(longest / 4), 0.7)), 16), longest) for _ in range(n)]

    def short_pairs(self, batch_size: int = 8) -> PreferenceDataModule:
        """Pairs that share a prompt of one token; the lengths of the two are independent."""
        n = self.sizes.pairs
        both = zip(self.lengths(n, 1), self.lengths(n, 2), strict=True)
        source = Words("short", [1] * n, [(a - 1, b - 1) for a, b in both], self.sizes.vocabulary)
        return self._data(source, "pairs", batch_size)

    def hh_pairs(self, batch_size: int = 8) -> PreferenceDataModule:
        """Real pairs, equally many from each file, at most 512 tokens long."""
        each = self.sizes.hh_pairs // len(self.hh_files)
        sources: list[str | Source] = [PairFiles(path, limit=2 * each, name=Path(path).stem) for path in self.hh_files]
        data = self._data(sources, "pairs", batch_size, self.model("scalar_hh"))
        rows = data.train_rows
        data.train_rows = [row for s in data.source_names for row in [r for r in rows if r.record.source == s][:each]]
        data.train_rows = data.train_rows[: len(data.train_rows) // batch_size * batch_size]
        return data

    def prompts(self, n: int, batch_size: int, name: str = "prompts") -> PreferenceDataModule:
        """Prompts of 16 to 64 tokens, evenly spread."""
        draw, longest = random.Random(name), self.sizes.longest // 4
        lengths = [draw.randint(min(16, longest // 2), longest) for _ in range(n)]
        return self._data(Words(name, lengths, None, self.sizes.vocabulary), "prompts", batch_size)

    def _data(self, source: Any, view: Any, batch_size: int, tokenizer: str | None = None) -> PreferenceDataModule:
        data = PreferenceDataModule(
            source,
            tokenizer=tokenizer or self.model("scalar"),
            val_fraction=0.0,
            batch_size=batch_size,
            val_batch_size=batch_size,
        )
        data.load(view)
        return data

    # ------------------------------------------------------------------ models

    def model(self, kind: str, hidden: int | None = None) -> str:
        """Directory of a random model, written when it is first asked for.

        Args:
            kind: ``scalar`` or ``scalar_hh`` (reward models; the latter's tokenizer is made from real pairs),
                ``policy`` (never ends its answers) or ``policy_stops``.
            hidden: Another width.
        """
        hidden = hidden or self.sizes.hidden
        target = self.folder / "models" / f"{kind}_{hidden}"
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            tokenizer = self._real_tokenizer() if kind == "scalar_hh" else self._word_tokenizer()
            tokenizer.save_pretrained(partial)
            _random_model(kind, hidden, self.sizes.layers, self.sizes.vocabulary).save_pretrained(partial)
            replace_directory(partial, target)
        return str(target)

    def _word_tokenizer(self) -> Any:
        words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), self.sizes.vocabulary))]
        core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return _tokenizer(core, "plain")

    def _real_tokenizer(self) -> Any:
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self.sizes.vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        records = (record for path in self.hh_files for record in PairFiles(path).records())
        texts = (text for record in records for text in (record.prompt[-1].content, record.chosen, record.rejected))
        core.train_from_iterator((text for text in texts if text), trainer)
        return _tokenizer(core, "dialogue")


def _tokenizer(core: Tokenizer, template: str) -> Any:
    pad, unk, eos = SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, unk_token=unk, eos_token=eos, chat_template=TEMPLATES[template]
    )


def _random_model(kind: str, hidden: int, layers: int, vocabulary: int) -> Any:
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
        num_labels=1,
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
    kind = (torch.arange(size) - len(SPECIAL)).clamp(min=0) * _STAGES // (size - len(SPECIAL))
    embedding = body.embed_tokens.weight
    embedding[:, :_STAGES] = 2.0 * torch.nn.functional.one_hot(kind, _STAGES)
    for layer in body.layers:
        layer.self_attn.o_proj.weight[:_STAGES] = layer.mlp.down_proj.weight[:_STAGES] = 0
    ids = torch.arange(len(SPECIAL), size)[torch.randperm(size - len(SPECIAL))[:256]].view(4, -1)
    strength = body(input_ids=ids).last_hidden_state[..., :_STAGES].sum(-1).mean()
    stay = math.log(mean / _STAGES - 1) if mean is not None else 0.0
    after = torch.full((size, _STAGES), _NEVER)  # logit of each token, given the kind before it
    for stage in range(_STAGES):
        after[kind == stage, stage] = stay
        after[kind == stage + 1, stage] = 0.0
    if mean is None:
        after[:] = 0.0
    after[: len(SPECIAL)] = _NEVER
    if mean is not None:
        after[2, -1] = math.log((size - len(SPECIAL)) / _STAGES)  # one token against a third of all
    model.lm_head.weight[:, :_STAGES] = after / strength
