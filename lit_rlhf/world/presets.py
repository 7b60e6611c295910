"""A word-level tokenizer for the world, and tiny Llama-style models to start from."""

import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_rlhf.data.errors import DataError
from lit_rlhf.world.families import FAMILIES
from lit_rlhf.world.families.facts import clause
from lit_rlhf.world.lexicon import (
    ADJECTIVES,
    CIRCUMSTANCES,
    FACTS,
    MOODS,
    NAMES,
    PERSONS,
    PLACES,
    PROBLEMS,
    SENTENCE_COUNTS,
    TIMES,
    TIP_COUNTS,
)
from lit_rlhf.world.text import SLOT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<unk>", "<system>", "<user>", "<assistant>", "<eos>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<eos>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "200k": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4},
    "1m": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
    "5m": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
}
MAX_LENGTH = 256  # tokens of prompt and response together
_PIECE = r" ?[A-Za-z]+|[^A-Za-z]"


@cache
def vocabulary() -> tuple[str, ...]:
    """Every token: special ones, then the words of the grammar with and without their leading space, sorted."""
    first: set[str] = set()  # words at the start of a text have no space before them
    inner: set[str] = set()
    for family in FAMILIES.values():
        for template, slots in (*family.forms, *_prompt_forms(family.name)):
            for index, piece in enumerate(SLOT.split(template)):
                for phrase in (piece,) if index % 2 == 0 else slots[piece]:
                    inner.update(re.findall(r"[A-Za-z]+|[^A-Za-z\s]", phrase))
            lead = SLOT.match(template)
            starts = slots[lead.group(1)] if lead else (template,)
            first.update(phrase.split()[0].rstrip(".,?!") for phrase in starts)
    marks = {word for word in inner if not word.isalpha()} | {" "}
    spaced = {f" {word}" for word in inner - marks}
    return (*SPECIAL_TOKENS, *sorted(marks | first | spaced))


def _prompt_forms(family: str) -> list[tuple[str, dict[str, tuple[str, ...]]]]:
    """Wordings of a family with the phrases of their slots."""
    stories = [f"I have {problem}" for problem in PROBLEMS]
    stories += [f"My {person} has" for person in PERSONS]
    stories += [f"and {text}" for one in CIRCUMSTANCES.values() for text in (one.first, one.third)]
    clauses = tuple(clause((kind, value)) for kind, (_, values) in FACTS.items() for value in values)
    slots = {
        "thing": (*PLACES, *ADJECTIVES),
        "mood": tuple(MOODS),
        "count": (*SENTENCE_COUNTS, *TIP_COUNTS),
        "story": tuple(stories),
        "facts": (*NAMES, *(f"{who} {text}." for who in ("He", "She") for text in clauses)),
        "name": tuple(NAMES),
        "deed": FAMILIES[family].topics,
        "person": tuple(PERSONS),
        "time": tuple(time.strip() for time in TIMES),
    }
    return [(wording, slots) for wording in FAMILIES[family].wordings]


@cache
def tokenizer() -> "PreTrainedTokenizerFast":
    """The world's tokenizer: one token per word with its leading space, punctuation apart, exact round trip."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary())}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def write_base_model(directory: str | Path, preset: str = "1m", seed: int = 0) -> Path:
    """Write an untrained model with its tokenizer as a Hugging Face directory, all or nothing.

    Args:
        directory: Where to; replaced if it is there and holds a model, refused if it holds something else.
        preset: One of `PRESETS`: about 50 thousand, 200 thousand, 1 million or 5 million parameters.
        seed: Of the random weights.

    Returns:
        The directory.

    Raises:
        DataError: No such preset, or the directory holds something else.
    """
    if preset not in PRESETS:
        raise DataError(f"no such preset: {preset!r}", "world model, preset", f"Choose one of {', '.join(PRESETS)}.")
    target = Path(directory)
    if target.exists() and any(target.iterdir()) and not (target / "config.json").exists():
        raise DataError("is not a model directory", str(target), "Choose a new or an empty directory.")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    shape = PRESETS[preset]
    settings: dict[str, Any] = {
        **shape,
        "vocab_size": len(words),
        "max_position_embeddings": MAX_LENGTH,
        "tie_word_embeddings": True,
        "initializer_range": 0.5
        * shape["hidden_size"] ** -0.5,  # the usual 0.02 is for wide models: slow at this width
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
    }
    config = LlamaConfig(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        model.save_pretrained(staging)
        words.save_pretrained(staging)
        staging.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
